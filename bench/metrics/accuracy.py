"""How often the classifier is right: overall, per class, and which classes it confuses.

What has no samples has the value None, never NaN and never 0; only inside arrays of counts, where a bootstrap works on
thousands of data sets at once, NaN stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .counts import hits, mean_defined, ratio, true_positive_rates


@dataclass(frozen=True)
class Calibration:
    """How far confidence is from accuracy, bin by bin."""

    error: float | None
    """Expected calibration error, 0 to 1; None without samples."""
    n: int
    """Number of samples."""
    edges: list[float]
    """M + 1 bounds of the bins, from 0 to 1; a confidence on a bound belongs to the bin below."""
    sizes: list[int]
    """Samples of each bin."""
    confidences: list[float | None]
    """Mean confidence of each bin; None where it is empty."""
    accuracies: list[float | None]
    """Accuracy of each bin; None where it is empty."""


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """(..., C, C + 1) counts -> (...) float: mean recall of the classes that have samples, NaN without samples.

    Source: Brodersen et al., The balanced accuracy and its posterior distribution, ICPR 2010; for C classes as in
    scikit-learn's balanced_accuracy_score.
    """
    return mean_defined(true_positive_rates(counts))


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """(..., C, C + 1) counts -> (...) float: mean F1 = 2 TP / (samples + predictions), NaN without samples.

    The mean is over classes that have samples or predictions.

    Source: Opitz and Burst, Macro F1 and macro F1, arXiv 1911.03347, equation 1 (the mean of F1, not the F1 of means).
    """
    return mean_defined(ratio(2 * hits(counts), counts.sum(-1) + counts[..., :-1].sum(-2)))


def calibration(confidences: np.ndarray, is_right: np.ndarray, *, num_bins: int = 15) -> Calibration:
    """Expected calibration error: sum_m |B_m| / N * |acc(B_m) - conf(B_m)| over bins of equal width.

    Never negative, so noise raises it: a small group looks worse calibrated than a large one.

    Args:
      confidences: (N,) float, 0 to 1. Probability of the predicted class.
      is_right: (N,) bool. Whether it is the true class.
      num_bins: M.

    Raises:
      ValueError: another shape or range, or lengths that differ.

    Source: Guo et al., On calibration of modern neural networks, arXiv 1706.04599, equation 3, with M = 15 as there.
    """
    if confidences.shape != is_right.shape or confidences.ndim != 1:
        raise ValueError(f"got {confidences.shape} confidences and {is_right.shape} is_right, expected (N,) twice")
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError(f"confidences: got {confidences.min()} to {confidences.max()}, expected 0 to 1")
    edges = [m / num_bins for m in range(num_bins + 1)]
    bins = np.searchsorted(edges[1:-1], confidences, side="left")
    sizes = np.bincount(bins, minlength=num_bins)
    conf = np.bincount(bins, confidences, num_bins)
    right = np.bincount(bins, is_right, num_bins)
    n = len(confidences)

    def means(sums: np.ndarray) -> list[float | None]:
        return [float(total / size) if size else None for total, size in zip(sums, sizes, strict=True)]

    error = float(np.abs(right - conf).sum() / n) if n else None  # |B_m| cancels
    return Calibration(error, n, edges, sizes.tolist(), means(conf), means(right))
