"""Counts -> milliseconds of one Cortex-A72 core at 1.8 GHz: modelled, not measured.

    cycles = max(a instructions + b (L1 misses - L2 misses) + c L2 misses, SIMD operations)

a, b and c are fitted to published times of 17 networks on a Raspberry Pi 4B (calibration.csv), each counted with the
same engine. For photos there is no such calibration: `decoding` gives the range of what is published.

Source of the times: github.com/Tencent/ncnn, benchmark/README.md of 2023-06-15, Raspberry Pi 4 Model B, 64-bit, at
1.8 GHz.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from edge.errors import EdgeError

CALIBRATION = Path(__file__).with_name("calibration.csv")
CLOCK_HZ = 1.8e9
"""Highest clock. Source: Raspberry Pi OS since 2021-11 on boards of revision 1.4 or later."""
CYCLES_PER_MS = CLOCK_HZ / 1000
GAIN_OF_4_CORES = (2.5, 4.0)
"""How many times faster four cores are than one, low and high, when each works on photos of its own.

Low: the best of the same networks with four threads inside (calibration.csv); high: no loss. The winners of the
contest report 3.4 for photos in parallel."""

Range = tuple[float, float]
"""Low and high."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Counts:
    """What one region executed."""

    instructions: float
    simd: float  # instructions for the two vector pipes: at best one of 128 bits a cycle
    l1_misses: float
    l2_misses: float
    branch_misses: float = 0  # counted, and no part of the formula: see `decoding`

    @classmethod
    def of(cls, counted: Mapping[str, float]) -> Counts:
        """From a line of the counter."""
        simd = sum(counted[name] for name in ("simd_fma", "simd_int_mac", "simd_float", "simd_int"))
        names = ("l1_misses", "l2_misses", "branch_misses")
        return cls(counted["instructions"], simd, *(counted[name] for name in names))

    def terms(self) -> np.ndarray:
        """(3,) events that the coefficients of a formula belong to."""
        return np.array([self.instructions, self.l1_misses - self.l2_misses, self.l2_misses])


@dataclass(frozen=True)
class Formula:
    """Cycles per event."""

    per_instruction: float
    per_l1_miss: float  # that L2 answers
    per_l2_miss: float

    def ms(self, counts: Counts) -> float:
        """Modelled milliseconds of one thread."""
        return max(float(counts.terms() @ astuple(self)), counts.simd) / CYCLES_PER_MS


@dataclass(frozen=True)
class Point:
    """A region with a time that was measured on a Raspberry Pi 4B, one thread, at 1.8 GHz."""

    name: str
    ms: float
    counts: Counts
    group: str  # left out together: points of one network, as in float32 and int8, and those of boards


@dataclass(frozen=True)
class Validation:
    """Errors of modelled times, as fractions of the true ones; left out: by a formula fitted to the other groups."""

    fit_mean: float
    fit_max: float
    left_out_mean: float
    left_out_max: float
    points: int = 0

    def factors(self) -> Range:
        """Between which multiples of a modelled time the true one lies, if no error is larger than those left out.

        Modelled = true (1 - e) to true (1 + e), so true = modelled / (1 + e) to modelled / (1 - e).

        Raises:
          EdgeError: the error is so large that there is no upper end.
        """
        if not self.left_out_max < 1:
            raise EdgeError(
                f"calibration: a network left out of the fit is predicted {self.left_out_max:.0%} wrong, expected less "
                "than 100%: nothing can be said of others"
            )
        return 1 / (1 + self.left_out_max), 1 / (1 - self.left_out_max)


def fit(points: Sequence[Point]) -> Formula:
    """The formula with the least sum of squared relative errors among those where no event saves time.

    Raises:
      EdgeError: too few points, or points too alike, for three coefficients.
    """
    if len(points) < 4:
        raise EdgeError(f"calibration: got {len(points)} points, expected at least 4")
    rows = np.array([point.counts.terms() / (point.ms * CYCLES_PER_MS) for point in points])
    if np.linalg.matrix_rank(rows) < 3:
        raise EdgeError("calibration: the points are too alike to separate instructions from cache misses")
    fits = []  # x >= 0 with the least |rows x - 1| is the best of the few fits in which some of the three are 0
    for used in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        x = np.zeros(3)
        x[used] = np.linalg.lstsq(rows[:, used], np.ones(len(rows)))[0]
        if x.min() >= 0:
            fits.append((float(np.linalg.norm(rows @ x - 1)), x.tolist()))
    return Formula(*min(fits)[1])


def without(points: Sequence[Point], group: str) -> Formula:
    """The formula fitted to the other groups."""
    return fit([point for point in points if point.group != group])


def validate(points: Sequence[Point]) -> Validation:
    """Errors of the fit to all points, and of each point by a fit to the other groups.

    Raises:
      EdgeError: as `fit`, also without a group.
    """
    formula = fit(points)
    fitted = [abs(formula.ms(point.counts) / point.ms - 1) for point in points]
    left_out = [abs(without(points, point.group).ms(point.counts) / point.ms - 1) for point in points]
    return Validation(float(np.mean(fitted)), max(fitted), float(np.mean(left_out)), max(left_out), len(points))


def percents(factors: Range) -> str:
    """Factors in words."""
    return "/".join(f"{factor - 1:+.1%}" for factor in factors)


def read_points(path: Path = CALIBRATION) -> list[Point]:
    """The points of a calibration table; raises as `read_table`."""

    def point(row: dict[str, str]) -> Point:
        name, ms = row["network"], float(row["ms_1_thread"])
        return Point(name, ms, read_counts(row, name, ms), name.removesuffix("_int8"))

    return read_table(path, point)


def read_table(path: Path, make: Callable[[dict[str, str]], _T]) -> list[_T]:
    """What `make` gives for each row of a CSV file with a header.

    Raises:
      EdgeError: the file or a column is absent, or a value is none that can be true.
    """
    found, line = [], 1
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for line, row in enumerate(csv.DictReader(file), 2):
                found.append(make(row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EdgeError(f"{path}: calibration cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise EdgeError(f"{path}: line {line}: {error}") from error
    return found


def read_counts(row: Mapping[str, str], name: str, *times_ms: float) -> Counts:
    """The counts of a row that gives them with times.

    Raises:
      ValueError: a time or a count is not positive and finite, or L2 misses more than it is asked for.
    """
    terms = ["instructions", "simd", "l1_misses", "l2_misses", *({"branch_misses"} & row.keys())]
    counts = Counts(**{term: float(row[term]) for term in terms})
    for ms in times_ms:
        numbers = ms, *astuple(counts)
        if not (np.isfinite(numbers).all() and min(numbers[:2]) > 0 and min(numbers) >= 0):
            raise ValueError(f"{name}: expected positive numbers, got {ms} ms, {counts}")
    if counts.l2_misses > counts.l1_misses:
        raise ValueError(f"{name}: more misses of L2 than of L1")
    return counts
