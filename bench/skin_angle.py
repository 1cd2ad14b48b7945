"""An angle of the skin's colour per image (ITA), to see whether a model fails where photos are darker. An audit only.

    ITA = atan2(L* - 50, b*) * 180 / pi      of CIE L*a*b* under D65; larger is lighter

Eight patches along the border of the picture stand for the skin around the lesion. A patch that is mostly black (the
corners a dermatoscope leaves) or blown out has no vote; of the others the pixels within one standard deviation in L*
and b* remain (hairs, rulers and lesion drop out), and their median angle is the image's. Confidence is the share of
the eight patches that vote for it: whose own median is within 10 degrees. Below one half the image is `unknown_tone`.

The groups are quantiles of the images at hand, `ita_q1` (smallest angles, darkest) and on. They are no skin types, and
nothing is tuned on any label.

Source: Chardon et al., Skin colour typology and suntanning pathways, 1991 (ITA). That patches follow the lighting, and
that angles and experts' Fitzpatrick types disagree: arXiv 2504.04494; Groh et al., arXiv 2207.02942.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge.errors import DecodeError
from edge.image_list import collect
from edge.output_files import replacing
from edge.photo.preprocess import Preprocess
from edge.predictions import path_text

from . import dataset
from .srgb import to_linear

UNKNOWN = "unknown_tone"
MIN_CONFIDENCE = 0.5
"""Share of the patches that must agree."""

SHIFT_DEG = 5.0
"""How far the edges of the groups are moved to see how much hangs on them."""

CAVEATS = (
    "for audits alone: an angle of pixels is no skin type, no ground truth and never an input of a model",
    "it follows the lamp, the white balance, the camera and a dermatoscope's pressure as much as the skin; over 90 "
    "degrees the border is bluer than grey: a colour cast, not a tone",
    "groups are quantiles of these images: ita_q1 of one data set is not ita_q1 of another",
)

_SIDE_PX = 144
_PATCH_PX = 18
# A file's outermost pixels are often a frame or a ruler.
_INSET_PX = 6
# Pixels outside have no usable colour: the black around a dermatoscope's picture, and glare.
_DARKEST, _BRIGHTEST = 12.0, 99.0
_AGREE_DEG = 10.0

_LOAD = Preprocess(size_px=_SIDE_PX, resize="stretch")  # colour knows no proportions, and nothing is padded

# Source: IEC 61966-2-1 (sRGB to CIE XYZ), CIE 15:2004 (XYZ to L*a*b*), D65, 2 degrees.
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = _TO_XYZ.sum(1)


@dataclass(frozen=True)
class Angle:
    """What is estimated of one image."""

    path: str
    """Relative to the folder, "/"-separated."""
    ita_deg: float | None = None
    """-180 to 180; None where no patch shows anything but black or glare."""
    iqr_deg: float | None = None
    """Interquartile range of the pixels' angles."""
    pixels: int = 0
    """Pixels that the median is of."""
    confidence: float = 0.0
    """Share of the eight patches that agree, 0 to 1."""
    error: str = ""
    """Why the image could not be used."""

    @property
    def is_known(self) -> bool:
        """Whether the image belongs to a quantile group."""
        return self.ita_deg is not None and self.confidence >= MIN_CONFIDENCE


class Groups(NamedTuple):
    """The quantile groups of a list of images."""

    names: list[str]
    """Group of each image; an angle on a bound belongs to the group above."""
    moved: dict[float, float]
    """Degrees by which all bounds are moved -> share of the known images that change their group."""


def paths_of(root: Path) -> tuple[list[str], list[str]]:
    """Relative paths of a folder's images, a manifest's or else every image below it, and remarks on what is left out.

    Raises:
      DatasetError: no folder, or a manifest that cannot be used.
      InputError: a folder without images.
    """
    if not root.is_dir():
        raise dataset.DatasetError(f"{root}: {'is a file' if root.exists() else 'no such folder'}, expected a folder")
    if (root / dataset.MANIFEST).exists():
        return [sample.path for sample in dataset.index(root)], []
    inputs = collect([str(root)], recursive=True)
    return [os.path.relpath(path, root) for path in inputs.paths], inputs.remarks


def angles(root: Path, paths: Sequence[str]) -> Iterator[Angle]:
    """Estimates image by image, in order; one that cannot be decoded has an error and no angle."""
    for path in paths:
        name = path_text(path.replace(os.sep, "/"))
        try:
            pixels = _LOAD(os.path.join(root, path))
        except DecodeError as error:
            yield Angle(name, error=error.reason)
        else:
            yield estimate(pixels, name)


def estimate(pixels: np.ndarray, path: str = "") -> Angle:
    """The angle of one picture.

    Args:
      pixels: (H, W, 3) uint8 sRGB, at least 54 pixels on both sides.
      path: For the result.
    """
    patches = lab(_patches(pixels)).reshape(8, -1, 3)
    voting = [colours for colours in patches if _is_usable(colours).mean() >= 0.5]
    votes = [np.median(_ita(kept)) for colours in voting if len(kept := _steady(colours))]
    ita = _ita(_steady(np.concatenate(voting))) if voting else np.empty(0)
    if not len(ita):
        return Angle(path)
    low, middle, high = np.percentile(ita, (25, 50, 75)).tolist()
    agreeing = sum(abs(vote - middle) <= _AGREE_DEG for vote in votes)
    return Angle(path, middle, high - low, len(ita), agreeing / len(patches))


def lab(pixels: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 sRGB -> (..., 3) float64 L* 0 to 100, a*, b*."""
    relative = to_linear(pixels / 255.0) @ _TO_XYZ.T / _WHITE
    f = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)


def quantile_groups(found: Sequence[Angle], num_groups: int = 4) -> Groups:
    """Groups of equally many images by angle; `unknown_tone` for those of low confidence."""
    known = np.array([angle.ita_deg for angle in found if angle.is_known], np.float64)
    if not len(known):
        return Groups([UNKNOWN] * len(found), {})
    edges = np.quantile(known, np.arange(1, num_groups) / num_groups)
    own = np.searchsorted(edges, known, side="right")
    moved = {
        shift: float((np.searchsorted(edges + shift, known, side="right") != own).mean())
        for shift in (-SHIFT_DEG, SHIFT_DEG)
    }
    names = iter(f"ita_q{group + 1}" for group in own)
    return Groups([next(names) if angle.is_known else UNKNOWN for angle in found], moved)


def write_csv(path: Path, found: Sequence[Angle], names: Sequence[str]) -> None:
    """Writes path, ita_deg, iqr_deg, pixels, confidence, group: whole or absent."""
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "ita_deg", "iqr_deg", "pixels", "confidence", "group"))
        for angle, group in zip(found, names, strict=True):
            degrees = ("" if value is None else f"{value:.2f}" for value in (angle.ita_deg, angle.iqr_deg))
            writer.writerow((angle.path, *degrees, angle.pixels, f"{angle.confidence:.3f}", group))


def table(found: Sequence[Angle], groups: Groups) -> Iterator[str]:
    """The lines a person reads."""
    sizes = Counter(groups.names)
    width = len(UNKNOWN)  # the longest
    yield f"{'group':{width}}  images  angles"
    for name in sorted(sizes, key=lambda name: (name == UNKNOWN, len(name), name)):
        known = [a.ita_deg for a, own in zip(found, groups.names, strict=True) if own == name and a.ita_deg is not None]
        ends = f"{min(known):.1f} to {max(known):.1f} degrees" if known else "-"
        yield f"{name:{width}}  {sizes[name]:6}  {ends}"
    if failed := [angle for angle in found if angle.error]:
        yield f"not usable: {len(failed)} images, first {failed[0].path}: {failed[0].error}"
    if known := [angle.ita_deg for angle in found if angle.is_known and angle.ita_deg is not None]:
        cast = sum(abs(angle) > 90 for angle in known)
        yield f"over 90 degrees, a colour cast and no tone: {cast} of {len(known)} images ({cast / len(known):.1%})"
    for shift, share in groups.moved.items():
        yield f"edges moved by {shift:+.0f} degrees: {share:.1%} of the known images change their group"


def _patches(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (8, P, P, 3): corners and middles of the edges."""
    height, width, _ = pixels.shape
    far = _PATCH_PX + _INSET_PX
    rows, columns = ((_INSET_PX, (side - _PATCH_PX) // 2, side - far) for side in (height, width))
    corners = [(top, left) for i, top in enumerate(rows) for j, left in enumerate(columns) if (i, j) != (1, 1)]
    return np.stack([pixels[top : top + _PATCH_PX, left : left + _PATCH_PX] for top, left in corners])


def _steady(colours: np.ndarray) -> np.ndarray:
    """(P, 3) L*a*b* -> (K, 3): neither black nor glare, and within one standard deviation in L* and b*."""
    colours = colours[_is_usable(colours)]
    if not len(colours):
        return colours
    distance = np.abs(colours - colours.mean(0)) - colours.std(0)
    # Of two equal halves every pixel is exactly one deviation off, up to rounding.
    return np.asarray(colours[(distance[:, [0, 2]] <= 1e-9).all(1)])


def _is_usable(colours: np.ndarray) -> np.ndarray:
    return np.asarray((colours[:, 0] >= _DARKEST) & (colours[:, 0] <= _BRIGHTEST))


def _ita(colours: np.ndarray) -> np.ndarray:
    return np.asarray(np.degrees(np.arctan2(colours[:, 0] - 50, colours[:, 2])))
