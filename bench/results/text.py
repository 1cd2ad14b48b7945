"""The lines a person reads of a results file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..metrics.evaluation import Metric

_PARITY_ROWS = {
    "worst_group": "worst group",
    "gap": "gap",
    "gap_mix_adjusted": "gap at equal mix",
    "u_l1": "u l1",
    "pqd": "pqd",
    "dpm": "dpm",
    "eom": "eom",
    "equalized_odds": "equalized odds",
}
"""The parity metrics of the table; all are in the file."""

_UNDEFINED: Metric = {"value": None, "low": None, "high": None, "n": 0}


def table(result: dict[str, Any]) -> Iterator[str]:
    """Aligned lines: name, value, interval, number of samples; the score last, where a terminal ends."""
    rows = [(name.replace("_", " "), result[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")]
    rows += [(f"{rate} {name}", rates[rate]) for rate in ("recall", "precision")
             for name, rates in result["by_class"].items()]
    if result["malignant"]:
        rows += [(f"malignant {name}", result["malignant"][name]) for name in ("sensitivity", "specificity")]
    rows += _accuracies(result)
    parity, contest = result["fairness"], result["score"]
    rows += [(text, parity[name]) for name, text in _PARITY_ROWS.items()]
    for column, part in result.get("groupings", {}).items():  # in short: the file and the page have all of it
        own = [*_accuracies(part), *((_PARITY_ROWS[name], part["fairness"][name]) for name in ("worst_group", "gap"))]
        if part["null"] is not None:
            own.append(("gap of a fair model", part["null"]["equal_accuracy"]["gap"]))
        rows += [(f"{column}: {text}", metric) for text, metric in own]
    rows += [(f"spd to {contest['reference_group']}", contest["spd"])]
    rows += [(f"score: {name}", contest[name]) for name in ("accuracy", "fairness", "latency") if contest[name]]
    total = "total" if contest["latency"] else "total_of_two_thirds"
    rows += [(f"score: {total.replace('_', ' ')}", contest[total] or _UNDEFINED)]
    width = max(len(name) for name, _ in rows)
    if (errors := result.get("errors")) and errors["images"]:  # the numbers below depend on it
        policy = "are left out (--errors exclude)" if errors["policy"] == "exclude" else "count as wrong"
        images = result["data"]["samples"] - result["data"]["left_out"]
        yield f"{errors['images']} of {images} images could not be used and {policy}"
    yield f"{'':{width}}   value  95 % interval        n"
    for name, metric in rows:
        yield f"{name:{width}}  {number(metric['value']):>6}  {interval_text(metric):>13}  {metric['n'] or 0:7}"


def remarks(result: dict[str, Any]) -> Iterator[str]:
    """What a person should know who reads the table, one line each."""
    yield from result["warnings"]
    contest, null = result["score"], result["null"]
    if null is not None:
        fair = null["equal_accuracy"]
        yield (
            f"fairness {number(contest['fairness']['value'])}: a perfectly fair model of this accuracy would score "
            f"{interval_text(fair['fairness'])} on these images, as low as this with {_p(fair['p_value'])}"
        )
    if over := contest.get("over_permutations"):
        mean, sd = (number(over["fairness"][key]) for key in ("mean", "sd"))
        yield (
            f"images dropped at random: fairness {mean}, sd {sd} over all shuffles ({over['method']}); this is the one "
            f"of seed {contest['seed']}"
        )
    for column, part in result.get("groupings", {}).items():
        yield from (f"{column}: {line}" for line in part["warnings"])
        if part["null"] is not None:
            fair = part["null"]["equal_accuracy"]
            yield (
                f"{column}: gap {number(part['fairness']['gap']['value'])}: a perfectly fair model of this accuracy "
                f"would show {interval_text(fair['gap'])} on these images, as much as this with "
                f"{_p(fair['gap_p_value'])}"
            )
    for reason in result["reasons"]:
        yield f"not valid: {reason}"
    yield (
        f"profile {contest['profile']}: {contest['summary']}; intervals: 95 %, rates Wilson, others bootstrap over "
        f"{result['interval']['clusters']} clusters"
    )


def number(value: float | None) -> str:
    """Four decimals, "-" for what is not defined."""
    return "-" if value is None else f"{value:.4f}"


def interval_text(metric: Metric) -> str:
    """low-high, "-" where there is none."""
    return "-" if metric["low"] is None else f"{metric['low']:.4f}-{metric['high']:.4f}"


def _accuracies(part: dict[str, Any]) -> list[tuple[str, Metric]]:
    return [(f"accuracy in {group}", metrics["accuracy"]) for group, metrics in part["by_group"].items()]


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
