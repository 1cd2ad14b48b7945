"""A copy of a data set in which every picture is turned or mirrored.

A lesion has no up: what a network says of the copy should be as right as what it says of the original. One that was
trained on pictures as they came may have learned which way they are held.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from edge.decode import decode
from edge.errors import DecodeError
from edge.outputs import write_output
from edge.preprocess import ROTATIONS

from .dataset import MANIFEST, DatasetError, Sample, index

WAYS = tuple(Image.Transpose)
"""The seven ways to turn or mirror a picture that do not leave it as it is."""


def way_of(path: str) -> Image.Transpose:
    """How a picture is turned: by its path, so that a copy is the same on every machine."""
    return WAYS[zlib.crc32(os.fsencode(path)) % len(WAYS)]


def samples_of(root: Path, out: Path) -> list[Sample]:
    """What would be copied.

    Raises:
      DatasetError: no data set, or the copy would lie in it.
    """
    samples = index(root)
    if out.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"{out}: lies in the data set {root}, expected another folder")
    return samples


def write_turned(root: Path, samples: list[Sample], out: Path) -> Iterator[DecodeError | None]:
    """Writes the copy, the manifest first: the same paths, classes, groups and clusters.

    Every picture is upright by its EXIF tag before it is turned, and a PNG inside, whatever its name says, so that
    nothing is lost. A file that cannot be decoded is copied as it is; what is no file, or cannot be read, is not there.

    Args:
      root: The data set.
      samples: Of `samples_of`.
      out: Folder, empty or to be made: what lies there is not looked at.

    Yields:
      After each picture, why it could not be decoded, or None.

    Raises:
      OSError: something cannot be written; `filename` is the file.
    """
    out.mkdir(parents=True, exist_ok=True)
    if (root / MANIFEST).exists():
        write_output(out / MANIFEST, (root / MANIFEST).read_bytes())
    for sample in samples:
        failure, content = None, None
        try:
            content = _turned(root / sample.path, way_of(sample.path))
        except DecodeError as error:
            failure, content = error, _bytes_of(root / sample.path)
        if content is not None:
            (out / sample.path).parent.mkdir(parents=True, exist_ok=True)
            write_output(out / sample.path, content)
        yield failure


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None  # a pipe would never end
    except OSError:
        return None


def _turned(path: Path, way: Image.Transpose) -> bytes:
    decoded = decode(path)
    image = decoded.image
    if decoded.orientation in ROTATIONS:
        image = image.transpose(ROTATIONS[decoded.orientation])
    buffer = io.BytesIO()
    image.transpose(way).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
