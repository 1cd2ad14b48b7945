"""Pixels to network input: the only definition, used by the runtime, by training and by calibration.

A model file carries its `Preprocess` as JSON, so a network cannot meet other pixels than it was trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from .decode import Admit, Decoded, PixelLimits, Source, decode

ROTATIONS = {  # EXIF orientation -> what makes the stored picture upright. Source: EXIF 2.32, tag 0x0112
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Loaded:
    """One preprocessed image and what it cost."""

    pixels: np.ndarray
    """(S, S, 3) uint8 RGB."""
    width: int
    height: int
    """Stored size of the file in pixels, before EXIF rotation."""
    decode_ms: float
    """Wall time of reading and decoding."""
    resize_ms: float
    """Wall time of resizing, rotating and padding."""


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _is_scale(value: object) -> bool:
    scales = value if isinstance(value, tuple) else (value,)
    return len(scales) in (1, 3) and all(isinstance(s, float | int) and math.isfinite(s) and s > 0 for s in scales)


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "size_px": (lambda x: isinstance(x, int) and 8 <= x <= 4096, "an integer from 8 to 4096"),
    "resize": (lambda x: x in ("letterbox", "stretch", "crop"), "letterbox, stretch or crop"),
    "filter": (lambda x: x == "bilinear", "bilinear"),
    "draft_factor": (lambda x: isinstance(x, int) and 0 <= x <= 64, "0 to 64"),
    "apply_orientation": (lambda x: isinstance(x, bool), "true or false"),
    "pad_value": (_is_byte, "an integer from 0 to 255"),
    "background_rgb": (
        lambda x: isinstance(x, tuple) and len(x) == 3 and all(map(_is_byte, x)), "three integers from 0 to 255"
    ),
    "scale": (_is_scale, "one or three positive numbers"),
}
"""What the fields of a `Preprocess` may be."""


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the (S, S, 3) uint8 input of a network."""

    size_px: int = 128
    """Side S of the square result."""
    resize: str = "letterbox"
    """"letterbox" keeps the aspect ratio and pads, "stretch" ignores it, "crop" takes the central square."""
    filter: str = "bilinear"
    """Resampling filter; "bilinear", always antialiased (its support grows with the reduction)."""
    draft_factor: int = 2
    """A JPEG is decoded at the smallest scale that still has this many times the needed pixels on both sides.

    0: always at full size."""
    apply_orientation: bool = True
    """Whether the EXIF orientation is applied."""
    pad_value: int = 0
    """Value, 0 to 255, of all three channels in the padding of "letterbox"."""
    background_rgb: tuple[int, int, int] = (255, 255, 255)
    """Colour under transparent pixels."""
    scale: float | tuple[float, float, float] = 1 / 255
    """Factor from uint8 to the network's first convolution, one or one per channel.

    Applied in training and inside the exported graph, never by this package."""

    def __post_init__(self) -> None:
        for name, (is_valid, expected) in _RULES.items():
            if not is_valid(value := getattr(self, name)):
                raise ValueError(f"preprocess {name}: got {value!r}, expected {expected}")

    def __call__(self, source: Source) -> np.ndarray:
        """An image -> (S, S, 3) uint8 RGB.

        Raises:
          DecodeError: the image cannot be used.
        """
        return self.load(source).pixels

    def load(
        self, source: Source, *, out: np.ndarray | None = None, limits: PixelLimits = PixelLimits(),
        admit: Admit | None = None,
    ) -> Loaded:
        """Decodes and resizes one image.

        Args:
          source: A path, the bytes of a file, a PIL image, or an (H, W, 3) uint8 array of RGB.
          out: (S, S, 3) uint8, also a slice of a batch, written in place and undefined after a DecodeError. None makes
            a new array.
          limits: Largest accepted pictures.
          admit: Asked before large decodes, see `Admit`. What it admits is free again when this returns.

        Raises:
          DecodeError: the image cannot be used.
          ValueError: `out` has another shape or dtype.
        """
        shape = (self.size_px, self.size_px, 3)
        pixels = np.empty(shape, np.uint8) if out is None else out
        if pixels.shape != shape or pixels.dtype != np.uint8:
            raise ValueError(f"out: got {pixels.shape} {pixels.dtype}, expected {shape} uint8")
        start = perf_counter()
        decoded = self._decode(source, limits, admit)
        middle = perf_counter()
        self._place(decoded, pixels)
        return Loaded(pixels, *decoded.stored_size, 1e3 * (middle - start), 1e3 * (perf_counter() - middle))

    def fill_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels that the whole picture covers at the scale of the result."""
        side = self.size_px
        if self.resize == "stretch":
            return side, side
        reference = max(width, height) if self.resize == "letterbox" else min(width, height)
        return _rounded_ratio(side * width, reference), _rounded_ratio(side * height, reference)

    def upright(self, image: Image.Image, orientation: int) -> Image.Image:
        """A decoded picture of any size as RGB, turned by its EXIF orientation, 1 to 8, and on the background."""
        if self.apply_orientation and orientation in ROTATIONS:
            image = image.transpose(ROTATIONS[orientation])
        if image.mode == "RGBA":
            background = Image.new("RGBA", image.size, (*self.background_rgb, 255))
            image = Image.alpha_composite(background, image)
        return image if image.mode == "RGB" else image.convert("RGB")

    def to_json(self) -> str:
        """One line of JSON, the inverse of `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preprocess:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: no JSON object, a key missing or unknown, or a value out of range.
        """
        values: Any = json.loads(text)
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"preprocess: got {got}, expected the keys {', '.join(names)}")
        arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**arguments)

    def _decode(self, source: Source, limits: PixelLimits, admit: Admit | None) -> Decoded:
        """The picture with no more pixels than `_place` needs."""

        def needed_size(width: int, height: int) -> tuple[int, int]:
            fill_width, fill_height = self.fill_size(width, height)
            return self.draft_factor * fill_width, self.draft_factor * fill_height

        return decode(source, needed_size=needed_size if self.draft_factor else None, limits=limits, admit=admit)

    def _place(self, decoded: Decoded, out: np.ndarray) -> None:
        """Resizes, rotates and pads into `out`, (S, S, 3) uint8."""
        side = self.size_px
        is_crop = self.resize == "crop"
        size = (side, side) if is_crop else self.fill_size(*decoded.size)
        box = _central_square(decoded.box) if is_crop else decoded.box
        image = decoded.in_srgb(decoded.image.resize(size, Image.Resampling.BILINEAR, box=box))
        # Rotating the small result equals rotating first: the filter is symmetric, and padding comes after.
        image = self.upright(image, decoded.orientation)
        if image.size == (side, side):
            out[...] = np.asarray(image)
            return
        left, top = (side - image.width) // 2, (side - image.height) // 2
        out.fill(self.pad_value)
        out[top : top + image.height, left : left + image.width] = np.asarray(image)


def _rounded_ratio(numerator: int, denominator: int) -> int:
    """Nearest integer, halves up, at least 1: exact, where float rounding would depend on the platform."""
    return max(1, (2 * numerator + denominator) // (2 * denominator))


def _central_square(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, upper, right, lower = box
    side = min(right - left, lower - upper)
    left, upper = (left + right - side) / 2, (upper + lower - side) / 2
    return left, upper, left + side, upper + side
