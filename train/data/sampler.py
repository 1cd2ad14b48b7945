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

    indices: np.ndarray  # (T, B) int64
    is_repeat: np.ndarray  # (T, B) bool: the epoch has this picture already, and it gets noise; only of "balance"


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

    The (N,) labels are indices of `classes`, the (N,) groups of any type that sorts. The batch size is that of all
    ranks together; "pk" has its own.

    Raises:
      EdgeError: the targets name other classes than the data has.
    """
    rng = np.random.default_rng((_STREAM, seed, epoch))
    if config.sampler == "pk":
        size = config.pk_images * len(np.unique(labels))
        indices = _pk(labels, config.steps_per_epoch or max(1, len(labels) // size), config.pk_images, rng)
        return Batches(indices, np.zeros_like(indices, bool))
    cells = _cells(labels, groups, config, classes) if config.sampler == "balance" else []
    n = sum(count for _, count in cells) or len(labels)
    size = min(batch_size, n)
    num_steps = config.steps_per_epoch or max(1, n // size)
    num_rounds = -(-num_steps * size // n)
    rounds = [_balanced(cells, rng) if cells else _weighted(labels, config.power, rng) for _ in range(num_rounds)]
    firsts = [np.unique(drawn, return_index=True)[1] for drawn in rounds]
    repeats = [~np.isin(np.arange(n), first) if cells else np.zeros(n, bool) for first in firsts]
    indices, is_repeat = (np.concatenate(a)[: num_steps * size].reshape(-1, size) for a in (rounds, repeats))
    return Batches(indices, is_repeat)


def num_steps_per_epoch(
    labels: np.ndarray, groups: np.ndarray, config: SampleConfig, *, classes: Sequence[str], batch_size: int
) -> int:
    """The T of `epoch_batches`, which is the same in every epoch."""
    batches = epoch_batches(labels, groups, config, classes=classes, batch_size=batch_size, epoch=0, seed=0)
    return len(batches.indices)


def numbers_by_class(items: tuple[str, ...], classes: list[str], *, name: str) -> dict[str, float]:
    """Reads ("BCC:15", ...) for the classes at hand.

    Raises:
      EdgeError: a class is named twice, is none of the data's, or one of those is missing.
    """
    pairs = [(key, float(number)) for key, _, number in (item.rpartition(":") for item in items)]
    named, found = [key for key, _ in pairs], dict(pairs)
    if twice := next((key for key in named if named.count(key) > 1), None):
        raise EdgeError(f"{name}: got two numbers for {twice}, expected one", exit_status=USAGE)
    if sorted(found) != sorted(classes):
        got, expected = ", ".join(sorted(found)), ", ".join(sorted(classes))
        text = f"{name}: got numbers for {got}, expected one for each of the data's {expected}"
        raise EdgeError(text, exit_status=USAGE)
    return found


def _weighted(labels: np.ndarray, power: float, rng: np.random.Generator) -> np.ndarray:
    """(N,) indices, each class in proportion to its count to this power."""
    if power == 1:
        return rng.permutation(len(labels))
    weights = np.bincount(labels)[labels] ** (power - 1.0)
    return rng.choice(len(labels), len(labels), p=weights / weights.sum())


def _pk(labels: np.ndarray, num_steps: int, num_images: int, rng: np.random.Generator) -> np.ndarray:
    """(T, classes x images) indices."""
    columns = []
    for label in np.unique(labels):
        own, needed = np.flatnonzero(labels == label), num_steps * num_images
        columns.append(rng.choice(own, needed, replace=len(own) < needed).reshape(num_steps, num_images))
    return rng.permuted(np.concatenate(columns, axis=1), axis=1)  # a rank's slice is to have all classes too


def _balanced(cells: list[tuple[np.ndarray, int]], rng: np.random.Generator) -> np.ndarray:
    """(M,) indices in random order: of each cell's pictures the wanted number, all equally often but for the rest."""
    parts = []
    for own, count in cells:
        times, rest = divmod(count, len(own))
        parts.append(np.concatenate([np.tile(own, times), rng.choice(own, rest, replace=False)]))
    return rng.permutation(np.concatenate(parts))


def _cells(
    labels: np.ndarray, groups: np.ndarray, config: SampleConfig, classes: Sequence[str]
) -> list[tuple[np.ndarray, int]]:
    """The pictures of each class and group that has any, and how many are drawn of them."""
    targets = numbers_by_class(config.targets, list(classes), name="targets")
    group_of = np.unique(groups, return_inverse=True)[1]
    cell_of = labels * (group_of.max() + 1) + group_of
    members = [np.flatnonzero(cell_of == cell) for cell in np.unique(cell_of)]
    goals = [max(1, round(targets[classes[labels[own[0]]]])) for own in members]
    return [(own, min(goal, len(own) * config.max_repeats)) for own, goal in zip(members, goals, strict=True)]
