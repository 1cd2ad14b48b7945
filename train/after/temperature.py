"""One temperature for the logits of a trained network, fitted to its answers on held-out images.

It lets softmax say how often the answer is right, and moves no answer. A folded cosine head needs it most: its logits
are the cosines times the length of the feature, whose scale nothing in training fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.dataset import Sample
from bench.metrics.counts import calibration

from ..data.folds import make_folds

_RANGE = 50.0  # factors from the spread of the logits to the temperature: beyond, all is certain or all equal
_NUM_HALVINGS = 60
_NUM_FOLDS = 5


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T for which softmax(logits / T) makes the labels likeliest.

    The negative log-likelihood is convex in 1 / T, so its derivative changes its sign once, and halving cannot fail.
    Where every answer is right there is no best T, the smaller the likelier; where all are wrong, the larger. There T
    is the spread of the logits over or times 50, so that T grows with the logits everywhere. It is 1 where all are
    alike.

    Args:
      logits: (N, C) float, finite. Of images that the network was not trained on, N at least 1.
      labels: (N,) integer, 0 to C - 1.

    Raises:
      ValueError: another shape, dtype or range.

    Source: Guo et al., On calibration of modern neural networks, arXiv 1706.04599, section 4.2.
    """
    check_arrays(logits, labels)
    num_classes = logits.shape[1]
    if not np.issubdtype(labels.dtype, np.integer) or not 0 <= labels.min() <= labels.max() < num_classes:
        got = f"{labels.dtype} {labels.min()} to {labels.max()}"
        raise ValueError(f"labels: got {got}, expected integers from 0 to {num_classes - 1}")
    centred = logits.astype(np.float64)
    centred -= centred.mean(axis=1, keepdims=True)  # softmax does not see the difference
    spread = float(np.sqrt(np.mean(centred**2)))
    if spread == 0:
        return 1.0
    true = centred[np.arange(len(labels)), labels].mean()
    low, high = np.log(spread / _RANGE), np.log(spread * _RANGE)
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        expected = (softmax(centred / np.exp(middle)) * centred).sum(axis=1).mean()
        # The likelihood rises with T where the logits expected under softmax exceed those of the labels.
        low, high = (middle, high) if expected > true else (low, middle)
    return float(np.exp((low + high) / 2))


def cross_fit(logits: np.ndarray, samples: Sequence[Sample], labels: np.ndarray) -> np.ndarray:
    """(N,) float64: for each of N images a temperature fitted without its cluster's fold; of 5 clusters at least."""
    fold_of = make_folds(samples, num_folds=_NUM_FOLDS)
    fold = np.array([fold_of[sample.path] for sample in samples])
    temperatures = np.empty(len(samples))
    for index in range(_NUM_FOLDS):
        temperatures[fold == index] = fit_temperature(logits[fold != index], labels[fold != index])
    return temperatures


def describe_fit(logits: np.ndarray, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
    """Fits a temperature to (N, C) logits, and measures what it is worth on images that it is not fitted on.

    Returns:
      JSON-ready: `temperature`, fitted on all images; `n`; `nll` and `ece` (`before`: at temperature 1; `after`:
      cross-fitted over folds that cut no cluster); `ece_by_group`, the same with each group's `n`. The error is never
      negative, so a small group shows some by chance alone.

    Raises:
      DatasetError: fewer than 5 clusters.
      ValueError: as `fit_temperature`, or a label that is no class.
    """
    index = {name: i for i, name in enumerate(classes)}
    if unknown := sorted({sample.label for sample in samples} - {*index}):
        raise ValueError(f"labels: got {unknown[0]!r}, expected one of {', '.join(classes)}")
    labels = np.array([index[sample.label] for sample in samples], np.int64)
    temperature = fit_temperature(logits, labels)
    after = softmax(logits / cross_fit(logits, samples, labels)[:, None])
    answers = {"before": softmax(logits), "after": after}
    groups = np.array([sample.group for sample in samples])

    def nll(p: np.ndarray) -> float:
        likelihoods = p[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(likelihoods, np.finfo(np.float64).tiny)).mean())  # one may underflow

    def ece(chosen: np.ndarray) -> dict[str, float | None]:
        return {
            name: calibration(p[chosen].max(axis=1), p[chosen].argmax(axis=1) == labels[chosen]).error
            for name, p in answers.items()
        }

    return {
        "temperature": temperature,
        "n": len(samples),
        "nll": {name: nll(p) for name, p in answers.items()},
        "ece": ece(np.ones(len(samples), bool)),
        "ece_by_group": {
            str(name): {"n": int((groups == name).sum()), **ece(groups == name)} for name in np.unique(groups)
        },
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, C) float -> (N, C) float64 probabilities, at temperature 1."""
    logits = logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def check_arrays(x: np.ndarray, *others: np.ndarray) -> None:
    """Raises ValueError unless the first is (N, C), N at least 1, and finite, and the others are (N,)."""
    if x.ndim != 2 or not x.size or any(other.shape != (len(x),) for other in others):
        shapes = ", ".join(str(array.shape) for array in (x, *others))
        raise ValueError(f"got arrays {shapes}, expected (N, C), N at least 1, and (N,)")
    if not np.isfinite(x).all():
        raise ValueError("got values that are not finite")
