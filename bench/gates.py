"""Minima that a result has to reach: `edge-bench score --fail-under`."""

from __future__ import annotations

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


def check(result: dict[str, Any], minima: dict[str, float]) -> list[dict[str, Any]]:
    """For each minimum asked for: `name`, `minimum`, `value`, `passed`, and the `reason` where it did not pass.

    What is not defined does not pass, and neither does a latency, or a total with one, that is not valid.
    """
    checked = []
    for name, minimum in minima.items():
        metric: Any = result
        for key in GATES[name]:
            metric = metric[key]
        value = None if metric is None else metric["value"]
        reason = None
        if value is None:
            reason = "not defined"
        elif value < minimum:
            reason = f"under {minimum}"
        elif name in _WITH_LATENCY and not result["valid"]:
            reason = f"not valid: {'; '.join(result['reasons'])}"
        checked.append({"name": name, "minimum": minimum, "value": value, "passed": reason is None, "reason": reason})
    return checked


_WITH_LATENCY = ("latency", "total")
