"""Generated test photos."""
