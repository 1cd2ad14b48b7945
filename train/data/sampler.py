"""Which pictures make an epoch, and in which batches.

An epoch follows from the labels and (seed, epoch) alone: a resumed run and every rank of a distributed one draw it
anew instead of passing it on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge.errors import EdgeError
from edge.exit import USAGE

from ..config import SampleConfig

_STREAM = 0x5EED_5A3  # keeps these numbers apart from the augmentation's of the same seed


@dataclass(frozen=True)
class Batches:
    """One epoch: T steps of B pictures, on all ranks together."""

    indices: np.ndarray
    """(T, B) int64."""
    is_repeat: np.ndarray
    """(T, B) bool: the epoch has this picture already, and it gets noise. Of "balance" alone."""


def epoch_batches(
    labels: np.ndarray,
    groups: np.ndarray,
    config: SampleConfig,
    *,
    classes: Sequence[str],
    batch_size: int,
    epoch: int,
    seed: int,
) -> Batches:
    """Draws one epoch.

    - shuffle: a class is drawn in proportion to its count to the `power`. At 1 every picture comes once, but for a
      tail that waits for another epoch's order.
    - pk: every batch has `pk_images` of each class, without replacement where a class has enough for the epoch.
      Source: Rutgers' entry of 2023, 6 classes x 6 images, 150 steps.
    - balance: each class has its target in each group. A cell with more pictures gives a part, another one each
      epoch; one with fewer repeats them evenly, `max_repeats` times at most.
      Source: Li et al., as described; their code tops a class up from the heads of other classes' lists.

    Args:
      labels: (N,) class of each training picture.
      groups: (N,) group of each; any type that sorts.
      config: Which sampler.
      classes: (C,) names of the classes, for the targets.
      batch_size: Of all ranks together; "pk" has its own.
      epoch: From 0.
      seed: Of the run.

    Raises:
      ValueError: the targets name other classes than the data has.
    """
    rng = np.random.default_rng((_STREAM, seed, epoch))
    num_steps, size = _shape(labels, groups, config, classes, batch_size)
    if config.sampler == "pk":
        indices = _pk(labels, num_steps, config.pk_images, rng)
        return Batches(indices, np.zeros_like(indices, bool))
    rounds: list[tuple[np.ndarray, np.ndarray]] = []
    while sum(len(indices) for indices, _ in rounds) < num_steps * size:
        if config.sampler == "balance":
            rounds.append(_balanced(labels, groups, _targets(config, classes), config.max_repeats, rng))
        else:
            indices = _weighted(labels, config.power, rng)
            rounds.append((indices, np.zeros(len(indices), bool)))
    indices, is_repeat = (np.concatenate(parts)[: num_steps * size].reshape(-1, size) for parts in zip(*rounds))
    return Batches(indices, is_repeat)


def num_steps_per_epoch(
    labels: np.ndarray, groups: np.ndarray, config: SampleConfig, *, classes: Sequence[str], batch_size: int
) -> int:
    """The T of `epoch_batches`, which is the same in every epoch."""
    return _shape(labels, groups, config, classes, batch_size)[0]


def _shape(
    labels: np.ndarray, groups: np.ndarray, config: SampleConfig, classes: Sequence[str], batch_size: int
) -> tuple[int, int]:
    """(T, B)."""
    n = len(labels)
    if config.sampler == "pk":
        batch_size = config.pk_images * len(np.unique(labels))
    else:
        if config.sampler == "balance":
            n = sum(count for _, count in _cell_counts(labels, groups, _targets(config, classes), config.max_repeats))
        batch_size = min(batch_size, n)
    return config.steps_per_epoch or max(1, n // batch_size), batch_size


def _weighted(labels: np.ndarray, power: float, rng: np.random.Generator) -> np.ndarray:
    """(N,) indices, each class in proportion to its count to this power."""
    if power == 1:
        return rng.permutation(len(labels))
    counts = np.bincount(labels)
    weights = counts[labels] ** (power - 1.0)
    return rng.choice(len(labels), len(labels), p=weights / weights.sum())


def _pk(labels: np.ndarray, num_steps: int, num_images: int, rng: np.random.Generator) -> np.ndarray:
    """(T, classes x images) indices."""
    columns = []
    for label in np.unique(labels):
        own, needed = np.flatnonzero(labels == label), num_steps * num_images
        columns.append(rng.choice(own, needed, replace=len(own) < needed).reshape(num_steps, num_images))
    return rng.permuted(np.concatenate(columns, axis=1), axis=1)  # a rank's slice is to have all classes too


def _balanced(
    labels: np.ndarray, groups: np.ndarray, targets: np.ndarray, max_repeats: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One round: (M,) indices in random order, and whether each came before."""
    parts = []
    for own, count in _cell_counts(labels, groups, targets, max_repeats):
        times, rest = divmod(count, len(own))
        parts.append(np.concatenate([np.tile(own, times), rng.choice(own, rest, replace=False)]))
    indices = rng.permutation(np.concatenate(parts))
    is_repeat = np.ones(len(indices), bool)
    is_repeat[np.unique(indices, return_index=True)[1]] = False
    return indices, is_repeat


def _cell_counts(
    labels: np.ndarray, groups: np.ndarray, targets: np.ndarray, max_repeats: int
) -> list[tuple[np.ndarray, int]]:
    """The pictures of each class and group that has any, and how many are drawn of them."""
    of_cell = _cells(labels, groups)
    members = [np.flatnonzero(of_cell == cell) for cell in np.unique(of_cell)]
    return [(own, int(min(targets[labels[own[0]]], len(own) * max_repeats))) for own in members]


def _cells(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(N,) number of each picture's class and group."""
    of_group = np.unique(groups, return_inverse=True)[1]
    return np.asarray(labels * (of_group.max() + 1) + of_group)


def _targets(config: SampleConfig, classes: Sequence[str]) -> np.ndarray:
    """(C,) pictures of each class in every group, at least 1."""
    found = numbers_by_class(config.targets, list(classes), name="targets")
    return np.array([max(1, round(found[name])) for name in classes])


def numbers_by_class(items: tuple[str, ...], classes: list[str], *, name: str) -> dict[str, float]:
    """Reads ("BCC:15", ...) for the classes at hand.

    Raises:
      EdgeError: a class is named that the data has not, or one of the data's is missing.
    """
    named = [item.rpartition(":")[0] for item in items]
    if twice := next((one for one in named if named.count(one) > 1), None):
        raise EdgeError(f"{name}: got two numbers for {twice}, expected one", exit_status=USAGE)
    found = {item.rpartition(":")[0]: float(item.rpartition(":")[2]) for item in items}
    if sorted(found) != sorted(classes):
        got, expected = ", ".join(sorted(found)), ", ".join(sorted(classes))
        text = f"{name}: got numbers for {got}, expected one for each of the data's {expected}"
        raise EdgeError(text, exit_status=USAGE)
    return found
