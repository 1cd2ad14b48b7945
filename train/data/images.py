"""Images for training: decoded once by the runtime's own `Preprocess`, kept as one array, varied in the background.

An epoch costs no decoding, and there are no worker processes: OpenCV and numpy let go of Python's lock while they
work, so threads render the next batches while the network is at the present one.

A cache file is a .npy file of (N, S, S, 3) uint8, which numpy opens by itself, and behind it a line of JSON: the key of
what was decoded, the CRC-32 of the pixels, the images that could not be used.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
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
from .augment import Changes, draw, render, step_rng, to_tensor
from .sampler import Batches

_CHUNK = 256  # images decoded before any is stored: bounds what waits in memory for a slow disk
_AHEAD = 2  # batches rendered, or being rendered, while the network is at another


@dataclass(frozen=True)
class ImageSet:
    """A data set in memory, or in a file that is mapped to memory."""

    samples: list[Sample]  # the usable ones, in the order given
    pixels: np.ndarray  # (N, S, S, 3) uint8 RGB of these, read-only where it lies in a file
    unusable: dict[str, str]  # path -> reason of the images left out


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
    """Decodes images exactly as the runtime feeds them to its network, or finds them decoded.

    `cache` is a folder of decoded data sets, made when absent; what lies there may be deleted at any time.

    Raises:
      DatasetError: no image is usable, or the cache file is damaged or holds something else.
      OSError: the cache cannot be written, e.g. the disk is full; nothing is left there then.
    """
    unusable: dict[str, str] = {}
    decoded = _decode(root, samples, preprocess, unusable, quiet=quiet)  # a generator: nothing happens yet
    shape = (len(samples), preprocess.size_px, preprocess.size_px, 3)
    if cache is None:
        pixels = np.empty(shape, np.uint8)
        for image, place in zip(decoded, pixels):  # the unusable leave places at the end
            place[...] = image
        return _image_set(samples, pixels[: len(samples) - len(unusable)], unusable)
    key = _key(root, samples, preprocess)
    path = cache / f"{preprocess.size_px}px-{key[:16]}.npy"
    if path.exists():
        pixels, failed = _open(path, key)
        # What could not be read then may be readable now: an unplugged disk must not thin out a data set for good.
        if all(isinstance(_load(root / name, preprocess), str) for name in failed):
            return _image_set(samples, pixels, failed)
    cache.mkdir(parents=True, exist_ok=True)
    _store(path, key, shape, decoded, unusable)
    return _image_set(samples, *_open(path, key))


def load_all(root: Path, samples: Sequence[Sample], preprocess: Preprocess) -> ImageSet:
    """All of these images.

    Raises:
      DatasetError: one cannot be read.
    """
    images = load_images(root, samples, preprocess, quiet=True)
    for path, reason in images.unusable.items():
        raise DatasetError(f"{root / path}: {reason}, expected a picture that can be read, as {len(samples)} others")
    return images


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


def _image_set(samples: Sequence[Sample], pixels: np.ndarray, unusable: dict[str, str]) -> ImageSet:
    return ImageSet([sample for sample in samples if sample.path not in unusable], pixels, unusable)


def _decode(
    root: Path, samples: Sequence[Sample], preprocess: Preprocess, unusable: dict[str, str], *, quiet: bool
) -> Iterator[np.ndarray]:
    """(S, S, 3) uint8 of each usable sample; why the others are not goes into `unusable`, by path."""
    progress = Progress(len(samples), quiet=quiet)
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for start in range(0, len(samples), _CHUNK):
                chunk = samples[start : start + _CHUNK]
                images = pool.map(lambda sample: _load(root / sample.path, preprocess), chunk)
                for done, (sample, image) in enumerate(zip(chunk, images, strict=True), start + 1):
                    if isinstance(image, str):
                        unusable[sample.path] = image
                    else:
                        yield image
                    progress.update(done, len(unusable))
    finally:
        progress.close()
    if len(unusable) == len(samples):
        path, reason = unusable.popitem()
        raise DatasetError(f"{root}: none of {len(samples)} images can be used, e.g. {path}: {reason}")


def _load(path: Path, preprocess: Preprocess) -> np.ndarray | str:
    """(S, S, 3) uint8, or the reason why there are none."""
    try:
        return preprocess(path)
    except DecodeError as error:
        return error.reason


def _key(root: Path, samples: Sequence[Sample], preprocess: Preprocess) -> str:
    """SHA-256 over all that decides the pixels: how, with what, and the files as far as the folder shows them."""
    decoder = [edge.__version__, *(features.version(name) for name in ("pil", "libjpeg_turbo", "zlib", "webp"))]
    digest = hashlib.sha256(json.dumps([1, replace(preprocess, scale=1.0).to_json(), decoder]).encode())
    for sample in samples:
        try:
            status = os.stat(root / sample.path)
            digest.update(f"\0{status.st_size} {status.st_mtime_ns} ".encode() + os.fsencode(sample.path))
        except OSError:
            digest.update(b"\0absent " + os.fsencode(sample.path))
    return digest.hexdigest()


def _store(
    path: Path, key: str, shape: tuple[int, ...], decoded: Iterable[np.ndarray], unusable: dict[str, str]
) -> None:
    """Writes a cache file through a temporary one; not by mapping it, where a full disk is no OSError but a SIGBUS."""
    crc = written = 0
    with replacing(path) as part, open(part, "wb") as file:  # unsynced: after a power cut the checksum is wrong
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for image in decoded:
            data = np.ascontiguousarray(image).data
            crc, written = zlib.crc32(data, crc), written + 1
            file.write(data)
        file.write(json.dumps({"key": key, "crc32": crc, "unusable": unusable}).encode() + b"\n")
        file.seek(0)  # numpy leaves room in a header for another number of rows
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (written, *shape[1:])})


def _open(path: Path, key: str) -> tuple[np.ndarray, dict[str, str]]:
    """Checks and maps a cache file."""
    try:
        mapped = np.load(path, mmap_mode="r")
        with open(path, "rb") as file:
            file.seek(mapped.offset + mapped.nbytes)
            trailer = json.loads(file.readline())
        is_whole, is_ours = zlib.crc32(mapped) == trailer["crc32"], trailer["key"] == key
        unusable = dict(trailer["unusable"])
    except (ValueError, KeyError, TypeError, EOFError, AttributeError) as error:  # of numpy's reader and of json's
        raise DatasetError(f"{path}: no cache of decoded images, or cut short; delete it to decode anew") from error
    if not is_whole:
        raise DatasetError(f"{path}: damaged: its pixels do not have their checksum; delete it to decode anew")
    if not is_ours:
        raise DatasetError(f"{path}: holds images of other files or preprocessing; delete it to decode anew")
    return np.asarray(mapped), unusable  # as a plain array: indexing a memmap costs microseconds more, each time
