"""Photo-like test images of any size: the same bytes for one seed, machine and version of this package and Pillow.

For latency and demos, where no photo of a person may be shipped: what a decoder and a network cost depends on
the size, the bits per pixel and the kind of file, not on whose skin it is. `bench.photos.scene` draws the pictures.
"""

from __future__ import annotations

import errno
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from edge.output_files import write_output

from .scene import draw, falling, grid, to_bytes

_DRAWN = "Drawn by fairedge, shows nobody"


def encode(
    image: Image.Image, *, quality: int = 90, progressive: bool = False, is_turned: bool = False, comment: str = ""
) -> bytes:
    """An upright picture of mode RGB, L or CMYK as a JPEG file with its chroma halved (4:2:0), as cameras write it.

    Args:
      image: The picture.
      quality: 1 to 100.
      progressive: Whether the file is progressive; otherwise it is baseline.
      is_turned: Whether the pixels are stored as phones do whose camera is held upright: turned by a quarter, with the
        EXIF orientation that turns them back.
      comment: Text of the file's comment segment; "" writes none.

    Raises:
      ValueError: a quality out of range.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality: got {quality}, expected 1 to 100")
    exif = Image.Exif()
    if is_turned:
        exif[ExifTags.Base.Orientation] = 6  # row 0 is the right side, EXIF 2.32, tag 0x0112
        image = image.transpose(Image.Transpose.ROTATE_90)
    buffer = io.BytesIO()
    image.save(
        buffer, "JPEG", quality=quality, subsampling="4:2:0", progressive=progressive,
        exif=exif.tobytes() if is_turned else b"", comment=comment.encode() or None,
    )
    return buffer.getvalue()


@dataclass(frozen=True)
class SizeClass:
    """One size class of a mix."""

    percent: int
    """Share of the images, 0 to 100."""
    sizes: tuple[tuple[int, int, int], ...]
    """(width, height, percent of this class); the last sums to 100."""


ESFAIR = (
    SizeClass(30, ((600, 450, 70), (640, 480, 20), (450, 600, 10))),
    SizeClass(38, ((1024, 1024, 40), (1600, 1200, 15), (2048, 1536, 20), (2592, 1936, 25))),
    SizeClass(32, ((5184, 3456, 45), (5472, 3648, 20), (6000, 4000, 35))),
)
"""Sizes as in the ESFair 2023 contest.

Source: the slides of the entry "highport" count 3375 small, 4277 medium and 3560 large among 11,212 training images
and name 600x450, 2592x1936, 5184x3456 and 6000x4000. The shares inside a class are ours."""


def mix_sizes(mix: Sequence[SizeClass], count: int, *, seed: int = 0) -> list[tuple[int, int]]:
    """(width, height) of `count` images: exact counts by largest remainder, in shuffled order.

    Raises:
      ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count: got {count}, expected at least 1")
    sizes: list[tuple[int, int]] = []
    for size_class, in_class in zip(mix, largest_remainder(count, [c.percent for c in mix]), strict=True):
        shares = largest_remainder(in_class, [percent for _, _, percent in size_class.sizes])
        for (width, height, _), number in zip(size_class.sizes, shares, strict=True):
            sizes += [(width, height)] * number
    return [sizes[i] for i in _shuffled(count, seed, 1)]


def largest_remainder(count: int, percents: Sequence[int]) -> list[int]:
    """Whole numbers that sum to `count` and are as near to `percents` (which sum to 100) as whole numbers can be."""
    numbers = [count * percent // 100 for percent in percents]
    by_remainder = sorted(range(len(percents)), key=lambda i: (-(count * percents[i] % 100), i))
    for i in by_remainder[: count - sum(numbers)]:
        numbers[i] += 1
    return numbers


def mix_files(
    mix: Sequence[SizeClass], count: int, *, seed: int = 0, quality: int = 90, progressive_share: float = 0.0
) -> Iterator[tuple[str, bytes]]:
    """(file name, JPEG bytes) of each of `count` images of a mix, one at a time.

    The part `progressive_share`, 0 to 1, is progressive, rounded to the nearest number of images.

    Raises:
      ValueError: an argument out of range.
    """
    if not 0 <= progressive_share <= 1:
        raise ValueError(f"progressive share: got {progressive_share}, expected 0 to 1")
    sizes = mix_sizes(mix, count, seed=seed)
    is_progressive = set(_shuffled(count, seed, 2)[: math.floor(count * progressive_share + 0.5)])
    digits = max(4, len(str(count)))
    for index, (width, height) in enumerate(sizes):
        image, comment = draw(width, height, seed=seed, index=index), _comment(seed, index)
        data = encode(image, quality=quality, progressive=index in is_progressive, comment=comment)
        yield f"img_{index + 1:0{digits}d}.jpg", data


DEMO = (  # (file name, width, height, what is special); the size is that of the upright picture
    ("small.jpg", 320, 240, ""),
    ("dermoscope.jpg", 600, 450, ""),
    ("square.jpg", 1024, 1024, ""),
    ("camera.jpg", 6000, 4000, ""),
    ("rotated.jpg", 1936, 2592, "rotated"),
    ("progressive.jpg", 1600, 1200, "progressive"),
    ("grey.jpg", 800, 600, "grey"),
    ("cmyk.jpg", 800, 600, "cmyk"),
    ("cutout.png", 640, 480, "alpha"),
    ("läsion.jpg", 1024, 768, ""),
    ("SCAN0001.JPG", 1280, 960, ""),
    ("broken.jpg", 1024, 768, "truncated"),
)
"""The sizes and oddities that a folder of photos may hold. Only the truncated file cannot be decoded."""


def demo_files(*, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(file name, bytes) of each image of `DEMO`, one at a time."""
    for index, (name, width, height, special) in enumerate(DEMO):
        image = draw(width, height, seed=seed, index=index)
        comment = _comment(seed, index)
        if special == "alpha":
            yield name, _cutout_png(image, comment)
            continue
        image = image.convert({"grey": "L", "cmyk": "CMYK"}.get(special, "RGB"))
        is_progressive, is_turned = special == "progressive", special == "rotated"
        data = encode(image, progressive=is_progressive, is_turned=is_turned, comment=comment)
        yield name, data[: len(data) * 2 // 5] if special == "truncated" else data


def write(folder: Path, name: str, data: bytes) -> Path:
    """Writes a file that is whole or absent, whatever interrupts the writing; an earlier one is replaced.

    Raises:
      FileExistsError: there is a file of that name, and it was not drawn here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if path.is_file() and _DRAWN.encode() not in path.read_bytes():
        raise FileExistsError(errno.EEXIST, "is somebody's file, expected another folder", str(path))
    write_output(path, data)
    return path


def _comment(seed: int, index: int) -> str:
    return f"{_DRAWN}: seed {seed}, picture {index}"


def _shuffled(count: int, seed: int, what: int) -> list[int]:
    # The third number keeps the stream apart from those of the pictures, which are (seed, index).
    rng = np.random.Generator(np.random.PCG64((seed, 0, what)))
    return [int(i) for i in rng.permutation(count)]


def _cutout_png(image: Image.Image, comment: str) -> bytes:
    """The middle of a picture, opaque, in transparent surroundings with a soft edge."""
    width, height = image.size
    x, y = grid(image.size)
    distance = np.hypot(x / (width / height), y)  # 0 in the middle, 1 at the edges
    image.putalpha(Image.fromarray(to_bytes(255 * falling(distance, 0.9, 0.05))))
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", comment)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text, compress_level=1)
    return buffer.getvalue()
