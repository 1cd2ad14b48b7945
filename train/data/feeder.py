"""Batches of varied images, rendered in the background.

There are no worker processes: OpenCV and numpy let go of Python's lock while they work, so threads render the next
batches while the network is at the present one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

import cv2
import numpy as np
import torch

from bench.dataset import DatasetError
from edge.device import usable_cores
from edge.photo.preprocess import Preprocess

from ..config import AugmentConfig
from .augment import Changes, draw, render, step_rng, to_tensor
from .sampler import Batches

_AHEAD = 2  # batches rendered, or being rendered, while the network is at another


@dataclass(frozen=True)
class View:
    """The same pictures as a teacher sees them."""

    pixels: np.ndarray  # (N, s, s, 3) uint8 RGB, row for row those of the student
    size_px: int  # side of its input


@dataclass(frozen=True)
class Batch:
    """One step of training, as this rank sees it."""

    indices: np.ndarray  # (B,) int64 rows of the pixels, of all ranks in their order
    images: torch.Tensor  # (n, 3, S, S) float32 of this rank, scaled: the network's input
    views: list[np.ndarray]  # (n, s, s, 3) uint8 RGB of this rank: the same geometry, holes and colours, but no noise


def scale_tensor(preprocess: Preprocess) -> torch.Tensor:
    """`Preprocess.scale` as (3, 1, 1) float32."""
    scale = preprocess.scale if isinstance(preprocess.scale, tuple) else (preprocess.scale,) * 3
    return torch.tensor(scale, dtype=torch.float32).view(3, 1, 1)


def feed(
    pixels: np.ndarray,
    batches: Batches,
    config: AugmentConfig,
    *,
    size_px: int,
    scale: torch.Tensor,
    seed: int,
    first_step: int,
    names: Sequence[str],
    rank: int = 0,
    num_ranks: int = 1,
    views: Sequence[View] = (),
    workers: int | None = None,
    pin: bool = False,
) -> Generator[Batch, None, None]:
    """Renders what is left of an epoch in threads, one per core, two steps ahead of who takes the batches.

    The threads end with the generator, be it by the last batch, an error, or Ctrl-C; `contextlib.closing` ends it where
    it may be left early. The parts of all ranks make up what a single one would render, bit for bit.

    Args:
      pixels: (N, s, s, 3) uint8 RGB.
      batches: The steps.
      config: How the pictures are varied.
      size_px: Side S of the network's input.
      scale: (3, 1, 1) float32 factor from uint8 to the network, on the CPU.
      seed: Of the run.
      first_step: Number of the first of these steps, from 0 at the start of the run.
      names: (N,) names of the pictures, for errors.
      rank: Which part of every step is rendered, of `num_ranks`.
      num_ranks: How many parts there are.
      views: Of the teachers.
      workers: Another number of threads.
      pin: Whether `Batch.images` lies in page-locked memory, from where a GPU fetches it without waiting.

    Raises:
      DatasetError: OpenCV refuses a picture.
    """
    cv2.setNumThreads(1)  # one picture is too small to be shared; each thread here takes its own
    workers = workers or usable_cores()
    size = batches.indices.shape[1]
    part = slice(size * rank // num_ranks, size * (rank + 1) // num_ranks)

    def start(step: int) -> tuple[Batch, list[Future[None]]]:
        indices = batches.indices[step]
        rng = step_rng(seed, first_step + step)
        changes = draw(size, config, rng, is_repeat=batches.is_repeat[step]).part(part)
        n = len(indices[part])
        empty = [np.empty((n, view.size_px, view.size_px, 3), np.uint8) for view in views]
        batch = Batch(indices, _empty_tensor(n, size_px, pin=pin), empty)
        each = -(-n // workers)
        shares = [slice(i, i + each) for i in range(0, n, each)]
        return batch, [pool.submit(fill, batch, share, changes.part(share)) for share in shares]

    def fill(batch: Batch, share: slice, changes: Changes) -> None:
        rows = batch.indices[part][share]
        try:
            images = render(pixels[rows], changes, size_px=size_px)
            for view, place in zip(views, batch.views, strict=True):
                place[share] = render(view.pixels[rows], changes, size_px=view.size_px)
        except cv2.error as error:
            text = f"{' '.join(str(error).split())}: one of {', '.join(names[row] for row in rows)}"
            raise DatasetError(f"cannot be warped: {text}") from error
        to_tensor(images, changes, scale=scale, out=batch.images[share])

    steps = iter(range(len(batches.indices)))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="feeder")
    try:
        waiting = deque(map(start, islice(steps, _AHEAD)))
        while waiting:
            batch, futures = waiting.popleft()
            for future in futures:
                future.result()
            waiting.extend(map(start, islice(steps, 1)))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _empty_tensor(n: int, size_px: int, *, pin: bool) -> torch.Tensor:
    """(N, 3, S, S) float32 in pages of its own, or page-locked ones.

    Of batches of 20 MB that come and go, malloc keeps 0.3 GB in heaps that it cannot give back.
    """
    shape = (n, 3, size_px, size_px)
    if pin:
        return torch.empty(shape, pin_memory=True)
    pages = mmap(-1, 4 * math.prod(shape), flags=MAP_PRIVATE | MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.float32).view(shape)
