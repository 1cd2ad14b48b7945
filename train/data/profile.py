"""The `Profile` that a model file carries: shapes and sizes of the pictures that its network met in training.

Some thousand pictures are drawn with their changes, as training draws them, and what lies between the 1st and the 99th
percentile counts as met: a handful of odd pictures teaches nothing. The shape that is met is not the file's but that of
the photo that would look so in the network's input:

- `stretch`: how much more one direction is squeezed than the other: 1.33 for a 4:3 photo, more or less where
  augmentation enlarges only one direction.
- `letterbox`: the sides of the rectangle between the bars, which zooming moves. A square has no bars, and gets none
  where its mirror image fills what shrinking lays bare (`border=reflect`).
- `crop`: the file's, which says how much was cut off at most; a squarer photo is none the worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.dataset import Sample
from edge.device import usable_cores
from edge.photo.decode import stored_size
from edge.photo.preprocess import Preprocess
from edge.profile import Profile

from ..config import AugmentConfig
from .augment import Changes, draw

_NUM_DRAWS = 2048
_SEED = 0
_PERCENTILES = (1, 99)
_GRID = 24  # points of the input on a side at which it is asked whether there is a bar; common shapes divide it


def profile_of(root: Path, samples: Sequence[Sample], preprocess: Preprocess, config: AugmentConfig) -> Profile:
    """The profile of a data set's pictures; reads the headers of 2,048 at most, or raises DecodeError."""
    chosen = np.random.default_rng(_SEED).permutation(len(samples))[:_NUM_DRAWS]
    with ThreadPoolExecutor(usable_cores()) as pool:
        sizes = list(pool.map(lambda i: stored_size(root / samples[i].path), chosen.tolist()))
    return estimate(sizes, preprocess, config)


def estimate(sizes: Sequence[tuple[int, int]], preprocess: Preprocess, config: AugmentConfig) -> Profile:
    """The profile of pictures of these (width, height) in pixels, turned or not; all of them count alike."""
    rounds = -(-_NUM_DRAWS // len(sizes))
    drawn = np.tile(np.array(sizes), (rounds, 1))  # (M, 2), every picture equally often
    changes = draw(len(drawn), config, np.random.default_rng(_SEED))
    is_padded = preprocess.resize == "letterbox"
    filled = drawn / drawn.max(axis=1, keepdims=True) if is_padded else np.ones(drawn.shape)  # shares of its sides
    return Profile(
        aspect_ratio=_range(_aspect_ratios(drawn, filled, preprocess, changes), digits=3),
        short_side_px=_range(drawn.min(axis=1), digits=None),
        padding=_range(_padding(filled, changes), digits=3),
    )


def _aspect_ratios(sizes: np.ndarray, filled: np.ndarray, preprocess: Preprocess, changes: Changes) -> np.ndarray:
    """(M,) longer over shorter side, as the module says, of pictures that fill (M, 2) shares of the input."""
    if preprocess.resize == "crop":
        return np.asarray(sizes.max(axis=1) / sizes.min(axis=1))
    x, y, w = (changes.homography[:, row, 2] for row in range(3))
    # d/du of ((a u + b v + x) / (g u + h v + w)) at the centre, u = v = 0
    centre = np.stack([x, y], axis=1)[:, :, None] / w[:, None, None]
    derivative = (changes.homography[:, :2, :2] - centre * changes.homography[:, 2:, :2]) / w[:, None, None]
    scales = np.linalg.inv(derivative)  # (M, 2, 2): its columns are the picture's units of width and height there
    if preprocess.resize == "stretch":
        squeezed = np.linalg.svd(scales / sizes[:, None, :], compute_uv=False)  # (M, 2) in pixels of input per pixel
        return np.asarray(squeezed[:, 0] / squeezed[:, 1])
    lengths = np.linalg.norm(scales, axis=1)  # (M, 2) of the unit of the picture's width, of its height
    left, top, right, bottom = changes.bars.T
    free = 1 - np.stack([left + right, top + bottom], axis=1)
    has_mirror = (filled == 1) & (changes.config.border == "reflect")  # instead of a bar, where shrinking lays bare
    between = np.minimum(np.where(has_mirror, 1, filled * lengths), free)
    return np.asarray(between.max(axis=1) / between.min(axis=1))


def _padding(filled: np.ndarray, changes: Changes) -> np.ndarray:
    """(M,) share of the input, 0 to 1, that is no picture, where pictures fill (M, 2) shares of its sides."""
    ticks = (2 * np.arange(_GRID) + 1) / _GRID - 1
    x, y = (axis.ravel() for axis in np.meshgrid(ticks, ticks))
    points = changes.homography @ np.stack([x, y, np.ones(len(x))])  # (M, 3, 576)
    places = np.abs(points[:, :2] / points[:, 2:])  # what lies outside -1 to 1 lies outside the square
    mirrored = np.abs(places - 2 * (places / 2).round())  # over and over
    is_padding = ((places if changes.config.border == "black" else mirrored) > filled[:, :, None]).any(axis=1)
    left, top, right, bottom = 2 * changes.bars.T[:, :, None] - 1  # each (M, 1)
    return np.asarray((is_padding | (x < left) | (x > -right) | (y < top) | (y > -bottom)).mean(axis=1))


def _range(values: np.ndarray, *, digits: int | None) -> tuple[float, float]:
    low, high = np.percentile(values, _PERCENTILES).tolist()
    return round(low, digits), round(high, digits)
