"""Images for training: decoded once by the runtime's own `Preprocess`, kept as one array, varied in the background.

An epoch costs no decoding, and there are no worker processes: OpenCV and numpy let go of Python's lock while they
work, so threads render the next batches while the network is at the present one.

A cache file is a .npy file of (N, S, S, 3) uint8, which numpy opens by itself, and behind it a line of JSON: the key of
what was decoded, the CRC-32 of the pixels, the images that could not be used.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import features

import edge
from bench.dataset import DatasetError, Sample
from edge.device import usable_cores
from edge.errors import DecodeError
from edge.output_files import replacing
from edge.photo.preprocess import Preprocess
from edge.progress import Progress

from ..config import AugmentConfig
from .augment import Changes, draw, empty_images, render, step_rng, to_tensor
from .sampler import Batches

_CHUNK = 256  # images decoded before any is stored: bounds what waits in memory for a slow disk
_AHEAD = 2  # batches rendered, or being rendered, while the network is at another


@dataclass(frozen=True)
class ImageSet:
    """A data set in memory, or in a file that is mapped to memory."""

    samples: list[Sample]
    """The usable ones, in the order given."""
    pixels: np.ndarray
    """(N, S, S, 3) uint8 RGB of these, read-only where it lies in a file."""
    unusable: dict[str, str]
    """Path -> reason of the images left out."""


@dataclass(frozen=True)
class View:
    """Another pair of eyes, a teacher's, on the same pictures."""

    pixels: np.ndarray
    """(N, s, s, 3) uint8 RGB, row for row those of the student."""
    size_px: int
    """Side of its input."""


@dataclass(frozen=True)
class Batch:
    """One step of training, as this rank sees it."""

    indices: np.ndarray
    """(B,) int64 rows of the pixels, of all ranks in their order."""
    images: torch.Tensor
    """(n, 3, S, S) float32 of this rank, scaled: the network's input."""
    views: list[np.ndarray]
    """(n, s, s, 3) uint8 RGB of this rank for each view: the same geometry, holes and colours, but no noise."""


def training_preprocess(preprocess: Preprocess, *, margin: float) -> Preprocess:
    """The same at a side larger by a share, 4096 at most: more detail for a warp to take from, and for nothing else."""
    return replace(preprocess, size_px=min(4096, round(preprocess.size_px * (1 + margin))))


def scale_tensor(preprocess: Preprocess) -> torch.Tensor:
    """`Preprocess.scale` as (3, 1, 1) float32."""
    scale = preprocess.scale if isinstance(preprocess.scale, tuple) else (preprocess.scale,) * 3
    return torch.tensor(scale, dtype=torch.float32).view(3, 1, 1)


def load_images(
    root: Path, samples: Sequence[Sample], preprocess: Preprocess, *, cache: Path | None = None, quiet: bool = False
) -> ImageSet:
    """Decodes a data set, or finds it decoded.

    Args:
      root: Folder of the data set.
      samples: What to decode.
      preprocess: How; its scale plays no part.
      cache: Folder of decoded data sets, made when absent; what lies there may be deleted at any time.
      quiet: Whether no progress is shown.

    Returns:
      The usable images, exactly as the runtime feeds them to its network. Who needs all of them looks at `unusable`.

    Raises:
      DatasetError: no image is usable, or the cache file is damaged or holds something else.
      OSError: the cache cannot be written, e.g. the disk is full; nothing is left there then.
    """
    decoded = _decode(root, samples, preprocess, quiet=quiet)  # a generator: nothing happens yet
    side = preprocess.size_px
    if cache is None:
        pixels = np.empty((len(samples), side, side, 3), np.uint8)
        unusable, usable = {}, 0
        for sample, image in decoded:
            if isinstance(image, str):
                unusable[sample.path] = image
            else:
                pixels[usable] = image
                usable += 1
        pixels = pixels[:usable]
    else:
        key = _key(root, samples, preprocess)
        path = cache / f"{side}px-{key[:16]}.npy"
        unusable, is_known = {}, path.exists()
        if is_known:
            pixels, unusable = _open(path, key)
        # What could not be read then may be readable now: an unplugged disk must not thin out a data set for good.
        if not is_known or any(_is_usable(root / name, preprocess) for name in unusable):
            cache.mkdir(parents=True, exist_ok=True)
            _store(path, key, len(samples), side, decoded)
            pixels, unusable = _open(path, key)
    return ImageSet([sample for sample in samples if sample.path not in unusable], pixels, unusable)


class Feeder:
    """Renders the batches of an epoch in threads, two steps ahead of who takes them.

    Iterate once, with `contextlib.closing(iter(feeder))` where it may be left early: the threads end with the iterator,
    be it by the last batch, an error, or Ctrl-C.
    """

    def __init__(
        self,
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
    ) -> None:
        """Takes what to render; nothing is rendered yet.

        Args:
          pixels: (N, s, s, 3) uint8 RGB.
          batches: What is left of the epoch.
          config: How the pictures are varied.
          size_px: Side S of the network's input.
          scale: (3, 1, 1) float32 factor from uint8 to the network, on the CPU.
          seed: Of the run.
          first_step: Number, from 0 at the start of the run, of the first of these steps.
          names: (N,) names of the pictures, for errors.
          rank: Which part of every step is rendered, ...
          num_ranks: ... of how many. The parts of all ranks make up what a single one would render, bit for bit.
          views: Who else sees the pictures.
          workers: Threads; None for one per core.
          pin: Whether `Batch.images` lies in page-locked memory, from where a GPU fetches it without waiting.
        """
        self._sources = (pixels, *(view.pixels for view in views))
        self._sides = (size_px, *(view.size_px for view in views))
        self._batches, self._config, self._scale, self._names = batches, config, scale, names
        self._seed, self._first_step, self._pin = seed, first_step, pin
        size = batches.indices.shape[1]
        self._part = slice(size * rank // num_ranks, size * (rank + 1) // num_ranks)
        self._workers = workers or usable_cores()

    def __iter__(self) -> Generator[Batch, None, None]:
        """The batches in order.

        Raises:
          DatasetError: OpenCV refuses a picture.
        """
        cv2.setNumThreads(1)  # one picture is too small to be shared; each thread here takes its own
        steps = iter(range(len(self._batches.indices)))
        waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="feeder")
        try:
            waiting.extend(self._start(pool, step) for step in islice(steps, _AHEAD))
            while waiting:
                batch, futures = waiting.popleft()
                for future in futures:
                    future.result()
                waiting.extend(self._start(pool, step) for step in islice(steps, 1))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, step: int) -> tuple[Batch, list[Future[None]]]:
        indices = self._batches.indices[step]
        rng = step_rng(self._seed, self._first_step + step)
        changes = draw(len(indices), self._config, rng, is_repeat=self._batches.is_repeat[step]).part(self._part)
        n = len(indices[self._part])
        images = empty_images(n, self._sides[0], pin=self._pin)
        views = [np.empty((n, side, side, 3), np.uint8) for side in self._sides[1:]]
        batch, size = Batch(indices, images, views), -(-n // self._workers)
        shares = [slice(i, i + size) for i in range(0, n, size)]
        return batch, [pool.submit(self._render, batch, share, changes.part(share)) for share in shares]

    def _render(self, batch: Batch, share: slice, changes: Changes) -> None:
        rows = batch.indices[self._part][share]
        outs = [None, *(view[share] for view in batch.views)]
        try:
            rendered = [
                render(pixels[rows], changes, size_px=side, out=out)
                for pixels, side, out in zip(self._sources, self._sides, outs, strict=True)
            ]
        except cv2.error as error:
            names = ", ".join(self._names[row] for row in rows)
            raise DatasetError(f"cannot be warped: {' '.join(str(error).split())}: one of {names}") from error
        to_tensor(rendered[0], changes, scale=self._scale, out=batch.images[share])


def _decode(
    root: Path, samples: Sequence[Sample], preprocess: Preprocess, *, quiet: bool
) -> Iterator[tuple[Sample, np.ndarray | str]]:
    """Each sample with its (S, S, 3) uint8 pixels, or with the reason why there are none."""

    def load(sample: Sample) -> np.ndarray | str:
        try:
            return preprocess(root / sample.path)
        except DecodeError as error:
            return error.reason

    progress, errors = Progress(len(samples), quiet=quiet), 0
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for start in range(0, len(samples), _CHUNK):
                chunk = samples[start : start + _CHUNK]
                for done, (sample, image) in enumerate(zip(chunk, pool.map(load, chunk), strict=True), start + 1):
                    if isinstance(image, str):
                        errors += 1
                    yield sample, image
                    progress.update(done, errors)
    finally:
        progress.close()
    if errors == len(samples):
        raise DatasetError(f"{root}: none of {len(samples)} images can be used, e.g. {sample.path}: {image}")


def _is_usable(path: Path, preprocess: Preprocess) -> bool:
    try:
        preprocess(path)
    except DecodeError:
        return False
    return True


def _key(root: Path, samples: Sequence[Sample], preprocess: Preprocess) -> str:
    """SHA-256 over all that decides the pixels: how, with what, and the files as far as the folder tells them."""
    decoder = [edge.__version__, *(features.version(name) for name in ("pil", "libjpeg_turbo", "zlib", "webp"))]
    digest = hashlib.sha256(json.dumps([1, replace(preprocess, scale=1.0).to_json(), decoder]).encode())
    for sample in samples:
        try:
            status = os.stat(root / sample.path)
            digest.update(f"\0{status.st_size} {status.st_mtime_ns} ".encode() + os.fsencode(sample.path))
        except OSError:
            digest.update(b"\0absent " + os.fsencode(sample.path))
    return digest.hexdigest()


def _store(path: Path, key: str, n: int, side: int, decoded: Iterable[tuple[Sample, np.ndarray | str]]) -> None:
    """Writes a cache file through a temporary one; not by mapping it, where a full disk is no OSError but a SIGBUS."""
    unusable, crc, written = {}, 0, 0
    with replacing(path) as part, open(part, "wb") as file:  # unsynced: after a power cut the checksum tells
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, side, side, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for sample, image in decoded:
            if isinstance(image, str):
                unusable[sample.path] = image
                continue
            data = np.ascontiguousarray(image).data
            crc, written = zlib.crc32(data, crc), written + 1
            file.write(data)
        trailer = {"key": key, "crc32": crc, "unusable": unusable}
        file.write(json.dumps(trailer).encode() + b"\n")
        file.seek(0)  # numpy leaves room in a header for another number of rows
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (written, side, side, 3)})


def _open(path: Path, key: str) -> tuple[np.ndarray, dict[str, str]]:
    """Checks and maps a cache file."""
    crc = 0
    try:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            offset, left = file.tell(), int(np.prod(shape))
            while left and (block := file.read(min(left, 1 << 20))):
                crc, left = zlib.crc32(block, crc), left - len(block)
            trailer = json.loads(file.readline())
            is_whole, is_ours = crc == trailer["crc32"], trailer["key"] == key
            unusable = dict(trailer["unusable"])
    except (ValueError, KeyError, TypeError) as error:  # of numpy's and json's readers, and of another trailer
        raise DatasetError(f"{path}: no cache of decoded images, or cut short; delete it to decode anew") from error
    if not is_whole:
        raise DatasetError(f"{path}: damaged: its pixels do not have their checksum; delete it to decode anew")
    if not is_ours:
        raise DatasetError(f"{path}: holds images of other files or preprocessing; delete it to decode anew")
    # As a plain array: indexing a memmap costs microseconds more, each time.
    return np.asarray(np.memmap(path, np.uint8, mode="r", offset=offset, shape=shape)), unusable
