"""Minima that a result has to reach: `--fail-under` of `edge-bench score` and `robustness`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GATES = {
    "accuracy": ("score", "accuracy"),
    "fairness": ("score", "fairness"),
    "latency": ("score", "latency"),
    "total": ("score", "total"),
    "total_of_two_thirds": ("score", "total_of_two_thirds"),
    "balanced_accuracy": ("balanced_accuracy",),
    "macro_f1": ("macro_f1",),
    "worst_group": ("fairness", "worst_group"),
    "pqd": ("fairness", "pqd"),
    "dpm": ("fairness", "dpm"),
    "eom": ("fairness", "eom"),
}
"""Metrics that can be asked for with --fail-under, all better when larger, and where a result has them."""

WITH_LATENCY = ("latency", "total")
"""Those that are made of a latency too: they need one that is valid."""


def check(result: dict[str, Any], minima: Mapping[str, float]) -> list[dict[str, Any]]:
    """For each minimum asked for: `name`, `minimum`, `value`, `passed`, and the `reason` where it did not pass.

    What is not defined does not pass, and neither does a latency, or a total with one, that is not valid.
    """
    checked = []
    for name, minimum in minima.items():
        metric: Any = result
        for key in GATES[name]:
            metric = metric[key]
        gate = judge(name, minimum, None if metric is None else metric["value"])
        if gate["passed"] and name in WITH_LATENCY and not result["valid"]:
            gate |= {"passed": False, "reason": f"not valid: {'; '.join(result['reasons'])}"}
        checked.append(gate)
    return checked


def judge(name: str, minimum: float, value: float | None) -> dict[str, Any]:
    """One minimum against its value, which is None where it is not defined."""
    reason = "not defined" if value is None else f"under {minimum}" if value < minimum else None
    return {"name": name, "minimum": minimum, "value": value, "passed": reason is None, "reason": reason}
