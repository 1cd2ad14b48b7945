"""Leakage: near-duplicates, cut clusters, shortcuts, and what a checkpoint was trained on."""
