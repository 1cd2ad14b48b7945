"""Counts of images by group and class, and the rates that follow from them.

Letters: N[g, c] images of group g and class c, H[g, c] those classified rightly, Q[g, c] predictions of c in g;
N_g = sum_c N[g, c], acc_g = sum_c H[g, c] / N_g, acc = sum H / sum N. All functions keep the axes before the last
three, so that they work on thousands of resampled data sets at once. NaN stands for "not defined".
"""

from __future__ import annotations

import numpy as np

NO_ANSWER = -1
"""Prediction of a sample that the classifier gave no class (a broken file, "uncertain"): wrong wherever it counts."""


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
    shape = (num_groups, num_classes, num_classes + 1)
    cells = cells_of(
        y_true, y_pred, sensitive_features=sensitive_features, num_classes=num_classes, num_groups=num_groups
    )
    return np.bincount(cells, minlength=int(np.prod(shape))).astype(np.int64).reshape(shape)


def cells_of(
    y_true: np.ndarray, y_pred: np.ndarray, *, sensitive_features: np.ndarray, num_classes: int, num_groups: int
) -> np.ndarray:
    """(N,) int64: which cell of the flattened `counts` each sample is in; arguments and errors as there."""
    if num_classes < 1:
        raise ValueError(f"num_classes: got {num_classes}, expected at least 1")
    for name, values, lowest, end in (
        ("y_true", y_true, 0, num_classes),
        ("y_pred", y_pred, NO_ANSWER, num_classes),
        ("sensitive_features", sensitive_features, 0, num_groups),
    ):
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name}: got {values.shape} {values.dtype}, expected (N,) integer")
        if values.size and not lowest <= values.min() <= values.max() < end:
            raise ValueError(f"{name}: got {values.min()} to {values.max()}, expected {lowest} to {end - 1}")
    if len(y_true) != len(y_pred):
        raise ValueError(f"y_true and y_pred: got {len(y_true)} and {len(y_pred)} samples, expected equally many")
    if sensitive_features.shape != y_true.shape:
        got = f"{sensitive_features.shape} {sensitive_features.dtype}"
        raise ValueError(f"sensitive_features: got {got}, expected {y_true.shape} integer")
    group, truth, answer = (values.astype(np.int64) for values in (sensitive_features, y_true, y_pred))
    answer = np.where(answer == NO_ANSWER, num_classes, answer)
    return np.asarray((group * num_classes + truth) * (num_classes + 1) + answer)


def hits(counts: np.ndarray) -> np.ndarray:
    """(..., C, C + 1) counts -> (..., C) integer: H[g, c]."""
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
    """(..., C, C + 1) counts -> (..., C) float: P(y^ = c | y = c, g) = H[g, c] / N[g, c]."""
    return ratio(hits(counts), counts.sum(-1))


def false_positive_rates(counts: np.ndarray) -> np.ndarray:
    """(..., G, C, C + 1) counts -> (..., G, C) float: P(y^ = c | y != c, g)."""
    false = counts[..., :-1].sum(-2) - hits(counts)
    return ratio(false, counts.sum((-2, -1))[..., None] - counts.sum(-1))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part` / `whole`, NaN where the whole is 0 or NaN."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    return ratio(np.asarray(np.nansum(values, -1)), np.asarray((~np.isnan(values)).sum(-1)))


def has_two(groups: np.ndarray, axis: int) -> np.ndarray:
    """Whether at least two groups are defined along `axis`."""
    return np.asarray((~np.isnan(groups)).sum(axis) >= 2)


def if_two(values: np.ndarray, groups: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """`values`, NaN where fewer than two groups are defined along `axis`."""
    return np.where(has_two(groups, axis), values, np.nan)


def largest(values: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """Largest value along `axis`, of those that are defined."""
    return np.asarray(np.fmax.reduce(values, axis))  # fmax: the NaN of an undefined group is not the largest


def smallest(values: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """Smallest value along `axis`, of those that are defined."""
    return np.asarray(np.fmin.reduce(values, axis))
