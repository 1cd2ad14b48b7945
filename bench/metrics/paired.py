"""Several models on the same resampled images: what they have in common, the difficult images above all, cancels."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from .evaluation import Frame, Observations
from .interval import Bootstrap


def joint_draws(
    models: Sequence[Observations], frames: Sequence[Frame], *, names: Collection[str] | None = None
) -> list[dict[str, np.ndarray]]:
    """Draws the images once for all models.

    Args:
      models: The answers of each to the same images in the same order, with the same classes and groups.
      frames: One for each, of the same setting but for the seed of a profile that drops images.
      names: As for `Frame.statistics`.

    Returns:
      For each model name -> (B, ...) float: the metrics of `Frame.statistics` on resampled data sets.
    """
    first = models[0]
    width = len(first.classes) + 1
    shape = (len(first.groups), len(first.classes), width)
    size = int(np.prod(shape))
    cells = [model.cells for model in models]
    joint = cells[0]  # group, true class, and the answer of every model
    for other in cells[1:]:
        joint = np.unique(joint * width + other % width, return_inverse=True)[1]
    image = np.unique(joint, return_index=True)[1]  # one of each joint cell
    resampled = Bootstrap.of(joint, clusters=first.cluster, sensitive_features=first.group)
    setting = frames[0].setting
    chunks = [
        [
            frame.statistics(_summed(drawn, own[image], size).reshape(len(drawn), *shape), names=names)
            for own, frame in zip(cells, frames, strict=True)
        ]
        for drawn in resampled.draw(setting.draws, seed=setting.seed, width=len(models) * size)
    ]
    return [{name: np.concatenate([one[name] for one in parts]) for name in parts[0]} for parts in zip(*chunks)]


def _summed(counts: np.ndarray, cells: np.ndarray, size: int) -> np.ndarray:
    """(b, K) counts of joint cells -> (b, size) int64 counts of the cells (K,) they belong to."""
    order = np.argsort(cells, kind="stable")
    occurring, starts = np.unique(cells[order], return_index=True)
    summed = np.zeros((len(counts), size), np.int64)
    summed[:, occurring] = np.add.reduceat(counts[:, order], starts, axis=1)
    return summed
