"""What is gained after training by changing the last layer alone.

Both ways need images that the network was not trained on, and are judged by images that they were not fitted on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from bench import score
from bench.accuracy import mean_defined, ratio
from bench.dataset import Sample
from bench.fairness import MIN_CELL

from .splits import make_folds

Objective = Literal["contest", "balanced", "accuracy"]
Form = Literal["classes", "prior"]
_Shape = tuple[int, ...]
_Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(..., G, C) hits and (G, C) images -> (...) float."""

_STEPS = (1.0, 0.25, 0.0625)
_REACH = 8
"""A line search looks 8 steps to each side; a finer offset than 1/16 is noise on some thousand images."""
_PRIOR_STARTS = (0.0, 0.5, 1.0)
"""Where searches start: - tau log prior, from nothing to all of the logit adjustment of arXiv 2007.07314."""
_TAUS = np.arange(-64, 65) / 16
"""Of the form "prior". At 1 a network that was taught all classes equally often expects them as often as they come, at
-1 one that was taught them as they come expects them equally often; a head that is too sure of itself needs more."""
_NEARLY_CONSTANT = 1e-4
"""Features whose standard deviation is a smaller share of the largest are left out of a new last layer."""


@dataclass(frozen=True)
class ClassBias:
    """Offsets of the logits, and what they are worth."""

    bias: np.ndarray
    """(C,) float64, sum 0: add it to the bias of the last layer. Fitted on all images."""
    objective: Objective
    """What was maximised."""
    form: Form
    """Among which offsets."""
    before: float
    """The metric of the predictions as they were."""
    after: float
    """The metric where each fold is predicted with offsets fitted on the clusters of the others: the honest figure."""
    predictions: np.ndarray
    """(N,) int64. The predictions behind `after`, for a paired comparison with those before."""
    by_fold: dict[int, np.ndarray]
    """Fold -> (C,) float64: the offsets behind its predictions, fitted on the other folds."""

    @property
    def gain(self) -> float:
        """`after` - `before`; negative where fitting found nothing but noise."""
        return self.after - self.before


def fit_class_bias(
    log_probabilities: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    clusters: np.ndarray,
    *,
    reference_group: int,
    objective: Objective = "contest",
    form: Form = "classes",
    l2: float = 1e-3,
    folds: np.ndarray | None = None,
) -> ClassBias:
    """Fits offsets of the classes that raise a metric. It TUNES THE METRIC: say so beside every figure made with it.

    "contest" maximises (accuracy + fairness) / 3 of the contest: offsets move errors between the classes, and so
    between groups with different mixes of classes, which need not make any prediction better. "balanced" maximises the
    mean recall of the classes, "accuracy" the share of right answers; both know of no groups.

    The form "classes" has an offset for each class: the maximum of metric - l2 * sum_c (b_c - mean b)^2 is sought one
    class at a time over a grid, coarse to fine, from three starts: a metric of counts has steps and no gradient to
    follow. The form "prior" has one number, tau, and the offsets tau * log p_c, p_c being the share of class c: how
    much more the network shall expect what is common. One number fits less noise than C - 1 (the grid has 33).

    Args:
      log_probabilities: (N, C) float64, finite. OUT-OF-FOLD, of networks that have not seen the image: a network is so
        sure of its own training images that no offset moves them.
      labels: (N,) integer, 0 to C - 1. A class without images keeps its offset among the others.
      groups: (N,) integer, from 0.
      clusters: (N,) integer. No cluster is in two folds of the nested estimate.
      reference_group: Group that the contest's SPD compares against.
      objective: The metric.
      form: Of the offsets.
      l2: Price of the offsets, in units of the metric. Where nothing is to be gained (5,000 simulated images of equal
        groups) the contest's `gain` is -.003, sd .005, at 1e-3, and -.007 at 0: parity of noise is what gets fitted.
      folds: (N,) integer. Of the nested estimate; None: five are made of the clusters.

    Raises:
      ValueError: one fold, other shapes, values that are not finite, or no contest score for want of groups.
      DatasetError: fewer clusters than folds.
    """
    x, y, g = log_probabilities, labels.astype(np.int64), groups.astype(np.int64)
    _check(x, labels, groups, clusters)
    num_classes, num_groups = x.shape[1], int(max(g.max(initial=0), reference_group)) + 1

    def metric(hits: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        if objective == "balanced":
            return mean_defined(ratio(hits.sum(-2), sizes.sum(-2)))
        if objective == "accuracy":
            return ratio(hits.sum((-2, -1)), sizes.sum((-2, -1)))
        profile, compared = score.PROFILES[score.DEFAULT], range(num_groups)
        sums = hits.sum(-1), sizes.sum(-1)
        return score.parts(*sums, reference=reference_group, compared=compared, profile=profile).two_thirds

    def measure(predictions: np.ndarray) -> float:
        sizes = _cells(g, y, (num_groups, num_classes))
        return float(metric(_cells(g, y, sizes.shape, weights=predictions == y), sizes))

    before = measure(x.argmax(-1))
    if np.isnan(before):
        raise ValueError(f"the {objective} metric is not defined: expected two groups, one of them {reference_group}")
    if folds is None:
        samples = [Sample(str(i), *map(str, row)) for i, row in enumerate(zip(y, g, clusters, strict=True))]
        folds = np.array(list(make_folds(samples).values()))
    search = _search if form == "classes" else _search_prior
    predictions, by_fold = np.empty(len(x), np.int64), {}
    for fold in np.unique(folds).tolist():
        fitted = folds != fold
        if not fitted.any():
            raise ValueError(f"folds: got {fold} alone, expected two at least: offsets are fitted on the others")
        by_fold[fold] = search(x[fitted], y[fitted], g[fitted], num_groups=num_groups, metric=metric, l2=l2)
        predictions[~fitted] = (x[~fitted] + by_fold[fold]).argmax(-1)
    bias = search(x, y, g, num_groups=num_groups, metric=metric, l2=l2)
    return ClassBias(bias, objective, form, before, measure(predictions), predictions, by_fold)


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
      embeddings: (N, D) float. What enters the last layer in evaluation mode, for images not trained on.
      labels: (N,) integer, 0 to C - 1.
      groups: (N,) integer, from 0.
      num_classes: C.
      l2: Weight of |W|^2 / 2 beside the mean cross-entropy, with features of unit variance.
      num_refits: Subsets, where balanced.
      seed: Of the subsets.
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
    absent = sorted(set(range(num_classes)) - set(labels.tolist()))
    if absent:
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


def _check(x: np.ndarray, *of_images: np.ndarray) -> None:
    if x.ndim != 2 or not np.isfinite(x).all() or any(a.shape != (len(x),) for a in of_images):
        shapes = ", ".join(str(a.shape) for a in (x, *of_images))
        raise ValueError(f"got arrays {shapes}, expected one of two axes and finite numbers, the others (N,)")


def _search(x: np.ndarray, y: np.ndarray, g: np.ndarray, *, num_groups: int, metric: _Metric, l2: float) -> np.ndarray:
    """(C,) float64 offsets, sum 0; of several starts the best."""
    num_classes = x.shape[1]
    log_prior, sizes = _log_prior(y, num_classes), _cells(g, y, (num_groups, num_classes))
    best, best_value = np.zeros(num_classes), -np.inf

    def values_of(bias: np.ndarray, c: int, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        candidates = bias + offsets[:, None] * np.eye(num_classes)[c]
        hits = _hits(x + bias, y, g, c, offsets, sizes.shape)
        return candidates, metric(hits, sizes) - l2 * candidates.var(-1) * num_classes

    for tau in _PRIOR_STARTS:
        bias = -tau * log_prior
        value = float(values_of(bias, 0, np.zeros(1))[1][0])  # NaN where nothing is defined, and then nothing moves
        for step in _STEPS:
            before = -np.inf
            while value > before:
                before = value
                for c in np.unique(y).tolist():
                    candidates, values = values_of(bias, c, step * np.arange(-_REACH, _REACH + 1))
                    top = int(values.argmax())
                    if values[top] > value + 1e-12:
                        bias, value = candidates[top], float(values[top])
        if value > best_value:
            best, best_value = bias, value
    return np.asarray(best - best.mean())


def _search_prior(
    x: np.ndarray, y: np.ndarray, g: np.ndarray, *, num_groups: int, metric: _Metric, l2: float
) -> np.ndarray:
    """(C,) float64 offsets tau * log prior, sum 0; of equally good ones the smallest."""
    log_prior = _log_prior(y, x.shape[1])
    log_prior -= log_prior.mean()
    sizes = _cells(g, y, (num_groups, x.shape[1]))
    taus = sorted(_TAUS.tolist(), key=abs)
    answers = [(x + tau * log_prior).argmax(-1) for tau in taus]
    hits = np.stack([_cells(g, y, sizes.shape, weights=answer == y) for answer in answers])
    values = metric(hits, sizes) - l2 * np.square(taus) * np.square(log_prior).sum()
    return np.asarray(taus[int(values.argmax())] * log_prior)  # NaN where nothing is defined: argmax gives the first, 0


def _log_prior(y: np.ndarray, num_classes: int) -> np.ndarray:
    """(C,) float64 logarithms of the numbers of images."""
    support = np.bincount(y, minlength=num_classes)
    log_prior = np.log(np.maximum(support, 1))
    log_prior[support == 0] = log_prior[support > 0].mean()  # of an absent class nothing is known: it stays in between
    return np.asarray(log_prior)


def _hits(x: np.ndarray, y: np.ndarray, g: np.ndarray, c: int, offsets: np.ndarray, shape: _Shape) -> np.ndarray:
    """(K, G, C) integer: correct predictions by group and class when class `c` alone is moved by each of K offsets.

    One pass over the images for all K: an image changes its prediction once, where `c` overtakes its best rival.
    """
    rivals = x.copy()
    rivals[:, c] = -np.inf
    rival = rivals.argmax(-1)
    turn = np.searchsorted(offsets, rivals.max(-1) - x[:, c], side="right")  # the first offset at which c wins
    change = (y == c).astype(np.float64) - (rival == y)
    turned = _cells(turn, g * shape[1] + y, (len(offsets) + 1, shape[0] * shape[1]), weights=change)
    return np.asarray(_cells(g, y, shape, weights=rival == y) + turned[:-1].cumsum(0).reshape(-1, *shape))


def _cells(rows: np.ndarray, columns: np.ndarray, shape: _Shape, *, weights: np.ndarray | None = None) -> np.ndarray:
    """(R, C) sums of `weights`, or of ones, by row and column."""
    sums = np.bincount(rows * shape[1] + columns, weights, shape[0] * shape[1])
    return np.rint(sums).astype(np.int64).reshape(shape)


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
