"""The curve between sRGB values and linear light.

Source: IEC 61966-2-1.
"""

from __future__ import annotations

import numpy as np


def to_linear(values: np.ndarray) -> np.ndarray:
    """sRGB values, 0 to 1 -> float64 linear light, 0 to 1."""
    return np.asarray(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4))


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light, clipped to 0 to 1 -> uint8 sRGB; the inverse of `to_linear`."""
    clipped = np.clip(linear, 0, 1)
    values = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * values).astype(np.uint8))
