"""The lines a person reads of what changes cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..metrics.evaluation import Metric
from .measure import METRICS

_WIDTH = 18


def table(part: dict[str, Any]) -> Iterator[str]:
    """Aligned lines, one a change: accuracies with their intervals, share of changed answers, change of confidence.

    A star stands behind what differs from the files as they are by more than noise.
    """
    rows = [*part["changes"], *([part["turn_mean"]] if part["turn_mean"] else [])]
    names = ["as they are", *(row["name"] for row in rows)]
    width = max(map(len, names))
    heads = [*(name.replace("_", " ") for name in METRICS), "changed answers"]
    yield f"{'':{width}}  {''.join(f'{head:{_WIDTH + 2}}' for head in heads)}confidence"
    for name, row in zip(names, [part["clean"], *rows], strict=True):
        differences = row.get("difference", {})
        cells = [_cell(row[metric], metric in differences and is_other(differences[metric])) for metric in METRICS]
        if differences:
            moved = row["confidence_change"]["value"]
            cells += [_cell(row["changed"]), "-" if moved is None else f"+-{_number(moved)}"]
        yield f"{name:{width}}  {''.join(f'{cell:{_WIDTH + 2}}' for cell in cells)}".rstrip()


def remarks(result: dict[str, Any]) -> Iterator[str]:
    """What a person should know who reads the table, one line each, of a results file of `edge-bench robustness`."""
    part = result["robustness"]
    yield from part["remarks"]
    num_stars = len(part["changes"]) * len(METRICS)
    yield (
        f"* differs from the files as they are, paired, 95 %, each for itself: of {num_stars} true zeros about "
        f"{round(0.05 * num_stars)} would get a star"
    )
    yield "confidence: median change, up or down, of the largest probability"
    yield "larger short sides hold no new detail: they are about how large photos are decoded"


def is_other(difference: Metric) -> bool:
    """Whether a difference is more than noise.

    The bootstrap shifts an end at 0 by its own small error: under half an image it is still at 0.
    """
    if difference["low"] is None:
        return False
    half = 0.5 / difference["n"]
    return bool(difference["low"] > half or difference["high"] < -half)


def _cell(metric: Metric, has_star: bool = False) -> str:
    if metric["value"] is None:
        return "-"
    ends = "" if metric["low"] is None else f"{_number(metric['low'])}-{_number(metric['high'])}"
    return f"{_number(metric['value'])}{'*' if has_star else ' '} {ends}".rstrip()


def _number(value: float) -> str:
    return f"{value:.3f}"
