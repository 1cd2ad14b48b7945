"""Scaled against full decoding: every photo through the shipped path and through a full-size decode.

Contest photos are larger than the pictures in public sets, so `enlarge` makes photos of contest size out of small
ones: bicubic, then JPEG at quality 90, 4:2:0. Such photos lack fine detail, which real ones of that size often lack
as well; sensor noise is not added.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from bench.photos.images import ESFAIR, encode, mix_sizes
from edge.arguments import ArgumentParser, natural, positive
from edge.classifier import DEFAULT_MODEL, Classifier
from edge.errors import DecodeError, InputError
from edge.exit import DONE, SOME_FAILED, say
from edge.image_list import collect
from edge.photo.decode import Source
from edge.progress import Progress

HELP = "compare scaled with full decoding"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("images", nargs="+", metavar="PATH", help="as for edge-infer: file, folder, pattern, @list.txt, -")
    add("-m", "--model", type=Path, metavar="FILE", help="model (.onnx); default: the bundled one")
    add("-r", "--recursive", action="store_true", help="search folders to the bottom")
    add("-n", "--sample", type=positive, metavar="N", help="draw N of the photos (default all)")
    add("--enlarge", action="store_true", help="first make each photo as large as the contest's")
    add("--seed", type=natural, default=0, metavar="N", help="of the draws (default 0)")


def run(arguments: argparse.Namespace, program: str) -> int:
    """Compares scaled with full decoding."""
    classifier = Classifier.load(arguments.model or DEFAULT_MODEL)
    inputs = collect(arguments.images, recursive=arguments.recursive)
    order = np.random.default_rng(arguments.seed).permutation(len(inputs.paths))[: arguments.sample]
    paths = [inputs.paths[i] for i in sorted(order)]
    progress = Progress(len(paths), quiet=arguments.quiet)
    found = []
    for comparison in compare(classifier, paths, enlarge=arguments.enlarge, seed=arguments.seed):
        found.append(comparison)
        progress.update(len(found))
    progress.close()
    if not found:
        raise InputError(f"none of {len(paths)} images can be used; edge-infer says why")
    print("\n".join(table(summarize(found))))
    if len(found) < len(paths) and not arguments.quiet:
        say(program, f"{len(paths) - len(found)} of {len(paths)} images cannot be used: left out")
    return SOME_FAILED if len(found) < len(paths) else DONE


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
    """Counts and worst cases of one comparison or more."""
    flips = [c for c in comparisons if c.scaled_label != c.full_label]
    differing = [c.psnr_db for c in comparisons if np.isfinite(c.psnr_db)]
    return {
        "images": len(comparisons),
        "decoded_alike": len(comparisons) - len(differing),
        "flips": [{"path": c.path, "margin": c.margin} for c in flips],
        "agreement": 1 - len(flips) / len(comparisons),
        "smallest_margin": min(c.margin for c in comparisons),
        "largest_change": max(c.max_change for c in comparisons),
        "psnr_db": {"min": min(differing), "median": median(differing)} if differing else None,
    }


def table(summary: dict[str, Any]) -> Iterator[str]:
    """The lines a person reads."""
    count, flips, psnr_db = summary["images"], summary["flips"], summary["psnr_db"]
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
