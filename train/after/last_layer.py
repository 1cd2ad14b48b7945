"""The last layer of a finished run, fitted anew on images while the rest of the network stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from bench.dataset import DatasetError, Sample, classes_of, index
from bench.metrics.fairness import MIN_CELL
from bench.provenance import cluster_mark

from ..checkpoint import OFFSETS, Checkpoint, load_model
from ..config import TrainConfig
from ..data.images import scale_tensor
from .derived_run import load_all, write_derived
from .held_out import embed

_NEARLY_CONSTANT = 1e-4
"""Features whose standard deviation is a smaller share of the largest are left out of a new last layer."""


def refit(root: Path, run: Path, out: Path, *, label_column: str, group_column: str = "group", balance: bool) -> None:
    """Fits the last layer anew on the images that the body was trained on, body unchanged.

    The labels need not be those of the run: features that were learned on many fine classes may tell few coarse ones
    better than features learned on the coarse.

    Args:
      root: The data set.
      run: A finished run.
      out: Folder of the new run.
      label_column: The manifest's class column; its classes are the new run's.
      group_column: The manifest's group column.
      balance: Whether all classes and groups count alike, or all images.

    Source: Kirichenko et al., Last layer re-training is sufficient for robustness to spurious correlations, 2022,
    arXiv 2204.02937. Differs: on the images that the body was trained on, since there are no others to spare.

    Raises:
      CheckpointError: no run there.
      DatasetError: the data set has none of the images it was trained on.
    """
    model, preprocess, _, state = load_model(run)
    config = TrainConfig.from_dict(state.config)
    samples = index(root, label_column=label_column, group_column=group_column)
    seen = load_all(root, _seen(samples, state), preprocess)
    classes = list(classes_of(samples))
    if absent := sorted({*classes} - {sample.label for sample in seen.samples}):
        raise DatasetError(f"{run}: was trained on no image of {absent[0]}, expected some of each class")
    features = embed(model, seen.pixels, scale=scale_tensor(preprocess))
    groups = sorted({sample.group for sample in seen.samples})
    weight, bias = refit_last_layer(
        features.double().numpy(),
        np.array([classes.index(sample.label) for sample in seen.samples]),
        np.array([groups.index(sample.group) for sample in seen.samples]),
        num_classes=len(classes),
        seed=config.optim.seed,
        balance=balance,
    )
    weights = {name: tensor for name, tensor in state.weights.items() if not name.startswith("head.")}
    weights |= {"head.fc.weight": torch.from_numpy(weight).float(), "head.fc.bias": torch.from_numpy(bias).float()}
    plain = {"head": "linear", "neck": False, "distill_head": False, "dropout": 0.0, "margin_type": "none"}
    derived = replace(
        state,
        config=config.changed(**plain).to_dict(),
        result=weights,
        classes=classes,
        sources={name: value for name, value in state.sources.items() if name != OFFSETS},
        recipe=f"refit (--label {label_column} --balance {'cells' if balance else 'none'}) of {state.recipe}",
    )
    write_derived(out, derived, run, root, samples, leaky=[run.name] if state.leaky else [])


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
    x = embeddings
    if x.ndim != 2 or not np.isfinite(x).all() or {labels.shape, groups.shape} != {(len(x),)}:
        shapes = f"{x.shape}, {labels.shape}, {groups.shape}"
        raise ValueError(f"got arrays {shapes}, expected one of two axes and finite numbers, the others (N,)")
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


def _seen(samples: Sequence[Sample], state: Checkpoint) -> list[Sample]:
    """What a run was trained on, in an order that has all classes early."""
    known = {*state.clusters}
    seen = [sample for sample in samples if cluster_mark(sample.cluster) in known]
    if not seen:
        raise DatasetError("has none of the images that the run was trained on, expected its own data set")
    return [seen[i] for i in np.random.default_rng(0).permutation(len(seen))]


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
