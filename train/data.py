"""Images for training: decoded once by the runtime's own `Preprocess`, kept as one array, augmented in batches.

A data set of this size fits in memory as pixels of the network's input size (10,000 images of 128 px: 0.5 GB), and
warping a whole batch is one call: no worker processes, nothing to seed but one generator.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from bench.dataset import DatasetError, Sample
from edge.errors import DecodeError
from edge.preprocess import Preprocess
from edge.progress import Progress

from .config import TrainConfig


def load_images(root: Path, samples: Sequence[Sample], preprocess: Preprocess, *, quiet: bool = False) -> np.ndarray:
    """Decodes a data set.

    Returns:
      (N, S, S, 3) uint8 RGB, exactly what the runtime feeds its network.

    Raises:
      DatasetError: an image cannot be used.
    """
    side = preprocess.size_px
    images = np.empty((len(samples), side, side, 3), np.uint8)
    progress = Progress(len(samples), quiet=quiet)

    def load(i: int) -> None:
        preprocess.load(root / samples[i].path, out=images[i])

    try:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for done, _ in enumerate(pool.map(load, range(len(samples))), start=1):
                progress.update(done)
    except DecodeError as error:
        raise DatasetError(f"{error}; take it out of the data set to train on the rest") from error
    finally:
        progress.close()
    return images


def draw_epoch(labels: torch.Tensor, *, class_power: float, generator: torch.Generator) -> torch.Tensor:
    """The order of one epoch.

    Args:
      labels: (N,) int64.
      class_power: A class is drawn in proportion to its count to this power. 1: every image once, shuffled.
      generator: Source of chance.

    Returns:
      (N,) int64 indices; below a power of 1 some images come repeatedly and others wait for a later epoch.
    """
    if class_power == 1:
        return torch.randperm(len(labels), generator=generator)
    counts = torch.bincount(labels).double()
    weights = counts[labels] ** (class_power - 1)
    return torch.multinomial(weights, len(labels), replacement=True, generator=generator)


def augment(
    images: torch.Tensor, *, size_px: int, config: TrainConfig, scale: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """One random warp per image: flip, quarter turn, rotation, zoom, shift and the resize to `size_px` together.

    A lesion has no up, so the eight symmetries of the square are as good as new pictures.

    Args:
      images: (N, S, S, 3) uint8 RGB.
      size_px: Side of the result.
      config: Its rotate_deg, shift and zoom.
      scale: (3, 1, 1) float32 factor from uint8 to the network.
      generator: Source of chance.

    Returns:
      (N, 3, size_px, size_px) float32, scaled. What comes from outside a picture is its mirror image.
    """

    def uniform(limit: float) -> torch.Tensor:
        return (2 * torch.rand(len(images), generator=generator) - 1) * limit

    turns = torch.randint(4, (len(images),), generator=generator)
    angle = turns * (math.pi / 2) + uniform(math.radians(config.rotate_deg))
    mirror = torch.where(torch.rand(len(images), generator=generator) < 0.5, -1.0, 1.0)
    zoom = torch.exp(uniform(math.log1p(config.zoom)))
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    shift_x, shift_y = uniform(2 * config.shift), uniform(2 * config.shift)  # the side is 2 in grid coordinates
    theta = torch.stack([mirror * cos, -sin, shift_x, mirror * sin, cos, shift_y], dim=1).view(-1, 2, 3)
    pixels = images.permute(0, 3, 1, 2).float()  # (N, 3, S, S)
    grid = functional.affine_grid(theta, [len(images), 3, size_px, size_px], align_corners=False)
    warped = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return warped * scale


def scale_tensor(preprocess: Preprocess) -> torch.Tensor:
    """`Preprocess.scale` as (3, 1, 1) float32."""
    scale = preprocess.scale if isinstance(preprocess.scale, tuple) else (preprocess.scale,) * 3
    return torch.tensor(scale, dtype=torch.float32).view(3, 1, 1)
