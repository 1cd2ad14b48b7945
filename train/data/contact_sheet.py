"""A contact sheet of what a recipe makes of some pictures, to be looked at before a night of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..config import TrainConfig
from .augment import draw, render, step_rng, to_tensor

_GAP_PX = 6
_LABEL_PX = 150
_HEAD_PX = 28
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


def choose(labels: Sequence[str], groups: Sequence[str], count: int, *, seed: int) -> list[int]:
    """Picks pictures so that classes, and within them groups, come in turn; sorted by both."""
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    by_group = _in_turn(order, [(labels[i], groups[i]) for i in order])
    chosen = _in_turn(by_group, [labels[i] for i in by_group])[:count]
    return sorted(chosen, key=lambda i: (labels[i].lower(), labels[i], groups[i]))


def contact_sheet(
    pictures: np.ndarray, captions: Sequence[str], config: TrainConfig, *, seed: int, num_variants: int = 8
) -> Image.Image:
    """Each picture in a row: as it is, then as training may see it.

    Args:
      pictures: (N, s, s, 3) uint8 RGB of the training preprocessing.
      captions: (N,) what stands left of each; lines are separated by newlines, the first is set off.
      config: Its input side, augmentation and sampler: "balance" adds noise to all variants but the first.
      seed: Another gives other variants.
      num_variants: Columns beside the original.

    Returns:
      RGB at the network's input side, pixel for pixel; a small side is enlarged two or three times.
    """
    side = config.input.sizes_px[-1]
    zoom = max(1, min(3, 128 // side))
    shown = side * zoom
    pitch = shown + _GAP_PX
    width = _LABEL_PX + (num_variants + 1) * pitch + 2 * _GAP_PX
    sheet = Image.new("RGB", (width, _HEAD_PX + len(pictures) * pitch + _GAP_PX), _PAPER)
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(15), ImageFont.load_default(12)
    left = [_LABEL_PX + column * pitch + (2 * _GAP_PX if column else _GAP_PX) for column in range(num_variants + 1)]
    pen.text((left[0], 8), "original", _INK, small)
    if num_variants:
        pen.text((left[1], 8), f"as in training, {side} px, seed {seed}", _INK, small)
    for row, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        top = _HEAD_PX + row * pitch
        for line, text in enumerate(caption.split("\n")):
            style = (_FAINT, small) if line else (_INK, large)
            pen.text((_GAP_PX, top + line * 18), _shortened(pen, text, style[1]), *style)
        original = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
        for column, variant in enumerate([np.asarray(original), *_variants(picture, config, seed, row, num_variants)]):
            image = Image.fromarray(variant).resize((shown, shown), Image.Resampling.NEAREST)
            sheet.paste(image, (left[column], top))
    return sheet


def _in_turn(order: Sequence[int], keys: Sequence[Hashable]) -> list[int]:
    """The same order, but the first of every key before the second of any."""
    seen: Counter[Hashable] = Counter()
    turns = []
    for key in keys:
        seen[key] += 1
        turns.append(seen[key])
    return [order[i] for i in sorted(range(len(order)), key=turns.__getitem__)]


def _variants(picture: np.ndarray, config: TrainConfig, seed: int, row: int, count: int) -> np.ndarray:
    """(count, S, S, 3) uint8 with the noise, which is clipped here and not in training."""
    is_repeat = np.array([column > 0 and config.sample.sampler == "balance" for column in range(count)], bool)
    changes = draw(count, config.augment, step_rng(seed, row), is_repeat=is_repeat)
    copies = np.broadcast_to(picture, (count, *picture.shape))
    images = render(copies, changes, size_px=config.input.sizes_px[-1])
    noisy = to_tensor(images, changes, scale=torch.ones(3, 1, 1)).permute(0, 2, 3, 1)
    return np.asarray(noisy.round().clamp(0, 255).to(torch.uint8).numpy())


def _shortened(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The text, or as much of its end as fits: that is where files' names differ."""
    if pen.textlength(text, font) <= _LABEL_PX - _GAP_PX:
        return text
    while text and pen.textlength("..." + text, font) > _LABEL_PX - _GAP_PX:
        text = text[1:]
    return "..." + text
