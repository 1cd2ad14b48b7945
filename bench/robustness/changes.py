"""Changes that must not change an answer: what each is called, how strong it is, and what it does to a picture.

Each takes an upright RGB picture and returns another; none draws anything at random. Exposure, white balance and noise
are made in linear light, where a sensor counts; what leaves 0 to 1 is clipped, as a camera clips it. Blur and the grain
of noise are measured on a picture whose short side is `SIDE_PX`, whatever size this one has: a photo of 24 megapixels
and its small copy look the same after it.

docs/robustness.md has names and strengths with their sources; a test holds the two together.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from ..srgb import to_linear, to_srgb

_QUALITY = 95  # of a JPEG whose quality is not the change
_EXACT_PIXELS = 150_000
"""Smaller pictures are saved exactly, as BMP: no network of 128 px or more has JPEGs of that size decoded scaled, and
saving as JPEG changes some answers by itself."""

Ratio = tuple[int, int]
"""Width to height."""

_COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255)}
_LONGEST = 3
"""Long side over short side that `resize` goes up to: a strip of 100 x 2,000 px would become 320 million pixels."""

SIDE_PX = 224
"""Short side on which blur and grain are measured: that of the pictures of ImageNet-C."""

DAYLIGHT_K = 6504
"""Light that a picture is taken to be balanced for: that of the white of sRGB."""

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_XYZ_TO_RGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
_ROWS = 256  # of a large picture that are held as floats at once
_LINEAR = to_linear(np.arange(256) / 255)  # of each value of a pixel
_STEPS = 1 << 14
_SRGB = to_srgb(np.arange(_STEPS + 1) / _STEPS)  # a quarter of a value wide where sRGB is steepest


@dataclass(frozen=True)
class Change:
    """One change of one strength."""

    kind: str  # the strengths of a kind are drawn in one picture
    strength: str  # in words
    apply: Callable[[Image.Image], Image.Image] = Image.Image.copy  # upright RGB picture -> the changed one
    quality: int | None = None
    """JPEG quality that the changed picture is saved with; None: exactly where it is small, else at 95."""

    @property
    def name(self) -> str:
        """As in the results and for `--fail-under`: kind and strength."""
        sign = "" if self.strength[0] in "+-" else "-"
        return f"{self.kind}{sign}{self.strength.replace(' ', '')}"

    def file_of(self, image: Image.Image) -> bytes:
        """The changed picture as a photo file; a JPEG has its colours halved, as cameras do."""
        changed, file = self.apply(image), io.BytesIO()
        if self.quality is None and changed.width * changed.height < _EXACT_PIXELS:
            changed.save(file, "BMP")
        else:
            changed.save(file, "JPEG", quality=self.quality or _QUALITY, subsampling="4:2:0")
        return file.getvalue()


def border(image: Image.Image, ratio: Ratio, colour: str) -> Image.Image:
    """The picture in the middle of the smallest frame of this ratio that holds it.

    The border's `colour` is "black", "white", or "edge", which is `edge_colour`.
    """
    width, height = _of_ratio(image.size, ratio, is_around=True)
    framed = Image.new("RGB", (width, height), _COLOURS[colour] if colour in _COLOURS else edge_colour(image))
    framed.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return framed


def crop(image: Image.Image, ratio: Ratio) -> Image.Image:
    """The largest part of this ratio around the picture's centre."""
    width, height = _of_ratio(image.size, ratio, is_around=False)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _of_ratio(size: tuple[int, int], ratio: Ratio, *, is_around: bool) -> tuple[int, int]:
    """The smallest rectangle of a ratio around one of this size, or the largest inside."""
    (width, height), (across, down) = size, ratio
    if (width * down >= height * across) == is_around:
        return width, _rounded(width * down, across)
    return _rounded(height * across, down), height


def _rounded(numerator: int, denominator: int) -> int:
    """Nearest integer, halves up, at least 1."""
    return max(1, (2 * numerator + denominator) // (2 * denominator))


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


def edge_colour(image: Image.Image) -> tuple[int, int, int]:
    """Median of each channel over the outermost 2 % of the short side, at least one pixel, all around."""
    pixels = np.asarray(image)
    depth = max(1, round(min(image.size) / 50))
    sides = [pixels]
    if min(image.size) > 2 * depth:
        sides = [pixels[:depth], pixels[-depth:], pixels[depth:-depth, :depth], pixels[depth:-depth, -depth:]]
    ring = np.concatenate([side.reshape(-1, 3) for side in sides])
    red, green, blue = np.median(ring, axis=0).round().astype(int).tolist()
    return red, green, blue


def exposure(image: Image.Image, stops: float) -> Image.Image:
    """The picture with 2 ** stops times the light."""
    return image.point(3 * to_srgb(_LINEAR * 2.0**stops).tolist())


def white_balance(image: Image.Image, kelvin: float) -> Image.Image:
    """The picture under the light of a black body, developed for daylight: orange below `DAYLIGHT_K`, blue above.

    The luminance of white is kept, as a camera's meter keeps it.
    """
    gains = _white(kelvin) / _white(DAYLIGHT_K)
    gains /= _LUMINANCE @ gains
    table: list[int] = to_srgb(gains[:, None] * _LINEAR).ravel().tolist()
    return image.point(table)


def saturation(image: Image.Image, factor: float) -> Image.Image:
    """The picture with its saturation multiplied, at most to 1; hue and value (of HSV) are kept.

    Source: Hendrycks and Dietterich, ImageNet-C, arXiv 1903.12261, `saturate`, which multiplies the S of HSV as well.
    """

    def changed(pixels: np.ndarray, _: np.ndarray) -> np.ndarray:
        red, green, blue = (pixels[..., channel] for channel in range(3))  # numpy is slow along an axis of three
        value = np.maximum(np.maximum(red, green), blue)[..., None].astype(np.float32)
        chroma = value - np.minimum(np.minimum(red, green), blue)[..., None]
        times = np.minimum(np.float32(factor), value / np.maximum(chroma, 1))  # at V / (V - min) the smallest is 0
        return np.asarray(np.rint(value - times * (value - pixels)).astype(np.uint8))

    return _by_rows(image, changed)


def blur(image: Image.Image, sigma: float) -> Image.Image:
    """Gaussian blur, sigma in pixels of a short side of `SIDE_PX`.

    Source: Hendrycks and Dietterich, ImageNet-C, `gaussian_blur`, there in pixels of 224. Differs: as Pillow makes
    it, by three box blurs.
    """
    return image.filter(ImageFilter.GaussianBlur(sigma * min(image.size) / SIDE_PX))


def noise(image: Image.Image, photons: float) -> Image.Image:
    """Shot noise: each channel of linear light x gets the standard deviation sqrt(x / photons).

    The noise follows from the pixels: equal pictures get equal noise. Its grain is a pixel of a short side of `SIDE_PX`
    (of the picture where that is smaller): noise of single pixels of a large photo is gone once it is made small.

    Source: Hendrycks and Dietterich, ImageNet-C, `shot_noise`, whose photons, counted at white, these are. Differs: in
    linear light, where photons are counted, and normal, which a count of photons nearly is.
    """
    width, height = image.size
    share = min(1.0, SIDE_PX / min(image.size))
    grid = max(1, round(height * share)), max(1, round(width * share))
    grain = np.random.default_rng(zlib.crc32(image.tobytes())).standard_normal((*grid, 3), np.float32)
    columns = np.arange(width) * grid[1] // width
    linear = _LINEAR.astype(np.float32)
    spread = np.sqrt(linear / np.float32(photons))

    def noisy(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        found = linear[pixels] + spread[pixels] * grain[rows * grid[0] // height][:, columns]
        return np.asarray(_SRGB[np.rint(np.clip(found, 0, 1) * _STEPS).astype(np.uint16)])

    return _by_rows(image, noisy)


def _by_rows(image: Image.Image, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Image.Image:
    """Some rows at a time through a function of (h, W, 3) uint8 pixels and the (h,) numbers of their rows."""
    pixels = np.asarray(image)
    changed = np.empty_like(pixels)
    for start in range(0, len(pixels), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(pixels)))
        changed[rows] = change(pixels[rows], rows)
    return Image.fromarray(changed)


def _white(kelvin: float) -> np.ndarray:
    """(3,) linear RGB of a black body of luminance 1.

    Source: Kang et al., Design of advanced color temperature control system for HDTV applications, J. Korean Phys. Soc.
    41, 2002: the Planckian locus as cubics, 1,667 to 25,000 K, here from 2,222 K.
    """
    t = 1000 / kelvin
    if kelvin <= 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    return np.asarray(_XYZ_TO_RGB @ np.array([x / y, 1.0, (1 - x - y) / y]))


_TURNS = {
    "90": Image.Transpose.ROTATE_90,
    "180": Image.Transpose.ROTATE_180,
    "270": Image.Transpose.ROTATE_270,
    "mirror": Image.Transpose.FLIP_LEFT_RIGHT,
    "mirror-90": Image.Transpose.TRANSPOSE,
    "mirror-180": Image.Transpose.FLIP_TOP_BOTTOM,
    "mirror-270": Image.Transpose.TRANSVERSE,
}
"""Mirrored left to right or not, then turned by so many degrees against the clock."""

CHANGES = (
    *(
        Change(f"border-{colour}", f"{across}:{down}", partial(border, ratio=(across, down), colour=colour))
        for colour in ("black", "white", "edge")
        for across, down in ((3, 4), (1, 1), (3, 2), (16, 9))
    ),
    *(Change("crop", f"{w}:{h}", partial(crop, ratio=(w, h))) for w, h in ((3, 4), (1, 1), (3, 2))),
    *(Change("short-side", f"{px} px", partial(resize, short_px=px)) for px in (64, 96, 192, 1800, 4000)),
    *(Change("shift", f"{share}", partial(shift, share=share)) for share in (0.1, 0.2)),
    *(Change("turn", name, partial(Image.Image.transpose, method=way)) for name, way in _TURNS.items()),
    *(Change("jpeg", f"{quality}", quality=quality) for quality in (75, 50, 30)),
    *(Change("blur", f"{sigma} px", partial(blur, sigma=sigma)) for sigma in (1, 2, 3)),
    *(Change("noise", f"{photons}", partial(noise, photons=photons)) for photons in (60, 25, 12)),
    *(
        Change("exposure", f"{stops:+.2g} EV", partial(exposure, stops=stops))
        for stops in (-2.0, -1.0, -0.5, 1 / 3, 2 / 3, 1.0)
    ),
    *(
        Change("white-balance", f"{kelvin} K", partial(white_balance, kelvin=kelvin))
        for kelvin in (3000, 3650, 4700, 7150, 8000, 9000)  # a third, two thirds and the whole way in mired
    ),
    *(
        Change("saturation", f"{factor}", partial(saturation, factor=factor))
        for factor in (0.1, 0.3, 0.6, 1.2, 1.5, 2)
    ),
)
"""Every change that is measured, the strengths of a kind in the order in which they are drawn."""

KINDS = {
    "border-black": "Black border, to a frame of",
    "border-white": "White border, to a frame of",
    "border-edge": "Border of the picture's own edge colour, to a frame of",
    "crop": "Centre crop to",
    "short-side": "Short side, px; a larger one holds no new detail",
    "shift": "Shift, by a share of the side",
    "turn": "Turned against the clock, or mirrored and turned",
    "jpeg": "JPEG quality",
    "blur": "Gaussian blur, sigma in px of a short side of 224",
    "noise": "Shot noise, photons at white",
    "exposure": "Exposure, EV",
    "white-balance": "White balance, K: taken under this light, developed for daylight",
    "saturation": "Saturation, times",
}
"""Kind of change -> its name for people, before the strength."""

TURN = "turn"
"""The kind that also has a mean: no way to hold a camera is stronger than another."""


def is_of(kind: str, asked: str) -> bool:
    """Whether a kind of change is this one: "border" is all colours of borders."""
    return f"{kind}-".startswith(f"{asked}-")
