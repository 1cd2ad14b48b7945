"""Random variations of pictures: one homography and one warp each, whatever is asked for, then light, colours, detail.

Coordinates know no pixels: the square is -1 to 1 in x (right) and y (down), lengths are shares of its side. So a
teacher can see the same at its own side. All of step t follows from (seed, t): a resumed run and every rank of a
distributed one draw the same, and a rank renders only its slice.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch

from bench.srgb import to_linear, to_srgb

from ..config import AugmentConfig

NUM_CHANCES, NUM_AMOUNTS = 4, 6  # columns that `draw_degradations` takes

_STREAM = 0x5EED_A06  # keeps these numbers apart from the sampler's of the same seed
_BORDERS = {"reflect": cv2.BORDER_REFLECT_101, "black": cv2.BORDER_CONSTANT}
_CORNERS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
_MAX_PULL = 0.32  # Source: albumentations' Perspective, which folds larger draws back; keeps the corners convex
_FILLS = (0, 255, None)  # of bars: black, white, the colour of the picture's edge
_LUMA = np.array([0.299, 0.587, 0.114])  # Source: ITU-R BT.601
_BEST_QUALITY = 95
_LINEAR = to_linear(np.arange(256) / 255)  # light of each level


@dataclass(frozen=True)
class Changes:
    """What happens to each picture of a batch; independent of its side."""

    homography: np.ndarray  # (N, 3, 3) float64, from a point of the result to that of the picture that is seen there
    holes: np.ndarray  # (N, K, 4) float64 left, top, right, bottom of black squares; all 0 for none
    bars: np.ndarray  # (N, 4) float64 widths of bars at the left, top, right and bottom
    bar_fill: np.ndarray  # (N,) int64, an index of `_FILLS`
    light: np.ndarray  # (N, 3) float64 factors on the linear light of R, G and B
    colour: np.ndarray  # (N, 4) float64 factors on brightness, contrast, saturation, and the turn of the hue in radians
    losses: np.ndarray  # (N, 3) float64 blur, factor by which the side shrinks, quality of JPEG; 0, 1, 0 for nothing
    is_noisy: np.ndarray  # (N,) bool
    noise_seed: np.ndarray  # (N,) int64; each picture's own, so that a slice of a batch has the noise of the whole
    config: AugmentConfig  # has the border, and the noise's deviation

    def part(self, where: slice) -> Changes:
        """Those of a slice of the batch."""
        names = [field.name for field in fields(self) if field.name != "config"]
        return replace(self, **{name: getattr(self, name)[where] for name in names})


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The source of chance of one step, counted from the start of the run."""
    return np.random.default_rng((_STREAM, seed, step))


def draw(
    n: int, config: AugmentConfig, rng: np.random.Generator, *, is_repeat: np.ndarray | None = None
) -> Changes:
    """Draws the changes of a batch of n pictures, of all ranks together; `is_repeat`, (N,) bool, get noise in any case.

    The same numbers are taken from `rng` whatever the probabilities, so that two recipes that differ in one
    ingredient agree in all others.
    """
    chance = rng.random((n, 7))
    turns = rng.integers(4, size=n) * config.quarter_turns
    amounts = rng.uniform(-1, 1, (n, 8))
    pulls = rng.standard_normal((n, 4, 2))
    noise_seed = rng.integers(2**63, size=n)
    centres = rng.random((n, config.cutout_holes, 2))
    more_chance, more_amounts = rng.random((n, 1 + NUM_CHANCES)), rng.random((n, 4 + NUM_AMOUNTS))
    bar_fill = rng.integers(len(_FILLS), size=n)

    is_moved = chance[:, 2] < config.p_affine
    affine = np.where(is_moved[:, None], amounts[:, :4], 0)
    wider = (1 + config.aspect) ** np.where(is_moved, more_amounts[:, 0] - 0.5, 0)  # half of it on each side
    shift_x, shift_y = 2 * config.shift * affine[:, 2], 2 * config.shift * affine[:, 3]  # the side is 2
    pulls = np.where((chance[:, 3] < config.p_perspective)[:, None, None], config.perspective * pulls, 0)
    bars = _draw_bars(more_chance[:, 0] < config.p_bars, more_amounts[:, 1:4], config.bars)
    homography = (
        mirrors(chance[:, 0] < config.p_hflip, chance[:, 1] < config.p_vflip)
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


def draw_degradations(
    chance: np.ndarray, amounts: np.ndarray, config: AugmentConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What cameras, screens and messengers do to each picture of a batch.

    Args:
      chance: (N, 4) float64 in [0, 1): whether it gets light, blur, fewer pixels, JPEG.
      amounts: (N, 6) float64 in [0, 1): exposure, white balance, saturation, blur, fewer pixels, quality.
      config: How often and how much.

    Returns:
      `Changes.light`, (N,) float64 factors on the saturation, and `Changes.losses`.
    """
    is_lit, is_blurred, is_coarse, is_jpeg = (
        chance < (config.p_light, config.p_blur, config.p_coarse, config.p_jpeg)
    ).T
    signed = 2 * amounts[:, :3] - 1
    warmth = (1 + config.white_balance) ** signed[:, 1]
    light = (2 ** (config.exposure_ev * signed[:, :1])) * np.stack([warmth, np.ones_like(warmth), 1 / warmth], axis=1)
    quality = config.jpeg_quality + np.floor((_BEST_QUALITY - config.jpeg_quality + 1) * amounts[:, 5])
    losses = (
        np.where(is_blurred, config.blur * amounts[:, 3], 0),
        np.where(is_coarse, 1 + config.coarse * amounts[:, 4], 1),
        np.where(is_jpeg, quality, 0),
    )
    saturation = np.where(is_lit, (1 + config.saturation) ** signed[:, 2], 1)
    return np.where(is_lit[:, None], light, 1), saturation, np.stack(losses, axis=1)


def _draw_bars(has_bars: np.ndarray, amounts: np.ndarray, largest: float) -> np.ndarray:
    """(N, 4) widths at the left, top, right and bottom: two facing ones, of random shares of what they take."""
    taken = np.where(has_bars, 1 - 1 / (1 + largest * amounts[:, 0]), 0)
    share = np.where(amounts[:, 2] < 0.5, 0.5, 4 * amounts[:, 2] - 2.5).clip(0, 1)  # as often centred as not
    pair = np.stack([taken * share, taken * (1 - share)], axis=1)
    is_upright = amounts[:, 1:2] < 0.5
    return np.stack([np.where(is_upright, pair, 0), np.where(is_upright, 0, pair)], axis=2).reshape(-1, 4)


def mirrors(hflip: np.ndarray, vflip: np.ndarray) -> np.ndarray:
    """(N, 3, 3) that exchange left and right, and top and bottom, where the (N,) bools say so."""
    return _matrices(np.where(hflip, -1, 1), 0, 0, np.where(vflip, -1, 1))


def quarter_turns(turns: np.ndarray) -> np.ndarray:
    """(N, 3, 3) that turn counter-clockwise by (N,) times 90 degrees, as `np.rot90`; free of rounding."""
    return _rotations(np.array([1, 0, -1, 0])[turns], np.array([0, 1, 0, -1])[turns])


def affines(angle_rad: np.ndarray, zoom: np.ndarray, shift_x: np.ndarray, shift_y: np.ndarray) -> np.ndarray:
    """(N, 3, 3): rotated counter-clockwise about the centre, enlarged by `zoom`, then shifted right and down."""
    rotated = _rotations(np.cos(angle_rad) / zoom, np.sin(angle_rad) / zoom)
    return np.asarray(rotated @ _matrices(1, 0, 0, 1, -shift_x, -shift_y))


def scalings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N, 3, 3) that make a picture wider by (N,) x and higher by (N,) y about its centre."""
    return _matrices(1 / x, 0, 0, 1 / y)


def insets(widths: np.ndarray) -> np.ndarray:
    """(N, 3, 3) that shrink the whole square until it fits between bars, in their middle and without squeezing it.

    A border on a photo does the same to what the network sees after its crop.
    """
    left, top, right, bottom = widths.T
    larger = 1 / np.minimum(1 - left - right, 1 - top - bottom)
    return _matrices(larger, 0, 0, larger, (right - left) * larger, (bottom - top) * larger)


def perspectives(pulls: np.ndarray) -> np.ndarray:
    """(N, 3, 3) that spread over the whole square what lies between corners pulled in.

    `pulls` are (N, 4, 2) shares of the side, 0 to 0.32, in x and y, of the corners clockwise from the upper left.

    Source: albumentations' Perspective with keep_size, where they are |N(0, scale)| folded at 0.32.
    Differs: albumentations draws the scale from a range for each picture; here it is one number.
    """
    seen = (_CORNERS * (1 - 2 * pulls)).reshape(-1, 8)  # x, y of each corner
    of_x = np.column_stack([_CORNERS, np.ones(4)])
    rows = np.stack([np.hstack([of_x, 0 * of_x]), np.hstack([0 * of_x, of_x])], axis=1)  # x, y of each corner
    left = np.tile(rows.reshape(8, 6), (len(pulls), 1, 1))  # of h11 to h23; what h31 and h32 do depends on the target
    right = -seen[:, :, None] * np.repeat(_CORNERS, 2, axis=0)
    solved = np.linalg.solve(np.concatenate([left, right], axis=2), seen[:, :, None])[:, :, 0]
    matrix = np.concatenate([solved, np.ones((len(pulls), 1))], axis=1).reshape(-1, 3, 3)
    matrix[~pulls.any(axis=(1, 2))] = np.eye(3)  # not nearly: nothing asked for leaves every pixel as it was
    return matrix


def _rotations(cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    return _matrices(cos, -sin, sin, cos)  # y points down: this turns what is seen counter-clockwise


def _matrices(*values: np.ndarray | int) -> np.ndarray:
    """(N, 3, 3) float64 of xx, xy, yx, yy and where the centre goes, x and y: (N,) arrays or one number for all."""
    xx, xy, yx, yy, x, y = (*values, 0, 0)[:6]
    rows = np.broadcast_arrays(xx, xy, x, yx, yy, y, 0.0, 0.0, 1.0)
    return np.stack(rows, axis=1).reshape(-1, 3, 3)


def render(pictures: np.ndarray, changes: Changes, *, size_px: int) -> np.ndarray:
    """(N, s, s, 3) uint8 RGB -> (N, S, S, 3): one warp, then light and colours, bars, detail, and holes, last.

    Where nothing was drawn, pictures of the wanted side come out as they are. `to_tensor` adds the noise, in float.
    """
    images = np.empty((len(pictures), size_px, size_px, 3), np.uint8)
    matrices = _to_pixels(pictures.shape[1]) @ changes.homography @ np.linalg.inv(_to_pixels(size_px))
    holes, bars = ((lengths * size_px).round().astype(int) for lengths in (changes.holes, changes.bars))
    has_colour, is_lit = (changes.colour != (1, 1, 1, 0)).any(axis=1), (changes.light != 1).any(axis=1)
    flags, border = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, _BORDERS[changes.config.border]
    for i, image in enumerate(images):
        cv2.warpPerspective(pictures[i], matrices[i], (size_px, size_px), dst=image, flags=flags, borderMode=border)
        if is_lit[i]:
            relight(image, changes.light[i])
        if has_colour[i]:
            cv2.transform(image, _colour_matrix(image, *changes.colour[i]), dst=image)
        if bars[i].any():
            _paint_bars(image, bars[i], _FILLS[changes.bar_fill[i]])
        lose_detail(image, *changes.losses[i])
        for left, top, right, bottom in holes[i]:
            image[top:bottom, left:right] = 0
    return images


def to_tensor(
    images: np.ndarray, changes: Changes, *, scale: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Rendered pictures as the network's input, with their noise.

    The noise is N(0, noise_std) in shares of full range: on p * scale for a pixel p it is noise_std * 255 * scale.
    N(0, s) on (p / 255 - mean) / std, as in Li et al. (s = 0.03), is therefore noise_std = s * std, whatever the
    scale. It is not clipped, as theirs is not.

    Args:
      images: (N, S, S, 3) uint8 RGB, as `render` gave them.
      changes: The same that `render` took.
      scale: (3, 1, 1) float32 factor from uint8 to the network, on the CPU.
      out: Place of the (N, 3, S, S) float32 result, contiguous on the CPU; None makes one.
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


def _paint_bars(image: np.ndarray, widths: np.ndarray, fill: int | None) -> None:
    """Paints (S, S, 3) uint8 in place; without a fill in the mean colour of what touches the bar."""
    for turns, width in zip((-1, 0, 1, 2), widths):
        turned = np.rot90(image, turns)  # a view that has the bar's side on top
        turned[:width] = turned[width].mean(axis=0) if fill is None else fill


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
    saturate = saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1))
    # Rodrigues' rotation about (1, 1, 1) / sqrt(3)
    cross = np.array([(0, -1, 1), (1, 0, -1), (-1, 1, 0)]) / np.sqrt(3)
    turn = np.cos(hue_rad) * np.eye(3) + np.sin(hue_rad) * cross + (1 - np.cos(hue_rad)) / 3
    mean_grey = brightness * float(_LUMA @ np.array(cv2.mean(image)[:3]))
    offset = np.full((3, 1), (1 - contrast) * mean_grey)  # a grey, which neither saturation nor hue moves
    return np.hstack([turn @ saturate * (contrast * brightness), offset])
