"""Pixel formats that Pillow decodes, as 8-bit RGB, grey or RGBA."""

from __future__ import annotations

from PIL import Image


def to_8_bit(image: Image.Image) -> Image.Image:
    """Any mode Pillow decodes -> RGB, L or RGBA.

    Raises:
      ValueError: a mode whose values have no defined range, such as 32-bit integers.
    """
    mode = image.mode
    if mode.startswith("I;16"):
        return _shift_16_bit(image)
    if image.has_transparency_data:
        return image if mode == "RGBA" else image.convert("RGBA")
    if mode in ("RGB", "L"):
        return image
    if mode == "1":
        return image.convert("L")
    if mode in ("P", "CMYK", "YCbCr", "RGBX"):
        return image.convert("RGB")
    raise ValueError(f"pixel format {mode!r} has no defined 8-bit form: save it as 8-bit RGB")


def _shift_16_bit(image: Image.Image) -> Image.Image:
    """16-bit grey -> 8-bit by dropping the low byte; Pillow's own conversion saturates at 255 instead."""
    import numpy as np

    grey = np.asarray(image)
    shifted = Image.fromarray((grey >> 8).astype(np.uint8))
    key = image.info.get("transparency")
    if isinstance(key, int):
        shifted.putalpha(Image.fromarray(np.where(grey == key, 0, 255).astype(np.uint8)))
        return shifted.convert("RGBA")
    return shifted
