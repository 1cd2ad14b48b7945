"""Minima that the changes have to reach: `edge-bench robustness --fail-under`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..results.gates import judge
from .changes import TURN, Change
from .measure import METRICS

UNCHANGED = "unchanged"
"""Share of the answers that stay."""

NAMES = (*METRICS, UNCHANGED)
"""What can be asked for, all better when larger; behind CHANGE and a dot of that change alone."""


def problem(name: str, changes: Sequence[Change]) -> str | None:
    """Why nothing can be asked for by this name; None where it can."""
    what, _, metric = name.rpartition(".")
    if metric not in NAMES:
        return f"got {metric!r}, expected one of {', '.join(NAMES)}"
    is_mean = what == f"{TURN}-mean" and any(change.kind == TURN for change in changes)
    if not any(_is_meant(what, change.name, change.kind) for change in changes) and not is_mean:
        kinds = ", ".join(dict.fromkeys(change.kind for change in changes))
        return f"got {what!r}, expected a change by its name in the table, or its kind, one of {kinds}"
    return None


def check(part: dict[str, Any], minima: dict[str, float]) -> list[dict[str, Any]]:
    """As `bench.results.gates.check`: the least value among the changes that are meant has to reach the minimum.

    Args:
      part: What `measure` gives.
      minima: Name -> minimum: a metric for all changes, KIND.METRIC, or CHANGE.METRIC.
    """
    checked = []
    for name, minimum in minima.items():
        what, _, metric = name.rpartition(".")
        rows = [row for row in part["changes"] if _is_meant(what, row["name"], row["kind"])]
        values = [_value(row, metric) for row in rows or [part["turn_mean"]]]
        known = [value for value in values if value is not None]
        checked.append(judge(name, minimum, min(known) if len(known) == len(values) else None))
    return checked


def _is_meant(what: str, name: str, kind: str) -> bool:
    """Nothing means all; "border" all colours of borders, "border-edge" one, "border-edge-1:1" one change."""
    return what in ("", name, kind) or kind.startswith(f"{what}-")


def _value(row: dict[str, Any], metric: str) -> float | None:
    value: float | None = row["changed" if metric == UNCHANGED else metric]["value"]
    return 1 - value if metric == UNCHANGED and value is not None else value
