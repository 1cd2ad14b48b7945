"""Changes of a picture's light, colour and sharpness, as a camera makes them.

Each takes an upright RGB picture and returns another of its size. Exposure, white balance and noise are made in linear
light, where a sensor counts; what leaves 0 to 1 is clipped, as a camera clips it. Blur and the grain of noise are
measured on a picture whose short side is `SIDE_PX`, whatever size this one has: a photo of 24 megapixels and its small
copy look the same after it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from ..srgb import to_linear, to_srgb

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
