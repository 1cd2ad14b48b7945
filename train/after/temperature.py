"""One temperature for the logits, so that softmax says how often the answer is right.

It moves no answer. A folded cosine head needs it most: its logits are the cosines times the length of the feature,
whose scale nothing in training fixed. It must be fitted on images held out, and the error that stays must be measured
on images that it was not fitted on either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.dataset import Sample
from bench.metrics.probability import calibration

from ..data.folds import make_folds

_RANGE = 50.0
"""How far, in factors, the temperature may be from the spread of the logits: beyond, all is certain or all equal."""

_NUM_HALVINGS = 60

_NUM_FOLDS = 5


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T for which softmax(logits / T) makes the labels likeliest.

    The negative log-likelihood is convex in 1 / T, so its derivative changes its sign once, and halving cannot fail.
    Where every answer is right there is no best T, the smaller the likelier; where all are wrong, the larger. There T
    is the spread of the logits over or times 50, so that T grows with the logits everywhere.

    Args:
      logits: (N, C) float, finite. Of images that the network was not trained on, N at least 1.
      labels: (N,) integer, 0 to C - 1.

    Returns:
      Above 0. 1 where the logits do not tell the classes apart at all.

    Raises:
      ValueError: another shape, dtype or range.

    Source: Guo et al., On calibration of modern neural networks, arXiv 1706.04599, section 4.2.
    """
    logits = _checked(logits, labels)
    centred = logits - logits.mean(axis=1, keepdims=True)  # (N, C); softmax does not see the difference
    spread = float(np.sqrt(np.mean(centred**2)))
    if spread == 0:
        return 1.0
    true = centred[np.arange(len(labels)), labels]  # (N,)

    def is_too_low(log_temperature: float) -> bool:
        """Whether the likelihood rises with T: the logits expected under softmax exceed those of the labels."""
        expected = (softmax(centred / np.exp(log_temperature)) * centred).sum(axis=1)
        return bool(expected.mean() > true.mean())

    low, high = np.log(spread / _RANGE), np.log(spread * _RANGE)
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        if is_too_low(middle):
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def cross_fit(logits: np.ndarray, samples: Sequence[Sample], labels: np.ndarray) -> np.ndarray:
    """For each image a temperature fitted without its cluster's fold.

    Args:
      logits: (N, C) float, finite.
      samples: (N,) the images.
      labels: (N,) integer, 0 to C - 1.

    Returns:
      (N,) float64.

    Raises:
      DatasetError: fewer than 5 clusters.
      ValueError: another shape, dtype or range.
    """
    fold_of = make_folds(samples, num_folds=_NUM_FOLDS)
    fold = np.array([fold_of[sample.path] for sample in samples])
    temperatures = np.empty(len(samples))
    for index in range(_NUM_FOLDS):
        temperatures[fold == index] = fit_temperature(logits[fold != index], labels[fold != index])
    return temperatures


def describe_fit(logits: np.ndarray, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
    """Fits a temperature, and says what it is worth on images that it is not fitted on.

    Args:
      logits: (N, C) float, finite. Of images that the network was not trained on.
      samples: (N,) those images.
      classes: (C,) names in the order of the logits, all labels among them.

    Returns:
      JSON-ready: `temperature`, fitted on all images; `n`; `nll` and `ece` (`before`: at temperature 1; `after`:
      cross-fitted over folds that cut no cluster); `ece_by_group`, the same with each group's `n`. The error is never
      negative, so a small group shows some by chance alone.

    Raises:
      DatasetError: fewer than 5 clusters.
      ValueError: another shape, dtype or range, or a label that is no class.
    """
    index = {name: i for i, name in enumerate(classes)}
    if unknown := sorted({sample.label for sample in samples} - {*index}):
        raise ValueError(f"labels: got {unknown[0]!r}, expected one of {', '.join(classes)}")
    labels = np.array([index[sample.label] for sample in samples], np.int64)
    after = softmax(logits / cross_fit(logits, samples, labels)[:, None])  # checks the logits
    answers = {"before": softmax(_checked(logits, labels)), "after": after}
    groups = np.array([sample.group for sample in samples])

    def ece(chosen: np.ndarray) -> dict[str, float | None]:
        return {
            name: calibration(p[chosen].max(axis=1), p[chosen].argmax(axis=1) == labels[chosen]).error
            for name, p in answers.items()
        }

    return {
        "temperature": fit_temperature(logits, labels),
        "n": len(samples),
        "nll": {name: _negative_log_likelihood(p, labels) for name, p in answers.items()},
        "ece": ece(np.ones(len(samples), bool)),
        "ece_by_group": {
            str(name): {"n": int((groups == name).sum()), **ece(groups == name)} for name in np.unique(groups)
        },
    }


def _negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p of the labels; a probability that underflowed counts as the smallest there is."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, C) float -> (N, C) float64 probabilities, at temperature 1."""
    logits = logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _checked(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The logits as float64, or a ValueError."""
    if logits.ndim != 2 or labels.shape != (len(logits),) or not logits.size:
        raise ValueError(f"got logits {logits.shape} and labels {labels.shape}, expected (N, C) and (N,), N at least 1")
    if not np.isfinite(logits).all():
        raise ValueError("logits: got values that are not finite")
    num_classes = logits.shape[1]
    if not np.issubdtype(labels.dtype, np.integer) or not 0 <= labels.min() <= labels.max() < num_classes:
        got = f"{labels.dtype} {labels.min()} to {labels.max()}"
        raise ValueError(f"labels: got {got}, expected integers from 0 to {num_classes - 1}")
    return np.asarray(logits, np.float64)
