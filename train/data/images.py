"""Images for training: decoded once by the runtime's own `Preprocess`, and kept as one array. No PyTorch is needed.

A cache file is a .npy file of (N, S, S, 3) uint8, which numpy opens by itself, and behind it a line of JSON: the key of
what was decoded, the CRC-32 of the pixels, the images that could not be used.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import features

import edge
from bench.dataset import DatasetError, Sample
from edge.device import usable_cores
from edge.errors import DecodeError
from edge.output_files import replacing
from edge.photo.preprocess import Preprocess
from edge.progress import Progress

_CHUNK = 256  # images decoded before any is stored: bounds what waits in memory for a slow disk


@dataclass(frozen=True)
class ImageSet:
    """A data set in memory, or in a file that is mapped to memory."""

    samples: list[Sample]  # the usable ones, in the order given
    pixels: np.ndarray  # (N, S, S, 3) uint8 RGB of these, read-only where it lies in a file
    unusable: dict[str, str]  # path -> reason of the images left out


def training_preprocess(preprocess: Preprocess, *, margin: float) -> Preprocess:
    """The same at a side larger by a share, 4096 at most: more detail for a warp to take from, and for nothing else."""
    return replace(preprocess, size_px=min(4096, round(preprocess.size_px * (1 + margin))))


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
    libraries = ("pil", "libjpeg_turbo", "zlib", "webp", "littlecms2", "libtiff")
    decoder = [edge.__version__, *(features.version(name) for name in libraries)]
    digest = hashlib.sha256(json.dumps([2, replace(preprocess, scale=1.0).to_json(), decoder]).encode())
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
