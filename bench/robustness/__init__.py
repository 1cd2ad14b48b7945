"""Changes that must not change the answer, and what they cost."""
