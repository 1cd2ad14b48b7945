"""Random variations of pictures: one homography and one warp each, whatever is asked for, then what changes colours.

Everything is drawn in coordinates that know no pixels: the square is -1 to 1 in x (right) and y (down). So a teacher
can see the same geometry at its own side. All of step t follows from (seed, t) alone: a resumed run and every rank of
a distributed one draw the same, and a rank renders only its slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

import cv2
import numpy as np
import torch

from ..config import AugmentConfig
from .degrade import NUM_AMOUNTS, NUM_CHANCES, draw_degradations, lose_detail, relight

_STREAM = 0x5EED_A06  # keeps these numbers apart from the sampler's of the same seed
_BORDERS = {"reflect": cv2.BORDER_REFLECT_101, "black": cv2.BORDER_CONSTANT}
_CORNERS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
_MAX_PULL = 0.32  # Source: albumentations' Perspective, which folds larger draws back; keeps the corners convex
_FILLS = (0, 255, None)
"""Of bars: black, white, the colour of the picture's edge."""
_LUMA = np.array([0.299, 0.587, 0.114])  # Source: ITU-R BT.601


@dataclass(frozen=True)
class Changes:
    """What happens to each picture of a batch; independent of its side."""

    homography: np.ndarray
    """(N, 3, 3) float64, from a point of the result to the point of the picture that is seen there."""
    holes: np.ndarray
    """(N, K, 4) float64 left, top, right, bottom of black squares as shares of the side; all 0 for none."""
    bars: np.ndarray
    """(N, 4) float64 widths of bars at the left, top, right and bottom, as shares of the side."""
    bar_fill: np.ndarray
    """(N,) int64, an index of `_FILLS`."""
    light: np.ndarray
    """(N, 3) float64 factors on the linear light of R, G and B."""
    colour: np.ndarray
    """(N, 4) float64 factors on brightness, contrast and saturation, and the turn of the hue in radians."""
    losses: np.ndarray
    """(N, 3) float64 blur, shrinking and JPEG quality, see `degrade.draw_degradations`."""
    is_noisy: np.ndarray
    """(N,) bool."""
    noise_seed: np.ndarray
    """(N,) int64; each picture's own, so that a slice of a batch has the noise of the whole."""
    config: AugmentConfig
    """Where the border and the noise's deviation are taken from."""

    def part(self, where: slice) -> Changes:
        """Those of a slice of the batch."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "config"}
        return Changes(**{name: array[where] for name, array in arrays.items()}, config=self.config)


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The source of chance of one step, counted from the start of the run."""
    return np.random.default_rng((_STREAM, seed, step))


def draw(
    n: int, config: AugmentConfig, rng: np.random.Generator, *, is_repeat: np.ndarray | None = None
) -> Changes:
    """Draws the changes of a batch.

    The same numbers are taken from `rng` whatever the probabilities, so that two recipes that differ in one
    ingredient agree in all others.

    Args:
      n: Pictures in the whole batch, of all ranks together.
      config: What may happen.
      rng: `step_rng` of the step.
      is_repeat: (N,) bool; pictures that get noise in any case, because the epoch has them already.
    """
    chance = rng.random((n, 7))
    turns = rng.integers(4, size=n) * config.quarter_turns
    amounts = rng.uniform(-1, 1, (n, 8))
    pulls = rng.standard_normal((n, 4, 2))
    noise_seed = rng.integers(2**63, size=n)
    centres = rng.random((n, config.cutout_holes, 2))
    more_chance, more_amounts = rng.random((n, 1 + NUM_CHANCES)), rng.random((n, 4 + NUM_AMOUNTS))
    bar_fill = rng.integers(len(_FILLS), size=n)

    hflip, vflip = chance[:, 0] < config.p_hflip, chance[:, 1] < config.p_vflip
    is_moved = chance[:, 2] < config.p_affine
    affine = np.where(is_moved[:, None], amounts[:, :4], 0)
    wider = (1 + config.aspect) ** np.where(is_moved, more_amounts[:, 0] - 0.5, 0)  # half of it on each side
    shift_x, shift_y = 2 * config.shift * affine[:, 2], 2 * config.shift * affine[:, 3]  # the side is 2
    pulls = np.where((chance[:, 3] < config.p_perspective)[:, None, None], config.perspective * pulls, 0)
    bars = _draw_bars(more_chance[:, 0] < config.p_bars, more_amounts[:, 1:4], config.bars)
    homography = (
        mirrors(hflip, vflip)
        @ quarter_turns(turns)
        @ affines(np.radians(config.rotate_deg) * affine[:, 0], (1 + config.zoom) ** affine[:, 1], shift_x, shift_y)
        @ scalings(wider, 1 / wider)
        @ perspectives(np.abs(pulls) % _MAX_PULL)
        @ insets(bars)
    )
    # A hole's centre lies anywhere, so that it may be cut by the border. Source: DeVries and Taylor, Cutout, 2017.
    corners = np.concatenate([centres - config.cutout_size / 2, centres + config.cutout_size / 2], axis=2).clip(0, 1)
    holes = np.where((chance[:, 4] < config.p_cutout)[:, None, None], corners, 0)
    jitter = np.where((chance[:, 5] < config.p_jitter)[:, None], config.jitter * amounts[:, 4:], 0)
    colour = jitter * (1, 1, 1, 2 * np.pi) + (1, 1, 1, 0)
    light, saturation, losses = draw_degradations(more_chance[:, 1:], more_amounts[:, 4:], config)
    colour[:, 2] *= saturation
    is_noisy = chance[:, 6] < config.p_noise
    if is_repeat is not None:
        is_noisy |= is_repeat
    return Changes(homography, holes, bars, bar_fill, light, colour, losses, is_noisy, noise_seed, config)


def _draw_bars(has_bars: np.ndarray, amounts: np.ndarray, largest: float) -> np.ndarray:
    """(N, 4) widths at the left, top, right and bottom: two facing ones, of random shares of what they take."""
    taken = np.where(has_bars, 1 - 1 / (1 + largest * amounts[:, 0]), 0)
    is_upright = amounts[:, 1] < 0.5
    share = np.where(amounts[:, 2] < 0.5, 0.5, 4 * amounts[:, 2] - 2.5).clip(0, 1)  # as often centred as not
    first, second = taken * share, taken * (1 - share)
    pair = np.stack([first, second], axis=1)
    widths = np.zeros((len(taken), 4))
    widths[:, 0::2], widths[:, 1::2] = np.where(is_upright[:, None], pair, 0), np.where(is_upright[:, None], 0, pair)
    return widths


def mirrors(hflip: np.ndarray, vflip: np.ndarray) -> np.ndarray:
    """(N, 3, 3) that exchange left and right, and top and bottom, where the (N,) bools say so."""
    matrix = np.tile(np.eye(3), (len(hflip), 1, 1))
    matrix[hflip, 0, 0] = matrix[vflip, 1, 1] = -1
    return matrix


def quarter_turns(turns: np.ndarray) -> np.ndarray:
    """(N, 3, 3) that turn counter-clockwise by (N,) times 90 degrees, as `np.rot90`; free of rounding."""
    cos, sin = np.array([1.0, 0, -1, 0])[turns], np.array([0.0, 1, 0, -1])[turns]
    return _rotations(cos, sin)


def affines(angle_rad: np.ndarray, zoom: np.ndarray, shift_x: np.ndarray, shift_y: np.ndarray) -> np.ndarray:
    """(N, 3, 3): rotated counter-clockwise about the centre, enlarged by `zoom`, then shifted right and down."""
    matrix = _rotations(np.cos(angle_rad) / zoom, np.sin(angle_rad) / zoom)
    offset = np.tile(np.eye(3), (len(zoom), 1, 1))
    offset[:, 0, 2], offset[:, 1, 2] = -shift_x, -shift_y
    return np.asarray(matrix @ offset)


def scalings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N, 3, 3) that make a picture wider by (N,) x and higher by (N,) y about its centre."""
    matrix = np.tile(np.eye(3), (len(x), 1, 1))
    matrix[:, 0, 0], matrix[:, 1, 1] = 1 / x, 1 / y
    return matrix


def insets(widths: np.ndarray) -> np.ndarray:
    """(N, 3, 3) that shrink the whole square until it fits between bars, in their middle and without squeezing it.

    A border on a photo does the same to what the network sees after its crop. What shrinking lays bare beside the
    ends of the bars is filled like everything outside the picture.

    Args:
      widths: (N, 4) shares of the side at the left, top, right and bottom, each pair below 1 together.
    """
    left, top, right, bottom = widths.T
    scale = np.minimum(1 - left - right, 1 - top - bottom)
    matrix = scalings(scale, scale)
    matrix[:, 0, 2] = (right - left) * matrix[:, 0, 0]  # from the centre of what is free
    matrix[:, 1, 2] = (bottom - top) * matrix[:, 1, 1]
    return matrix


def perspectives(pulls: np.ndarray) -> np.ndarray:
    """(N, 3, 3) that spread over the whole square what lies between corners pulled in.

    Args:
      pulls: (N, 4, 2) shares of the side, 0 to 0.32, in x and y, of the corners clockwise from the upper left.

    Source: albumentations' Perspective with keep_size; `pulls` is |N(0, scale)| folded at 0.32.
    Differs: albumentations draws the scale from a range for each picture; here it is one number.
    """
    seen = (_CORNERS * (1 - 2 * pulls)).reshape(-1, 8)  # x, y of each corner
    x, y = _CORNERS.T
    of_x = np.stack([x, y, np.ones(4)], axis=1)
    rows = np.stack([np.hstack([of_x, 0 * of_x]), np.hstack([0 * of_x, of_x])], axis=1)  # x, y of each corner
    left = np.tile(rows.reshape(8, 6), (len(pulls), 1, 1))  # of h11 to h23; what h31 and h32 do depends on the target
    right = -seen[:, :, None] * np.repeat(_CORNERS, 2, axis=0)
    solved = np.linalg.solve(np.concatenate([left, right], axis=2), seen[:, :, None])[:, :, 0]
    matrix = np.concatenate([solved, np.ones((len(pulls), 1))], axis=1).reshape(-1, 3, 3)
    matrix[~pulls.any(axis=(1, 2))] = np.eye(3)  # not nearly: nothing asked for leaves every pixel as it was
    return matrix


def render(
    pictures: np.ndarray, changes: Changes, *, size_px: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Warps each picture once, straight to the wanted side; then light and colours, bars, detail, and holes, last.

    Args:
      pictures: (N, s, s, 3) uint8 RGB.
      changes: Of N pictures; without any, pictures of the wanted side come out as they are.
      size_px: Side S of the result.
      out: (N, S, S, 3) uint8, written in place; None makes a new array.

    Returns:
      (N, S, S, 3) uint8 RGB, without the noise, which `to_tensor` adds in float.
    """
    images = np.empty((len(pictures), size_px, size_px, 3), np.uint8) if out is None else out
    matrices = _to_pixels(pictures.shape[1]) @ changes.homography @ np.linalg.inv(_to_pixels(size_px))
    holes = (changes.holes * size_px).round().astype(int)
    bars = (changes.bars * size_px).round().astype(int)
    has_colour, is_lit = (changes.colour != (1, 1, 1, 0)).any(axis=1), (changes.light != 1).any(axis=1)
    flags, border = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, _BORDERS[changes.config.border]
    for i, picture in enumerate(pictures):
        cv2.warpPerspective(picture, matrices[i], (size_px, size_px), dst=images[i], flags=flags, borderMode=border)
        if is_lit[i]:
            relight(images[i], changes.light[i])
        if has_colour[i]:
            cv2.transform(images[i], _colour_matrix(images[i], *changes.colour[i]), dst=images[i])
        if bars[i].any():
            _paint_bars(images[i], *bars[i], fill=_FILLS[changes.bar_fill[i]])
        lose_detail(images[i], *changes.losses[i])
        for left, top, right, bottom in holes[i]:
            images[i, top:bottom, left:right] = 0
    return images


def to_tensor(
    images: np.ndarray, changes: Changes, *, scale: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Rendered pictures as the network's input, with their noise.

    The noise is N(0, noise_std) for each value and channel in shares of full range: on an input of p * scale for a
    pixel p it is noise_std * 255 * scale. N(0, s) on the tensor (p / 255 - mean) / std, as in Li et al. (s = 0.03),
    is therefore noise_std = s * std, whatever scale is in use here. It is not clipped, as theirs is not.

    Args:
      images: (N, S, S, 3) uint8 RGB, as `render` gave them.
      changes: The same that `render` took.
      scale: (3, 1, 1) float32 factor from uint8 to the network, on the CPU.
      out: (N, 3, S, S) float32 contiguous CPU tensor, written in place; None makes a new one.

    Returns:
      (N, 3, S, S) float32.
    """
    shape = (len(images), 3, *images.shape[1:3])
    tensor = torch.empty(shape) if out is None else out
    values, factor = tensor.numpy(), scale.numpy()
    std = np.array(changes.config.noise_std, np.float32)[:, None, None] * 255 * factor
    for i, image in enumerate(images):
        np.multiply(image.transpose(2, 0, 1), factor, out=values[i])
        if changes.is_noisy[i]:
            noise = np.random.default_rng(changes.noise_seed[i]).standard_normal(shape[1:], dtype=np.float32)
            values[i] += np.multiply(noise, std, out=noise)
    return tensor


def empty_images(n: int, size_px: int, *, pin: bool = False) -> torch.Tensor:
    """(N, 3, S, S) float32 that `to_tensor` may fill, in pages of its own, or page-locked ones.

    Of batches of 20 MB that come and go, malloc keeps 0.3 GB in heaps that it cannot give back.
    """
    shape = (n, 3, size_px, size_px)
    if pin:
        return torch.empty(shape, pin_memory=True)
    pages = mmap(-1, 4 * math.prod(shape), flags=MAP_PRIVATE | MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.float32).view(shape)


def _paint_bars(image: np.ndarray, left: int, top: int, right: int, bottom: int, *, fill: int | None) -> None:
    """Paints (S, S, 3) uint8 in place; without a fill in the mean colour of what touches the bar."""
    side = len(image)
    for bar, edge in (
        (image[:, :left], image[:, left : left + 1]),
        (image[:top], image[top : top + 1]),
        (image[:, side - right :], image[:, side - right - 1 : side - right]),
        (image[side - bottom :], image[side - bottom - 1 : side - bottom]),
    ):
        if bar.size:
            bar[...] = edge.mean(axis=(0, 1)) if fill is None else fill


def _rotations(cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    matrix = np.tile(np.eye(3), (len(cos), 1, 1))
    matrix[:, 0, 0] = matrix[:, 1, 1] = cos
    matrix[:, 0, 1], matrix[:, 1, 0] = -sin, sin  # y points down: this turns what is seen counter-clockwise
    return matrix


def _to_pixels(side: int) -> np.ndarray:
    """From the square to pixels, whose centres are the integers: -1 is the outer edge of pixel 0."""
    return np.array([[side / 2, 0, (side - 1) / 2], [0, side / 2, (side - 1) / 2], [0, 0, 1]])


def _colour_matrix(
    image: np.ndarray, brightness: float, contrast: float, saturation: float, hue_rad: float
) -> np.ndarray:
    """(3, 4): brightness, contrast about the picture's mean grey, saturation about each pixel's grey, and hue.

    Linear in RGB, so that four changes are one pass over the pixels, as the geometry is one warp.
    Differs: torchvision turns the hue in HSV, here it is a rotation about the grey axis: that keeps the sum of R, G, B.
    """
    grey = np.tile(_LUMA, (3, 1))
    saturate = saturation * np.eye(3) + (1 - saturation) * grey
    # Rodrigues' rotation about (1, 1, 1) / sqrt(3)
    cross = np.array([(0, -1, 1), (1, 0, -1), (-1, 1, 0)]) / np.sqrt(3)
    turn = np.cos(hue_rad) * np.eye(3) + np.sin(hue_rad) * cross + (1 - np.cos(hue_rad)) / 3
    mean_grey = brightness * float(_LUMA @ np.array(cv2.mean(image)[:3]))
    offset = np.full((3, 1), (1 - contrast) * mean_grey)  # a grey, which neither saturation nor hue moves
    return np.hstack([turn @ saturate * (contrast * brightness), offset])
