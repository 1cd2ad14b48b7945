"""edge-bench, also as `python -m bench`."""

from edge.exit import start


def main() -> int:
    """Runs the command; returns its exit status."""
    return start("edge-bench", "bench.cli")


if __name__ == "__main__":
    raise SystemExit(main())
