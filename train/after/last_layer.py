"""A new last layer for a trained network: a logistic regression on its features."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from bench.metrics.fairness import MIN_CELL

from .temperature import check_arrays

_NEARLY_CONSTANT = 1e-4  # of the largest standard deviation of a feature: those below are left out


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
    check_arrays(embeddings, labels, groups)
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
