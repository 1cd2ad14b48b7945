"""Data sets as they could have been, and the metrics of one or several models on them.

A cluster bootstrap, stratified by group. Several models are drawn the same images, so what they have in common, the
difficult images above all, cancels in their difference.

It is done on counts. Clusters that look alike (same images per group, class and prediction) are drawn together by one
multinomial, which is the same distribution as drawing them one by one: a million single images cost no more than ten
thousand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .evaluation import Frame, Observations
from .interval import DRAWS

_CHUNK = 1 << 22  # numbers held at once: 32 MB
_DRAWN = 1 << 18  # clusters drawn at once: more than the caches hold is slower


@dataclass(frozen=True)
class Bootstrap:
    """Clusters drawn with replacement, in each group as many as it has.

    A cluster that spans groups is drawn whole, with those of the group that most of its images are in.
    """

    cells: np.ndarray
    """(K,) integer, increasing. The cells that occur."""
    strata: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    """Per group: which of the K cells it has (k,), how many clusters look alike (P,), and what they hold (P, k)."""

    @classmethod
    def of(cls, cells: np.ndarray, *, clusters: np.ndarray, sensitive_features: np.ndarray) -> Bootstrap:
        """From one integer per image, each (N,).

        Args:
          cells: The cell of each image: whatever the metrics count, with the group as a part of it.
          clusters: 0 to M - 1.
          sensitive_features: 0 to G - 1. Its group.
        """
        occurring, cell = np.unique(cells, return_inverse=True)
        num_clusters, num_groups = (int(values.max(initial=-1)) + 1 for values in (clusters, sensitive_features))
        shares = np.bincount(clusters * num_groups + sensitive_features, minlength=num_clusters * num_groups)
        stratum = shares.reshape(num_clusters, num_groups).argmax(-1) if num_groups else np.zeros(0, np.int64)
        # Two clusters look alike when the sums of one random number per cell agree: 64 bits, so a million clusters
        # are confused with a probability of 1e-7.
        marks = np.random.default_rng(0).integers(0, 1 << 64, len(occurring), np.uint64)
        order = np.argsort(clusters, kind="stable")
        starts = np.searchsorted(clusters[order], np.arange(num_clusters))
        looks = np.add.reduceat(marks[cell[order]], starts) if num_clusters else marks
        strata = []
        for group in range(num_groups):
            members = np.flatnonzero(stratum == group)
            if not len(members):
                continue
            _, first, alike = np.unique(looks[members], return_index=True, return_counts=True)
            row_of = np.full(num_clusters, -1)
            row_of[members[first]] = np.arange(len(first))
            row = row_of[clusters]
            used, column = np.unique(cell[row >= 0], return_inverse=True)
            holds = np.zeros((len(first), len(used)), np.float32)  # exact up to 16,777,216 images of a kind
            np.add.at(holds, (row[row >= 0], column), 1)
            strata.append((used, alike, holds))
        return cls(occurring, strata)

    def draw(self, num_draws: int = DRAWS, *, seed: int = 0, width: int = 0) -> Iterator[np.ndarray]:
        """Yields (b, K) float64 counts of the cells, in chunks that make up (num_draws, K).

        `width` is how many numbers the caller makes of one draw, if more than K: it makes the chunks smaller.
        """
        rng = np.random.default_rng(seed)
        largest = max([width, len(self.cells), *(len(alike) for _, alike, _ in self.strata), 1])
        chunk = max(1, _CHUNK // largest)
        for start in range(0, num_draws, chunk):
            counts = np.zeros((min(chunk, num_draws - start), len(self.cells)))
            for used, alike, holds in self.strata:
                counts[:, used] += _times_drawn(rng, alike, len(counts)) @ holds
            yield counts


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
    first, setting = models[0], frames[0].setting
    width = len(first.classes) + 1
    shape = (len(first.groups), len(first.classes), width)
    size = int(np.prod(shape))
    cells = [model.cells for model in models]
    joint = cells[0]  # group, true class, and the answer of every model
    for other in cells[1:]:
        joint = np.unique(joint * width + other % width, return_inverse=True)[1]
    image = np.unique(joint, return_index=True)[1]  # one of each joint cell
    resampled = Bootstrap.of(joint, clusters=first.cluster, sensitive_features=first.group)
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


def _times_drawn(rng: np.random.Generator, alike: np.ndarray, num_draws: int) -> np.ndarray:
    """(num_draws, P) float32: how often each kind of cluster is drawn when as many are drawn as there are."""
    num_clusters = int(alike.sum())
    # The multinomial costs about 20 times more per kind than drawing one cluster does.
    if 20 * len(alike) < num_clusters:
        return rng.multinomial(num_clusters, alike / num_clusters, num_draws).astype(np.float32)
    kind = np.repeat(np.arange(len(alike)), alike)
    times = np.empty((num_draws, len(alike)), np.float32)
    step = max(1, _DRAWN // num_clusters)
    for start in range(0, num_draws, step):
        rows = times[start : start + step]
        drawn = kind[rng.integers(0, num_clusters, (len(rows), num_clusters))]
        drawn += np.arange(len(rows))[:, None] * len(alike)
        rows[:] = np.bincount(drawn.ravel(), minlength=rows.size).reshape(rows.shape)
    return times
