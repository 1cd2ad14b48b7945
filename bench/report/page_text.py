"""The words of a report: what each parity metric says, why one is not defined, and numbers and names as text."""

from __future__ import annotations

import html
import string
from typing import Any

from ..metrics.evaluation import Metric

METRICS = {
    "worst_group": ("Worst group", "1", "accuracy of the group served worst; cannot rise by making others worse"),
    "spd_accuracy": ("SPD (contest)", "0", "mean distance of the groups' accuracies from the reference group's"),
    "gap": ("Gap", "0", "accuracy of the best group minus that of the worst"),
    "gap_mix_adjusted": ("Gap at equal mix", "0", "the gap if every group had the same mix of classes"),
    "gap_from_mix": ("Gap from mix", "", "gap minus gap at equal mix: what the data add, not the model"),
    "u_l1": ("U (L1)", "0", "sum of the distances of the groups' accuracies from the overall one (FaHaNa)"),
    "pqd": ("PQD", "1", "worst group accuracy divided by the best (FairDisCo, HeViFa)"),
    "dpm": ("DPM", "1", "how evenly each class is predicted across groups; also moved by true differences of mix"),
    "di_selection": ("Disparate impact, selection", "1", "lowest such ratio of any class; under .8 is called suspect"),
    "spd_selection": ("SPD (literature)", "0", "largest difference of a class's prediction rate from the reference"),
    "eom": ("EOM", "1", "recall of the worst group over that of the best, mean over classes"),
    "equal_opportunity": ("Equal opportunity", "0", "largest difference of recall between groups in any class"),
    "equalized_odds": ("Equalised odds", "0", "the same over recall and false alarms"),
}
"""Parity metric -> its name for people, its fair value, and what it says in one line."""


SHORT = ("worst_group", "gap", "gap_mix_adjusted", "pqd", "eom", "equalized_odds")
"""Those of a further column of groups: of all, those without a reference group, and none twice."""


def why_undefined(name: str, part: dict[str, Any]) -> str:
    """Why a parity metric has no value, or no interval; "" where it has both.

    Args:
      name: Of the metric.
      part: Of a results file what has `fairness` and `by_group`: the whole, or one of its `groupings`.
    """
    parity = part["fairness"]
    metric = parity[name]
    sizes = [part["by_group"][group]["accuracy"]["n"] for group in parity["compared_groups"]]
    if metric["value"] is not None:
        return "no interval: a compared group has under 10 images" if metric["low"] is None else ""
    if sum(n > 0 for n in sizes) < 2:
        return "fewer than two groups with images"
    if name in ("spd_accuracy", "spd_selection"):
        return f"the reference group {parity['reference_group']} has no scored image"
    if name == "pqd":
        return "no group has a right answer"
    if name in ("dpm", "di_selection"):
        return "no class is predicted in two groups"
    return f"no class has {parity['min_cell']} images in each of two groups"


def number(value: float | None, digits: int = 3) -> str:
    """Three decimals; an en dash for what is not defined."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def span(metric: Metric) -> str:
    """low to high, breakable behind the "to" alone; empty where there is no interval."""
    return "" if metric["low"] is None else f"{number(metric['low'])}\N{NO-BREAK SPACE}to {number(metric['high'])}"


def letters(num_results: int) -> list[str]:
    """A, B, ... Z, A1, B1, ..."""
    alphabet = string.ascii_uppercase
    return [alphabet[i % 26] + (str(i // 26) if i >= 26 else "") for i in range(num_results)]


def markdown_cell(text: object) -> str:
    """A name that cannot become markup, or leave its cell."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+!|~$" else c for c in html.escape(plain, quote=False))
