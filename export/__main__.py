"""edge-export, also as `python -m export`."""

from edge.exit import start


def main() -> int:
    """Runs the command; returns its exit status."""
    return start("edge-export", "export.cli")


if __name__ == "__main__":
    raise SystemExit(main())
