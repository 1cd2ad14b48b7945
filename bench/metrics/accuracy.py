"""How often the classifier is right: overall, per class, and which classes it confuses.

A sample without an answer (a file that cannot be decoded, a label of "uncertain") has the prediction -1 and is
wrong wherever it counts. What has no samples has the value None, never NaN and never 0; only inside arrays of counts,
where a bootstrap works on thousands of data sets at once, NaN stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NO_ANSWER = -1
"""Prediction of a sample that the classifier gave no class."""


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


def balanced_accuracy(y_true: np.ndarray, y_pred: np.ndarray, *, num_classes: int) -> float | None:
    """Mean recall of the classes that have samples, 0 to 1; None without samples.

    Args:
      y_true: (N,) integer, 0 to C - 1. True class indices.
      y_pred: (N,) integer, 0 to C - 1, or -1 for no answer. Predicted class indices.
      num_classes: C.

    Raises:
      ValueError: another shape, dtype or range, or lengths that differ.

    Source: Brodersen et al., The balanced accuracy and its posterior distribution, ICPR 2010; for C classes as in
    scikit-learn's balanced_accuracy_score.
    """
    value = float(balanced_accuracy_of(counts(y_true, y_pred, num_classes=num_classes)))
    return None if np.isnan(value) else value


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
    hits = np.bincount(bins, is_right, num_bins)
    n = len(confidences)

    def means(sums: np.ndarray) -> list[float | None]:
        return [float(total / size) if size else None for total, size in zip(sums, sizes, strict=True)]

    error = float(np.abs(hits - conf).sum() / n) if n else None  # |B_m| cancels
    return Calibration(error, n, edges, sizes.tolist(), means(conf), means(hits))


def counts(y_true: np.ndarray, y_pred: np.ndarray, *, num_classes: int) -> np.ndarray:
    """(C, C + 1) int64 counts: the confusion matrix, and a last column for samples without an answer.

    Everything but calibration follows from them, and with a leading axis for a whole bootstrap at once.

    Args:
      y_true: (N,) integer, 0 to C - 1. True class indices.
      y_pred: (N,) integer, 0 to C - 1, or -1 for no answer. Predicted class indices.
      num_classes: C.

    Raises:
      ValueError: another shape, dtype or range, or lengths that differ.
    """
    cells = cells_of(y_true, y_pred, num_classes=num_classes)
    size = num_classes * (num_classes + 1)
    return np.bincount(cells, minlength=size).astype(np.int64).reshape(num_classes, num_classes + 1)


def cells_of(y_true: np.ndarray, y_pred: np.ndarray, *, num_classes: int) -> np.ndarray:
    """(N,) int64, 0 to C (C + 1) - 1: which cell of `counts` each sample is in; arguments as there."""
    y_true, y_pred = _checked(y_true, y_pred, num_classes)
    return np.asarray(y_true * (num_classes + 1) + np.where(y_pred == NO_ANSWER, num_classes, y_pred))


def balanced_accuracy_of(counts: np.ndarray) -> np.ndarray:
    """(..., C, C + 1) counts -> (...) float, NaN without samples. See `balanced_accuracy`."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return mean_defined(ratio(hits, counts.sum(-1)))


def macro_f1_of(counts: np.ndarray) -> np.ndarray:
    """(..., C, C + 1) counts -> (...) float: mean F1 = 2 TP / (samples + predictions), NaN without samples.

    The mean is over classes that have samples or predictions.

    Source: Opitz and Burst, Macro F1 and macro F1, arXiv 1911.03347, equation 1 (the mean of F1, not the F1 of means).
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return mean_defined(ratio(2 * hits, counts.sum(-1) + counts[..., :-1].sum(-2)))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part` / `whole`, NaN where the whole is 0 or NaN."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    return ratio(np.asarray(np.nansum(values, -1)), np.asarray((~np.isnan(values)).sum(-1)))


def _checked(y_true: np.ndarray, y_pred: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as int64, or a ValueError that says which one is wrong."""
    if num_classes < 1:
        raise ValueError(f"num_classes: got {num_classes}, expected at least 1")
    for name, values, lowest in (("y_true", y_true, 0), ("y_pred", y_pred, NO_ANSWER)):
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name}: got {values.shape} {values.dtype}, expected (N,) integer")
        if values.size and not lowest <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"{name}: got {values.min()} to {values.max()}, expected {lowest} to {num_classes - 1}"
            )
    if len(y_true) != len(y_pred):
        raise ValueError(f"y_true and y_pred: got {len(y_true)} and {len(y_pred)} samples, expected equally many")
    return y_true.astype(np.int64), y_pred.astype(np.int64)
