"""Counts of images by group, true class and predicted class, and the rates that follow from them.

Letters: N[g, c] images of group g and class c, H[g, c] those classified rightly, Q[g, c] predictions of c in g;
N_g = sum_c N[g, c], acc_g = sum_c H[g, c] / N_g, acc = sum H / sum N. Counts are (..., G, C, C + 1), or (..., C, C + 1)
of one group; the last column is "no answer". All functions keep the axes before, so that they work on thousands of
resampled data sets at once. NaN stands for "not defined".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NO_ANSWER = -1
"""Prediction of a sample that the classifier gave no class (a broken file, "uncertain"): wrong wherever it counts."""

EDGES = [m / 15 for m in range(16)]
"""Bounds of the M = 15 bins of confidence; one on a bound belongs to the bin below."""


def hits(counts: np.ndarray) -> np.ndarray:
    """(..., C) integer: H[g, c]."""
    return np.diagonal(counts, axis1=-2, axis2=-1)


def accuracies(counts: np.ndarray) -> np.ndarray:
    """(..., G) float: acc_g."""
    return ratio(hits(counts).sum(-1), counts.sum((-2, -1)))


def accuracy(counts: np.ndarray) -> np.ndarray:
    """(...) float: acc, each image of all groups counted once (micro)."""
    return ratio(hits(counts).sum((-2, -1)), counts.sum((-3, -2, -1)))


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """(...) float: mean recall of the classes that have samples; counts of one group.

    Source: Brodersen et al., The balanced accuracy and its posterior distribution, ICPR 2010; for C classes as in
    scikit-learn's balanced_accuracy_score.
    """
    return mean_defined(true_positive_rates(counts))


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """(...) float: mean F1 = 2 TP / (samples + predictions) of the classes that have either; counts of one group.

    Source: Opitz and Burst, Macro F1 and macro F1, arXiv 1911.03347, equation 1 (the mean of F1, not the F1 of means).
    """
    return mean_defined(ratio(2 * hits(counts), counts.sum(-1) + counts[..., :-1].sum(-2)))


def selection_rates(counts: np.ndarray) -> np.ndarray:
    """(..., G, C) float: P(y^ = c | g) = Q[g, c] / N_g."""
    return ratio(counts[..., :-1].sum(-2), counts.sum((-2, -1))[..., None])


def true_positive_rates(counts: np.ndarray) -> np.ndarray:
    """(..., C) float: P(y^ = c | y = c, g) = H[g, c] / N[g, c]."""
    return ratio(hits(counts), counts.sum(-1))


def false_positive_rates(counts: np.ndarray) -> np.ndarray:
    """(..., G, C) float: P(y^ = c | y != c, g)."""
    false = counts[..., :-1].sum(-2) - hits(counts)
    return ratio(false, counts.sum((-2, -1))[..., None] - counts.sum(-1))


# By confidence


class Calibration(NamedTuple):
    """The error, 0 to 1, and of each bin its samples, mean confidence and accuracy; None for what has no samples."""

    error: float | None
    sizes: list[int]
    confidences: list[float | None]
    accuracies: list[float | None]


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


# What is not defined


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part` / `whole`, NaN where the whole is 0 or NaN."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is defined."""
    return ratio(np.asarray(np.nansum(values, -1)), np.asarray((~np.isnan(values)).sum(-1)))


def if_two(values: np.ndarray, groups: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """`values`, NaN where fewer than two groups are defined along `axis`."""
    return np.where((~np.isnan(groups)).sum(axis) >= 2, values, np.nan)


def largest(values: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """Largest of what is defined along `axis`."""
    return np.asarray(np.fmax.reduce(values, axis))  # fmax: the NaN of an undefined group is not the largest


def smallest(values: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """Smallest of what is defined along `axis`."""
    return np.asarray(np.fmin.reduce(values, axis))
