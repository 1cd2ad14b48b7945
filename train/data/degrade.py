"""What cameras, screens and messengers do to a picture, on the small picture: light, blur, few pixels, JPEG.

Strengths are free of pixels, as the geometry of `augment.py` is: lengths are shares of the side.
"""

from __future__ import annotations

import cv2
import numpy as np

from bench.srgb import to_linear, to_srgb

from ..config import AugmentConfig

NUM_CHANCES, NUM_AMOUNTS = 4, 6
_BEST_QUALITY = 95
_LINEAR = to_linear(np.arange(256) / 255)
"""Linear light of each level."""


def draw_degradations(
    chance: np.ndarray, amounts: np.ndarray, config: AugmentConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is done to each picture of a batch.

    Args:
      chance: (N, NUM_CHANCES) float64 in [0, 1): whether it gets light, blur, fewer pixels, JPEG.
      amounts: (N, NUM_AMOUNTS) float64 in [0, 1): exposure, white balance, saturation, blur, fewer pixels, quality.
      config: How often and how much.

    Returns:
      (N, 3) float64 factors on the linear light of R, G and B, (N,) float64 factors on the saturation, and (N, 3)
      float64 blur as a share of the side, factor by which the side shrinks in between, quality of JPEG. 0, 1 and 0
      stand for nothing.
    """
    is_lit, is_blurred, is_coarse, is_jpeg = (
        chance < (config.p_light, config.p_blur, config.p_coarse, config.p_jpeg)
    ).T
    signed = 2 * amounts[:, :3] - 1
    exposure = 2 ** (config.exposure_ev * signed[:, 0])
    warmth = (1 + config.white_balance) ** signed[:, 1]
    light = exposure[:, None] * np.stack([warmth, np.ones_like(warmth), 1 / warmth], axis=1)
    saturation = (1 + config.saturation) ** signed[:, 2]
    blur = config.blur * amounts[:, 3]
    shrink = 1 + config.coarse * amounts[:, 4]
    quality = config.jpeg_quality + np.floor((_BEST_QUALITY - config.jpeg_quality + 1) * amounts[:, 5])
    losses = np.stack(
        [np.where(is_blurred, blur, 0), np.where(is_coarse, shrink, 1), np.where(is_jpeg, quality, 0)], axis=1
    )
    return np.where(is_lit[:, None], light, 1), np.where(is_lit, saturation, 1), losses


def relight(image: np.ndarray, factors: np.ndarray) -> None:
    """Multiplies the linear light of (S, S, 3) uint8 sRGB by (3,) factors, in place; what is too bright clips."""
    cv2.LUT(image, to_srgb(_LINEAR[:, None] * factors)[None], dst=image)


def lose_detail(image: np.ndarray, blur: float, shrink: float, quality: float) -> None:
    """Blurs, shrinks and enlarges, then passes through JPEG, (S, S, 3) uint8 RGB in place."""
    side = len(image)
    if blur:
        cv2.GaussianBlur(image, (0, 0), blur * side, dst=image)
    if shrink > 1:
        small = max(1, round(side / shrink))
        cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (side, side), dst=image)
    if quality:
        options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        assert decoded is not None  # of what was encoded a line above
        cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=image)
