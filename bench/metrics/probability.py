"""How far a classifier's confidence is from its accuracy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

EDGES = [m / 15 for m in range(16)]
"""Bounds of the M = 15 bins of confidence; one on a bound belongs to the bin below."""


class Calibration(NamedTuple):
    """Confidence and accuracy, bin by bin; None for what has no samples."""

    error: float | None
    """Expected calibration error, 0 to 1."""
    sizes: list[int]
    """Samples of each bin."""
    confidences: list[float | None]
    """Mean confidence of each bin."""
    accuracies: list[float | None]
    """Accuracy of each bin."""


def calibration(confidences: np.ndarray, is_right: np.ndarray) -> Calibration:
    """Expected calibration error: sum_m |B_m| / N * |acc(B_m) - conf(B_m)| over bins of equal width.

    Never negative, so noise raises it: a small group looks worse calibrated than a large one.

    Args:
      confidences: (N,) float, 0 to 1. Probability of the predicted class.
      is_right: (N,) bool. Whether it is the true class.

    Source: Guo et al., On calibration of modern neural networks, arXiv 1706.04599, equation 3, with M = 15 as there.
    """
    bins, num_bins = np.searchsorted(EDGES[1:-1], confidences, side="left"), len(EDGES) - 1
    sizes = np.bincount(bins, minlength=num_bins)
    conf = np.bincount(bins, confidences, num_bins)
    right = np.bincount(bins, is_right, num_bins)

    def means(sums: np.ndarray) -> list[float | None]:
        return [float(total / size) if size else None for total, size in zip(sums, sizes, strict=True)]

    n = len(confidences)
    error = float(np.abs(right - conf).sum() / n) if n else None  # |B_m| cancels
    return Calibration(error, sizes.tolist(), means(conf), means(right))
