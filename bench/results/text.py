"""The lines a person reads of a results file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO, Any

from edge.table import spelled_out

from ..metrics.evaluation import Metric
from ..metrics.meaning import DOWN, LEGEND, UP, meaning
from .caveats import NO_GROUPS

_PARITIES = ("worst_group", "gap", "gap_mix_adjusted", "u_l1", "pqd", "dpm", "eom", "equalized_odds")
"""The parity metrics of the table; all are in the file."""

_UNDEFINED: Metric = {"value": None, "low": None, "high": None, "n": 0}
_SIGNS = {UP: "^", DOWN: "v", "±": "+-"}

Row = tuple[str, str, Metric]
"""Of a table: the metric's name in `MEANINGS`, what stands for it, its value."""


def table(result: dict[str, Any]) -> Iterator[str]:
    """Aligned lines: name, direction, value, interval, number of samples; the score last, where a terminal ends."""
    contest, why = result["score"], _why_undefined(result)
    rows = [_row(name, result[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")]
    rows += [_row(rate, rates[rate], of=name) for rate in ("recall", "precision")
             for name, rates in result["by_class"].items()]
    if malignant := result["malignant"]:
        rows += [(rate, f"malignant {rate}", malignant[rate]) for rate in ("sensitivity", "specificity")]
    if why != NO_GROUPS:
        rows += _accuracies(result)
    if not why or result["fairness"]["gap"]["value"] is not None:
        rows += [_row(name, result["fairness"][name]) for name in _PARITIES]
    for column, part in result.get("groupings", {}).items():  # in short: the file and the page have all of it
        own = [*_accuracies(part), *(_row(name, part["fairness"][name]) for name in ("worst_group", "gap"))]
        if part["null"] is not None:
            own.append(("gap", "gap of a fair model", part["null"]["equal_accuracy"]["gap"]))
        rows += [(name, f"{column}: {title}", metric) for name, title, metric in own]
    if not why:
        rows.append(("spd", f"SPD to {contest['reference_group']}", contest["spd"]))
    parts = [name for name in ("accuracy", "fairness", "latency") if contest[name]]
    rows += [(name, f"score: {name}", contest[name]) for name in parts]
    rows.append(_total(contest))
    width = max(len(title) for _, title, _ in rows)
    if (errors := result.get("errors")) and errors["images"]:  # the numbers below depend on it
        policy = "are left out (--errors exclude)" if errors["policy"] == "exclude" else "count as wrong"
        images = result["data"]["samples"] - result["data"]["left_out"]
        yield f"{errors['images']} of {images} images could not be used and {policy}"
    if spelled := [f"{name} = {words}" for name, words in spelled_out(result["classes"]).items() if words != name]:
        yield fitting(", ".join(spelled))
    yield fitting(LEGEND)
    yield f"{'':{width}}     value  95 % interval        n"
    for name, title, metric in rows:
        found = f"{number(metric['value']):>6}  {interval_text(metric):>13}  {metric['n'] or 0:7}"
        if why and title == "score: fairness":
            found = why
        yield fitting(f"{title:{width}} {meaning(name).arrow}  {found}")


def remarks(result: dict[str, Any]) -> Iterator[str]:
    """What a person should know who reads the table, one line each, for standard error."""
    for line in _remarks(result):
        yield fitting(line, sys.stderr)


def _remarks(result: dict[str, Any]) -> Iterator[str]:
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


def fitting(line: str, stream: IO[str] | None = None) -> str:
    """A line as a stream, default standard output, can print it: signs that its encoding lacks are spelled in ASCII."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    for sign, plain in _SIGNS.items():
        if sign in line and sign.encode(encoding, "replace") == b"?":
            line = line.replace(sign, plain)
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _row(name: str, metric: Metric, *, of: str = "") -> Row:
    return name, f"{meaning(name).title} {of}".rstrip(), metric


def _accuracies(part: dict[str, Any]) -> list[Row]:
    return [_row("accuracy", metrics["accuracy"], of=f"in {group}") for group, metrics in part["by_group"].items()]


def _total(contest: dict[str, Any]) -> Row:
    """The total, or what there is of it."""
    if parts := contest.get("total_of_parts"):
        names = parts["parts"]
        return "total", f"score: total of {len(names)}/3 ({', '.join(names)})", parts
    name = "total" if contest["latency"] else "total_of_two_thirds"
    return name, f"score: {meaning(name).title}", contest[name] or _UNDEFINED


def _why_undefined(result: dict[str, Any]) -> str | None:
    """Why there is no fairness; older results do not say."""
    if result["score"]["fairness"]["value"] is not None:
        return None
    return str(result["fairness"].get("reason") or "not defined")


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
