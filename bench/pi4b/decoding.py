"""What is published of JPEG decoding on this kind of core, beside what the model says of like photos.

    python -m bench.pi4b.decoding > bench/pi4b/decoding.csv

counts them anew. Nothing here calibrates: the published photos are not ours, and their bits per pixel are not known.
The ratios of published to modelled time are the range in which a modelled decode is given.

Source: slides of the ESFair 2023 entry "highport", preprocessing on a Raspberry Pi 4B in one thread (read, full decode
by OpenCV, resize, normalise); the maintainer of libjpeg-turbo, 50 to 80 megapixels a second on one Cortex-A57 at
1.82 GHz, github.com/libjpeg-turbo/libjpeg-turbo/issues/181.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from . import rootfs, time_model
from .count import count_regions
from .estimate import draw_photo
from .pieces import Spec
from .time_model import Counts, Formula, Point, Range

BRANCH_CYCLES = 15
"""Of a mispredicted branch, tried and not kept. Source: the pipeline of Cortex-A57 and A72 has about 15 stages."""
_A57 = 3072 * 2048 / 1e3 * 1.82 / 1.8
"""Thousands of pixels, scaled to 1.8 GHz: divided by megapixels a second gives ms."""

PUBLISHED = (
    ("highport", 600, 450, 90, 25, 25),
    ("highport", 2592, 1936, 90, 300, 300),
    ("highport", 5184, 3456, 90, 800, 800),
    ("highport", 6000, 4000, 90, 950, 950),
    ("libjpeg-turbo", 3072, 2048, 95, _A57 / 80, _A57 / 50),
)
"""(source, width, height, quality of the JPEG that we count, which the slides do not say, lowest and highest ms)."""


@dataclass(frozen=True)
class Decode:
    """A published range of times, and the counts of a like photo."""

    name: str
    low_ms: float
    high_ms: float
    counts: Counts

    def ratios(self, formula: Formula, *, branch_cycles: float = 0) -> Range:
        """Published over modelled time, low and high; `branch_cycles` are added for each mispredicted branch."""
        modelled = formula.ms(self.counts) + branch_cycles * self.counts.branch_misses / time_model.CYCLES_PER_MS
        return self.low_ms / modelled, self.high_ms / modelled


def read_decodes() -> list[Decode]:
    """The rows of the table."""

    def decode(row: dict[str, str]) -> Decode:
        name, low_ms, high_ms = row["photo"], float(row["ms_low"]), float(row["ms_high"])
        return Decode(name, low_ms, high_ms, time_model.read_counts(row, name, low_ms, high_ms))

    return time_model.read_table(Path(__file__).with_name("decoding.csv"), decode)


def decoding_range(decodes: Sequence[Decode], formula: Formula) -> Range:
    """Lowest and highest ratio of published to modelled time: what a modelled time is multiplied with."""
    ratios = [ratio for decode in decodes for ratio in decode.ratios(formula)]
    return min(ratios), max(ratios)


def validation(points: Sequence[Point]) -> Iterator[str]:
    """How well the formula gives published times of networks, and of photos, these also with a term for branches."""
    formula, errors = time_model.fit(points), time_model.validate(points)
    coefficients = f"{formula.per_instruction:.3f} instructions + {formula.per_l1_miss:.1f} (L1 - L2 misses)"
    yield f"cycles = max({coefficients} + {formula.per_l2_miss:.1f} L2 misses, SIMD operations)"
    yield "network             published ms   modelled   left out of the fit"
    for point in points:
        fitted, left_out = (each.ms(point.counts) for each in (formula, time_model.without(points, point.group)))
        yield f"  {point.name:17} {point.ms:12.1f} {fitted:10.1f} {left_out:10.1f} ({left_out / point.ms - 1:+.1%})"
    yield (
        f"error: {errors.fit_mean:.1%} on average, {errors.fit_max:.1%} at most; left out of the fit, "
        f"{errors.left_out_mean:.1%} and {errors.left_out_max:.1%}"
    )
    yield f"a time is therefore given as {time_model.percents(errors.factors())}"
    yield f"photo                       published ms   / modelled       mispredicted branches at {BRANCH_CYCLES}"
    for decode in read_decodes():
        plain, with_branches = (_pair(decode.ratios(formula, branch_cycles=c), 2) for c in (0, BRANCH_CYCLES))
        yield f"  {decode.name:25} {_pair((decode.low_ms, decode.high_ms), 0):12}   {plain:16} {with_branches}"


def _pair(values: Range, decimals: int) -> str:
    low, high = values
    return f"{low:.{decimals}f}" + (f" to {high:.{decimals}f}" if high > low else "")


def main() -> int:
    """Prints the table; see the module's first lines."""
    folder = rootfs.default_folder()
    requirements = rootfs.pinned((*rootfs.RUNTIME, "opencv-python-headless"))
    tree = rootfs.build_tree(folder, site_requirements=requirements)
    rows: dict[str, list[str]] = {}
    for source, width, height, quality, low_ms, high_ms in PUBLISHED:
        path = folder / "photos" / f"decoding-{width}x{height}-q{quality}.jpg"
        draw_photo(path, width, height, quality=quality)
        rows[path.name] = [f"{source} {width}x{height}", f"{low_ms:.4g}", f"{high_ms:.4g}"]
    costs = count_regions(tree, Spec([str(folder / "photos" / name) for name in rows], winners=True))
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["photo", "ms_low", "ms_high", *(term.name for term in fields(Counts))])
    table.writerows([*rows[cost.name], *map(int, astuple(cost.counts))] for cost in costs if cost.kind == "winners")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
