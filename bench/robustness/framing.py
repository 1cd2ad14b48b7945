"""Changes of a picture's frame: borders, crops, sizes, shifts and turns.

Each takes an upright RGB picture and returns another; none draws anything at random.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

Ratio = tuple[int, int]
"""Width to height."""

_COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255)}
_LONGEST = 3
"""Long side over short side that `resize` goes up to: a strip of 100 x 2,000 px would become 320 million pixels."""


def border(image: Image.Image, ratio: Ratio, colour: str) -> Image.Image:
    """The picture in the middle of the smallest frame of this ratio that holds it.

    The border's `colour` is "black", "white", or "edge", which is `edge_colour`.
    """
    (width, height), (across, down) = image.size, ratio
    if width * down >= height * across:
        height = _rounded(width * down, across)
    else:
        width = _rounded(height * across, down)
    framed = Image.new("RGB", (width, height), _COLOURS[colour] if colour in _COLOURS else edge_colour(image))
    framed.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return framed


def crop(image: Image.Image, ratio: Ratio) -> Image.Image:
    """The largest part of this ratio around the picture's centre."""
    (width, height), (across, down) = image.size, ratio
    if width * down >= height * across:
        width = _rounded(height * across, down)
    else:
        height = _rounded(width * down, across)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def resize(image: Image.Image, short_px: int) -> Image.Image:
    """The picture with a short side of so many pixels, bicubic; a long strip's long side is `_LONGEST` times that."""
    short, long = sorted(image.size)
    numerator, denominator = (short_px, short) if long <= _LONGEST * short else (_LONGEST * short_px, long)
    width, height = (_rounded(side * numerator, denominator) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def shift(image: Image.Image, share: float) -> Image.Image:
    """The picture moved right by a share of its width and down by that of its height, onto its `edge_colour`."""
    moved = Image.new("RGB", image.size, edge_colour(image))
    moved.paste(image, (round(share * image.width), round(share * image.height)))
    return moved


def turn(image: Image.Image, way: Image.Transpose) -> Image.Image:
    """The picture turned or mirrored."""
    return image.transpose(way)


def edge_colour(image: Image.Image) -> tuple[int, int, int]:
    """Median of each channel over the outermost 2 % of the short side, at least one pixel, all around."""
    pixels = np.asarray(image)
    depth = max(1, round(min(image.size) / 50))
    inner = pixels[depth:-depth, depth:-depth]
    if not inner.size:
        ring = pixels.reshape(-1, 3)
    else:
        sides = pixels[:depth], pixels[-depth:], pixels[depth:-depth, :depth], pixels[depth:-depth, -depth:]
        ring = np.concatenate([side.reshape(-1, 3) for side in sides])
    red, green, blue = np.median(ring, axis=0).round().astype(int).tolist()
    return red, green, blue


def _rounded(numerator: int, denominator: int) -> int:
    """Nearest integer, halves up, at least 1."""
    return max(1, (2 * numerator + denominator) // (2 * denominator))
