"""Counts of images by group and class, and the rates that follow from them.

Letters: N[g, c] images of group g and class c, H[g, c] those classified rightly, Q[g, c] predictions of c in g;
N_g = sum_c N[g, c], acc_g = sum_c H[g, c] / N_g, acc = sum H / sum N. All functions keep the axes before the last
three, so that they work on thousands of resampled data sets at once.
"""

from __future__ import annotations

import numpy as np

from .accuracy import cells_of, ratio


def counts(
    y_true: np.ndarray, y_pred: np.ndarray, *, sensitive_features: np.ndarray, num_classes: int, num_groups: int
) -> np.ndarray:
    """(G, C, C + 1) int64: images by group, true class and predicted class; the last column is "no answer".

    Args:
      y_true: (N,) integer, 0 to C - 1. True class indices.
      y_pred: (N,) integer, 0 to C - 1, or -1 for no answer. Predicted class indices.
      sensitive_features: (N,) integer, 0 to G - 1. Group indices.
      num_classes: C.
      num_groups: G.

    Raises:
      ValueError: another shape, dtype or range, or lengths that differ.
    """
    size = num_classes * (num_classes + 1)
    cells = cells_of(y_true, y_pred, num_classes=num_classes)
    if sensitive_features.shape != cells.shape or not np.issubdtype(sensitive_features.dtype, np.integer):
        got = f"{sensitive_features.shape} {sensitive_features.dtype}"
        raise ValueError(f"sensitive_features: got {got}, expected {cells.shape} integer")
    if cells.size and not 0 <= sensitive_features.min() <= sensitive_features.max() < num_groups:
        got = f"{sensitive_features.min()} to {sensitive_features.max()}"
        raise ValueError(f"sensitive_features: got {got}, expected 0 to {num_groups - 1}")
    table = np.bincount(sensitive_features.astype(np.int64) * size + cells, minlength=num_groups * size)
    return table.astype(np.int64).reshape(num_groups, num_classes, num_classes + 1)


def hits(counts: np.ndarray) -> np.ndarray:
    """(..., G, C, C + 1) counts -> (..., G, C) integer: H[g, c]."""
    return np.diagonal(counts, axis1=-2, axis2=-1)


def accuracies(counts: np.ndarray) -> np.ndarray:
    """(..., G, C, C + 1) counts -> (..., G) float: acc_g."""
    return ratio(hits(counts).sum(-1), counts.sum((-2, -1)))


def accuracy(counts: np.ndarray) -> np.ndarray:
    """(..., G, C, C + 1) counts -> (...) float: acc, each image counted once (micro)."""
    return ratio(hits(counts).sum((-2, -1)), counts.sum((-3, -2, -1)))


def selection_rates(counts: np.ndarray) -> np.ndarray:
    """(..., G, C, C + 1) counts -> (..., G, C) float: P(y^ = c | g) = Q[g, c] / N_g."""
    return ratio(counts[..., :-1].sum(-2), counts.sum((-2, -1))[..., None])


def true_positive_rates(counts: np.ndarray) -> np.ndarray:
    """(..., G, C, C + 1) counts -> (..., G, C) float: P(y^ = c | y = c, g) = H[g, c] / N[g, c]."""
    return ratio(hits(counts), counts.sum(-1))


def false_positive_rates(counts: np.ndarray) -> np.ndarray:
    """(..., G, C, C + 1) counts -> (..., G, C) float: P(y^ = c | y != c, g)."""
    false = counts[..., :-1].sum(-2) - hits(counts)
    return ratio(false, counts.sum((-2, -1))[..., None] - counts.sum(-1))


def if_two(values: np.ndarray, groups: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """`values`, NaN where fewer than two groups are defined along `axis`."""
    return np.where(has_two(groups, axis), values, np.nan)


def has_two(groups: np.ndarray, axis: int) -> np.ndarray:
    """Whether at least two groups are defined along `axis`."""
    return np.asarray((~np.isnan(groups)).sum(axis) >= 2)


def largest(values: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """Largest value along `axis`, of those that are defined."""
    return np.asarray(np.fmax.reduce(values, axis))  # fmax: the NaN of an undefined group is not the largest


def smallest(values: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """Smallest value along `axis`, of those that are defined."""
    return np.asarray(np.fmin.reduce(values, axis))
