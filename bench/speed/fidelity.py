"""What scaled decoding costs in answers: every photo through the shipped path and through a full-size decode.

Contest photos are larger than the pictures in public sets, so `enlarge` makes photos of contest size out of small
ones: bicubic, then JPEG at quality 90, 4:2:0. Such photos lack fine detail, which real ones of that size often lack
as well; sensor noise is not added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from edge.classifier import Classifier
from edge.errors import DecodeError
from edge.photo.decode import Source

from ..photos.images import ESFAIR, encode, mix_sizes


@dataclass(frozen=True)
class Comparison:
    """One photo, decoded both ways."""

    path: str
    scaled_label: int
    full_label: int
    margin: float  # probability of the first class minus that of the second, after the full decode
    max_change: float  # largest change of any class's probability
    psnr_db: float  # of the network's input against that of the full decode; inf where they are equal


def compare(
    classifier: Classifier, paths: Sequence[str], *, enlarge: bool = False, seed: int = 0
) -> Iterator[Comparison]:
    """Yields one comparison per usable photo, in order.

    `enlarge`: each photo is first made as large as the contest's, sizes drawn with `seed`.
    """
    full = replace(classifier.preprocess, draft_factor=0)
    sizes = mix_sizes(ESFAIR, len(paths), seed=seed) if enlarge else []
    for i, path in enumerate(paths):
        try:
            source: Source = _enlarged(path, sizes[i]) if enlarge else path
            pair = np.stack([classifier.preprocess(source), full(source)])
        except DecodeError:
            continue
        rows = classifier.probabilities(classifier.logits(pair)).astype(np.float64)
        scaled_label, full_label = rows.argmax(axis=1).tolist()
        second, first = np.sort(rows[1])[-2:].tolist()
        change = float(np.abs(rows[0] - rows[1]).max())
        yield Comparison(path, scaled_label, full_label, first - second, change, _psnr_db(*pair))


def summarize(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Counts and worst cases, JSON-ready."""
    flips = [c for c in comparisons if c.scaled_label != c.full_label]
    differing = [c.psnr_db for c in comparisons if np.isfinite(c.psnr_db)]
    return {
        "images": len(comparisons),
        "decoded_alike": len(comparisons) - len(differing),
        "flips": [{"path": c.path, "margin": c.margin} for c in flips],
        "agreement": 1 - len(flips) / len(comparisons) if comparisons else None,
        "smallest_margin": min((c.margin for c in comparisons), default=None),
        "largest_change": max((c.max_change for c in comparisons), default=None),
        "psnr_db": {"min": min(differing), "median": median(differing)} if differing else None,
    }


def table(summary: dict[str, Any]) -> Iterator[str]:
    """The lines a person reads."""
    count, flips, psnr_db = summary["images"], summary["flips"], summary["psnr_db"]
    if not count:
        yield "no usable photos"
        return
    yield f"{count} photos, {count - len(flips)} with the label of a full decode ({summary['agreement']:.2%})"
    if psnr_db:
        yield (
            f"network input against the full decode: PSNR min {psnr_db['min']:.1f} dB, "
            f"median {psnr_db['median']:.1f} dB ({summary['decoded_alike']} decoded alike)"
        )
    yield (
        f"largest change of a probability {summary['largest_change']:.4f}; "
        f"smallest margin between first and second class {summary['smallest_margin']:.4f}"
    )
    for flip in flips:
        yield f"flip: {flip['path']} (margin {flip['margin']:.4f})"


def _enlarged(path: str, size: tuple[int, int]) -> bytes:
    try:
        image = Image.open(BytesIO(Path(path).read_bytes())).convert("RGB")
    except OSError as error:
        raise DecodeError(path, str(error)) from error
    factor = max(size) / max(image.size)
    large = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    return encode(large, quality=90)


def _psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10 * np.log10(255**2 / error) if error else float("inf")
