"""edge-submit, also as `python -m export.submission`."""

from edge.exit import start


def main() -> int:
    """Runs the command; returns its exit status."""
    return start("edge-submit", "export.submission.cli")


if __name__ == "__main__":
    raise SystemExit(main())
