"""Draws a close-up of skin with a lesion, of any size, the same pixels for the same seed.

A picture is drawn as a scene at a modest size (skin, lesion, furrows, hairs, light) and enlarged; only grain and
sensor noise are made at full size, so 24 megapixels take about a second. Their strength falls with the pixel count,
as it does in photos: at quality 90, 4:2:0, a file has about 2 to 3 bits per pixel at 600x450, 1.5 to 2.3 at 5
megapixels and 1.2 to 1.8 at 24.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

_SCENE_PX = 768  # longest side of the scene: skin, lesion and light have no finer detail
_HAIR_PX = 2048
_STRIP_ROWS = 256  # rows of float32 work at a time: a 6000x4000 picture stays under 500 MB

_SKIN = np.array(  # (6, 3) RGB, light to dark
    [(240, 206, 187), (229, 186, 160), (208, 160, 128), (170, 120, 88), (124, 82, 58), (86, 58, 46)], np.float32
)
_ABSORPTION = np.array(  # (3, 3) RGB of brown, near black and red: melanin and blood absorb blue more than red light
    [(0.55, 1.0, 1.35), (1.3, 1.6, 1.7), (0.3, 1.15, 1.1)], np.float32
)
_HAIR_CHROMA = (118.0, 136.0)  # Cb, Cr of dark brown


def draw(width: int, height: int, *, seed: int = 0, index: int = 0) -> Image.Image:
    """One close-up of skin with a lesion: mode RGB, of 16 to 20000 pixels a side.

    Equal seeds give equal pictures; skin, lesion, hairs and noise all depend on `index`, the number under this seed.

    Raises:
      ValueError: a number out of range.
    """
    for name, value in (("width", width), ("height", height)):
        if not 16 <= value <= 20000:
            raise ValueError(f"{name}: got {value}, expected 16 to 20000 pixels")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index: got {seed} and {index}, expected none below 0")
    rng = np.random.Generator(np.random.PCG64((seed, index)))
    scene = _scene(rng, _fit(width, height, _SCENE_PX))
    hair = _hair(rng, _fit(width, height, _HAIR_PX))
    luma, cb, cr = scene.convert("YCbCr").split()
    cover = np.asarray(hair.resize(scene.size), np.float32) / 255
    planes = [_luma(rng, luma, hair, (width, height))]
    for plane, brown in zip((cb, cr), _HAIR_CHROMA, strict=True):
        tinted = _mix(np.asarray(plane, np.float32), brown, cover) + _clouds(rng, scene.size, from_px=16)
        planes.append(Image.fromarray(to_bytes(tinted)).resize((width, height), Image.Resampling.BILINEAR))
    return Image.merge("YCbCr", planes).convert("RGB")


def _fit(width: int, height: int, longest: int) -> tuple[int, int]:
    """(width, height) reduced to a longest side, never enlarged."""
    factor = min(1.0, longest / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (1, W) and (H, 1) float32: 0 in the middle, the short side from -1 to 1."""
    half = np.float32(min(size) / 2)
    x, y = ((np.arange(side, dtype=np.float32) - (side - 1) / 2) / half for side in size)
    return x[None, :], y[:, None]


def _clouds(
    rng: np.random.Generator, size: tuple[int, int], *, from_px: float, to_px: float = 1.0, rise: float = 0.0
) -> np.ndarray:
    """(H, W) float32 of deviation 1: noise in cells of `from_px`, half of it, ... down to `to_px`.

    Each octave has (cell size) ** rise as its deviation. 0 gives amplitudes that fall as 1 / frequency.
    Source: Field, Relations between the statistics of natural images, J. Opt. Soc. Am. A 4, 1987: 1 / f.
    """
    width, height = size
    octaves = max(0, round(math.log2(max(1.0, from_px / to_px))))
    field = Image.new("F", (1, 1))
    for cell in [to_px * 2.0**k for k in range(octaves, -1, -1)]:
        columns, rows = math.ceil(width / cell) + 1, math.ceil(height / cell) + 1
        noise = rng.standard_normal((rows, columns), np.float32) * np.float32(cell**rise)
        noise += np.asarray(field.resize((columns, rows), Image.Resampling.BICUBIC))
        field = Image.fromarray(noise)
    clouds = np.asarray(field if field.size == size else field.resize(size, Image.Resampling.BICUBIC))
    return np.asarray(clouds / (clouds.std() + np.float32(1e-6)))


def falling(value: np.ndarray, middle: float, half_width: float) -> np.ndarray:
    """1 below `middle`, 0 above it, with a smooth edge."""
    t = np.clip((middle + half_width - value) / (2 * half_width), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _mix(under: np.ndarray, over: np.ndarray | float, cover: np.ndarray | float) -> np.ndarray:
    return under + (over - under) * cover


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Any float array -> uint8, rounded and held in 0 to 255."""
    return np.clip(values + np.float32(0.5), 0, 255).astype(np.uint8)


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Skin, furrows, lesion and light: mode RGB at a size where no detail is lost."""
    longest = max(size)
    tone = rng.uniform(0, len(_SKIN) - 1)
    lighter = min(int(tone), len(_SKIN) - 2)
    skin = _mix(_SKIN[lighter], _SKIN[lighter + 1], tone - lighter) + rng.normal(0, 4, 3)
    colour = np.broadcast_to(skin.astype(np.float32), (size[1], size[0], 3)).copy()  # (H, W, 3)

    blood = _clouds(rng, size, from_px=longest / 4, to_px=4, rise=0.4)
    colour += blood[..., None] * np.array((2.0, 4.5, 3.8), np.float32) * rng.uniform(0.5, 1.2)
    _add_lesion(rng, colour)
    cells = longest / rng.uniform(60, 110)
    ridges = np.abs(_clouds(rng, size, from_px=cells, to_px=max(1.0, cells / 4), rise=0.8))
    relief = np.minimum(ridges, 0.9) - 0.55  # a net of thin dark furrows
    x, y = grid(size)
    angle, fall = rng.uniform(0, 2 * math.pi), rng.uniform(0.03, 0.14)
    light = 1 + fall * (math.cos(angle) * x + math.sin(angle) * y) - rng.uniform(0.02, 0.12) * (x * x + y * y) / 2
    light = light * (1 + rng.uniform(0.03, 0.07) * relief)
    return Image.fromarray(to_bytes(colour * light[..., None]))


def _add_lesion(rng: np.random.Generator, colour: np.ndarray) -> None:
    """Paints a pigmented spot with an irregular border and uneven inside into (H, W, 3) float32."""
    size = (colour.shape[1], colour.shape[0])
    short = min(size)
    x, y = grid(size)
    x, y = x - rng.uniform(-0.25, 0.25), y - rng.uniform(-0.2, 0.2)
    turn, stretch = rng.uniform(0, math.pi), rng.uniform(0.7, 1.0)
    u, v = math.cos(turn) * x + math.sin(turn) * y, (math.cos(turn) * y - math.sin(turn) * x) / stretch
    theta = np.arctan2(v, u)
    border = np.full_like(theta, rng.uniform(0.25, 0.55))
    for k in range(2, 8):
        border *= 1 + rng.normal(0, 0.22 / k) * np.cos(k * theta + rng.uniform(0, 2 * math.pi))
    ragged = _clouds(rng, size, from_px=short / 6, to_px=2, rise=0.5)
    distance = np.hypot(u, v) / border + np.float32(0.07) * ragged  # 1 on the border
    cover = falling(distance, 1.0, rng.uniform(0.08, 0.25))

    mottled = _clouds(rng, size, from_px=short / 5, to_px=2, rise=0.6)
    depth = np.clip(0.62 + 0.16 * mottled + rng.uniform(-0.25, 0.1) * distance, 0.1, 0.95) * rng.uniform(0.7, 1.0)
    absorption = rng.dirichlet((2.0, 0.7, 0.7)) @ _ABSORPTION
    colour *= np.exp(-(cover * depth)[..., None] * absorption.astype(np.float32))

    offset_u, offset_v = (float(border.mean()) * rng.normal(0, 0.4) for _ in "uv")
    core = falling(np.hypot(u - offset_u, v - offset_v) / border + 0.2 * mottled, 0.45, 0.25) * cover
    colour *= (1 - rng.uniform(0.1, 0.55) * core)[..., None]
    dot_px = short / rng.uniform(50, 110)
    globules = _clouds(rng, size, from_px=dot_px, to_px=max(1.0, dot_px / 2), rise=1.0)
    colour *= (1 - rng.uniform(0, 0.35) * falling(-globules, -1.4, 0.8) * cover)[..., None]
    halo = falling(distance, 1.25, 0.35) * (1 - cover)  # a reddish rim
    colour += halo[..., None] * np.array((2, -7, -5), np.float32) * rng.uniform(0, 1.5)


def _hair(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Mode L, 0 to 255: how much of each pixel hairs cover. Some pictures have none, some many."""
    layer = Image.new("L", size)
    pen = ImageDraw.Draw(layer)
    longest = max(size)
    along = rng.uniform(0, 2 * math.pi)
    for _ in range(rng.choice((0, 2, 5, 9, 16, 30))):
        point = np.array([rng.uniform(-0.1, 1.1) * size[0], rng.uniform(-0.1, 1.1) * size[1]])
        direction, bend = rng.normal(along, 0.5), rng.normal(0, 0.05)
        step = longest * rng.uniform(0.01, 0.03)
        points = [point]
        for _ in range(20):
            direction += bend + rng.normal(0, 0.03)
            points.append(points[-1] + step * np.array([math.cos(direction), math.sin(direction)]))
        thickness = longest * rng.uniform(0.0008, 0.0026)
        darkness = int(rng.uniform(90, 235) * min(1.0, thickness))
        for i in range(20):  # thinner towards the tip
            taper = max(1, round(thickness * min(1.0, 1.5 - i / 16)))
            pen.line([*points[i], *points[i + 1]], fill=darkness, width=taper)
    return layer


def _luma(rng: np.random.Generator, scene: Image.Image, hair: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scene and hair enlarged, with grain and sensor noise of the full size: mode L."""
    width, height = size
    megapixels = width * height / 1e6
    # Larger pictures are softer pixel by pixel: lens, demosaicing and noise reduction. Fitted to the rates above.
    softness = megapixels ** -0.1
    grain_level = rng.uniform(4.4, 7.6) * softness
    noise_level = rng.uniform(3.4, 5.4) * softness
    grain = _clouds(rng, ((width + 1) // 2, (height + 1) // 2), from_px=24, rise=0.25)
    half = Image.fromarray(to_bytes(128 + 24 * grain))
    layers = [layer.resize(size, Image.Resampling.BICUBIC) for layer in (scene, half, hair)]

    result = np.empty((height, width), np.uint8)
    for top in range(0, height, _STRIP_ROWS):
        rows = (0, top, width, min(height, top + _STRIP_ROWS))
        base, texture, cover = (np.asarray(layer.crop(rows), np.float32) for layer in layers)
        noise = rng.standard_normal(base.shape, np.float32)
        texture -= 128
        texture *= base  # grain is relief: it scales with the light
        texture *= grain_level / 24 / 160
        noise *= noise_level
        base *= 1 - cover * np.float32(0.8 / 255)
        base += texture
        base += noise
        result[top : rows[3]] = to_bytes(base)
    return Image.fromarray(result)
