"""What is fitted to the answers of a trained network: a temperature, a prior correction, a last layer.

One temperature for the logits lets softmax say how often the answer is right. It moves no answer. A folded cosine head
needs it most: its logits are the cosines times the length of the feature, whose scale nothing in training fixed.

A prior correction is one number times the log shares of the classes, added to the logits: how much more the network
shall expect the common classes. It tunes the accuracy: say so beside every figure made with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from bench.dataset import Sample
from bench.metrics.counts import calibration
from bench.metrics.fairness import MIN_CELL

from ..data.folds import make_folds

_RANGE = 50.0  # factors from the spread of the logits to the temperature: beyond, all is certain or all equal
_NUM_HALVINGS = 60
_NUM_FOLDS = 5
_TAUS = sorted((np.arange(-64, 65) / 16).tolist(), key=abs)
"""At 1 a network that was taught all classes equally often expects them as often as they come, at -1 one that was
taught them as they come expects them equally often; a head that is too sure of itself needs more."""
_NEARLY_CONSTANT = 1e-4  # of the largest standard deviation of a feature: those below are left out of a new last layer


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
    _check(logits, labels)
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


@dataclass(frozen=True)
class PriorCorrection:
    """The number, and what it is worth."""

    tau: float  # 0 changes nothing; fitted on all images
    offsets: np.ndarray  # (C,) float64, sum 0: tau times the log shares of the classes, to be added to the logits
    before: float  # accuracy of the predictions as they were
    after: float  # where each fold is predicted with the number fitted on the others: the honest figure


def fit_prior(
    log_probabilities: np.ndarray, labels: np.ndarray, folds: np.ndarray, *, l2: float = 1e-3
) -> PriorCorrection:
    """Fits the number that makes most answers right.

    Args:
      log_probabilities: (N, C) float64, finite. OUT-OF-FOLD, of networks that have not seen the image: a network is so
        sure of its own training images that nothing moves them.
      labels: (N,) integer, 0 to C - 1. A class without images keeps its place among the others.
      folds: (N,) integer. Of the nested estimate: `after` is measured on folds that the number is not fitted on.
      l2: Price of the squared offsets, in units of the accuracy. Where nothing is to be gained, noise gets fitted.

    Raises:
      ValueError: one fold, other shapes, or values that are not finite.

    Source: Menon et al., Long-tail learning via logit adjustment, 2020, arXiv 2007.07314, section 4.1. Differs: tau is
    fitted to the accuracy, not set for the balanced one.
    """
    x, y = log_probabilities, labels.astype(np.int64)
    _check(x, labels, folds)
    if len(names := np.unique(folds)) < 2:
        raise ValueError(f"folds: got {names.tolist()}, expected two at least: each is predicted by what others give")
    is_right = np.empty(len(x), bool)
    for name in names:
        own = folds == name
        _, offsets = _best(x[~own], y[~own], l2)
        is_right[own] = (x[own] + offsets).argmax(-1) == y[own]
    tau, offsets = _best(x, y, l2)
    return PriorCorrection(tau, offsets, float((x.argmax(-1) == y).mean()), float(is_right.mean()))


def _best(x: np.ndarray, y: np.ndarray, l2: float) -> tuple[float, np.ndarray]:
    """The number and its (C,) float64 offsets; of equally good ones the smallest."""
    support = np.bincount(y, minlength=x.shape[1])
    log_shares = np.log(np.maximum(support, 1))
    log_shares[support == 0] = log_shares[support > 0].mean()  # of an absent class nothing is known: it stays between
    log_shares -= log_shares.mean()
    price = l2 * float(np.square(log_shares).sum())

    def value(tau: float) -> float:
        return float(((x + tau * log_shares).argmax(-1) == y).mean()) - price * tau**2

    tau: float = max(_TAUS, key=value)
    return tau, np.asarray(tau * log_shares)


def refit_last_layer(
    embeddings: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    num_classes: int,
    l2: float = 0.1,
    num_refits: int = 20,
    seed: int = 0,
    balance: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Fits the last layer anew; the rest of the network stays.

    Balanced, every class and group counts the same: each refit is a logistic regression on as many images of every
    class x group cell as the smallest has, drawn at random; the mean of the layers has the mean of their logits.
    Else it is one logistic regression on all images.

    Args:
      embeddings: (N, D) float. What enters the last layer in evaluation mode.
      labels: (N,) integer, 0 to C - 1.
      groups: (N,) integer, from 0.
      num_classes: C.
      l2: Weight of |W|^2 / 2 beside the mean cross-entropy, with features of unit variance.
      num_refits: Subsets, drawn by the seed.
      seed: From 0.
      balance: Whether every class and group counts the same.

    Returns:
      (C, D) float64 weight and (C,) float64 bias, for embeddings as given.

    Raises:
      ValueError: other shapes, values that are not finite, or a class without images, about which nothing is known.

    Source: Kirichenko et al., Last layer re-training is sufficient for robustness (DFR), 2022, arXiv 2204.02937.
    Differs: L2, not L1; and a cell of fewer than `MIN_CELL` images gives what it has rather than setting the size of
    all, where one lone image would leave one of each cell.
    """
    _check(embeddings, labels, groups)
    if absent := sorted(set(range(num_classes)) - set(labels.tolist())):
        raise ValueError(f"got no image of class {absent[0]}, expected some of each of {num_classes} classes")
    cell_of = groups * num_classes + labels
    cells = [np.flatnonzero(cell_of == cell) for cell in np.unique(cell_of)]
    size = max(MIN_CELL, min(map(len, cells))) if balance else len(embeddings)
    mean, std = embeddings.mean(0, dtype=np.float64), embeddings.std(0, dtype=np.float64)
    # Made to count like the others, a feature that hardly varies would get a weight without bounds.
    std = np.where(std > _NEARLY_CONSTANT * std.max(), std, np.inf)
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(num_refits if balance else 1):
        drawn = np.concatenate([rng.choice(cell, min(size, len(cell)), replace=False) for cell in cells])
        layers.append(_logistic_regression((embeddings[drawn] - mean) / std, labels[drawn], num_classes, l2=l2))
    layer = np.mean(layers, axis=0)
    weight = layer[:, :-1] / std
    return weight, layer[:, -1] - weight @ mean


def _logistic_regression(x: np.ndarray, y: np.ndarray, num_classes: int, *, l2: float) -> np.ndarray:
    """(C, D + 1) float64: weight and, last, bias of the one minimum."""
    features, labels = torch.from_numpy(x), torch.from_numpy(y).long()
    layer = torch.zeros(num_classes, x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [layer], max_iter=500, tolerance_grad=1e-6, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        weight, bias = layer[:, :-1], layer[:, -1]
        loss = functional.cross_entropy(features @ weight.T + bias, labels) + l2 / 2 * weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)
    return layer.detach().numpy()


def _check(x: np.ndarray, *others: np.ndarray) -> None:
    """Raises ValueError unless the first is (N, C), N at least 1, and finite, and the others are (N,)."""
    if x.ndim != 2 or not x.size or any(other.shape != (len(x),) for other in others):
        shapes = ", ".join(str(array.shape) for array in (x, *others))
        raise ValueError(f"got arrays {shapes}, expected (N, C), N at least 1, and (N,)")
    if not np.isfinite(x).all():
        raise ValueError("got values that are not finite")
