"""Metrics and their intervals: accuracy, fairness, the contest's score."""
