"""edge-train, also as `python -m train`."""

from edge.exit import start


def main() -> int:
    """Runs the command; returns its exit status."""
    return start("edge-train", "train.cli")


if __name__ == "__main__":
    raise SystemExit(main())
