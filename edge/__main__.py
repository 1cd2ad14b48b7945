"""edge-infer, also as `python -m edge`."""

from .exit import start


def main() -> int:
    """Runs the command; returns its exit status."""
    return start("edge-infer", "edge.cli")


if __name__ == "__main__":
    raise SystemExit(main())
