"""A model's answers to pictures and their changed copies -> what each change costs.

Every metric is {value, low, high, n} as in any results file. A difference is of the changed copies minus the files as
they are, on the same resampled images, so the difficult images cancel. The interval of a proportion is Wilson's, with
as many images as the clusters are worth; every other is of the cluster bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..metrics.counts import NO_ANSWER
from ..metrics.evaluation import Frame, Intervals, Metric, Observations
from ..metrics.fairness import MIN_CELL
from ..metrics.interval import bootstrap_interval, null_of
from ..metrics.paired import Bootstrap, joint_draws
from ..results.gates import judge
from .changes import TURN, Change

METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "worst_group": "fairness.worst_group"}
"""What is measured of each change -> its name in `Frame.statistics`."""
UNCHANGED = "unchanged"
"""Share of the answers that stay."""

NAMES = (*METRICS, UNCHANGED)
"""What can be asked for, all better when larger; behind CHANGE and a dot of that change alone."""


@dataclass(frozen=True)
class Answers:
    """What was answered to N pictures, each as it is and in K changed copies."""

    labels: np.ndarray
    """(N, 1 + K) int64. Index of the class; -1 where the picture cannot be used."""
    confidences: np.ndarray
    """(N, 1 + K) float32. Largest probability; NaN where the picture cannot be used."""

    @classmethod
    def of(cls, found: Sequence[np.ndarray | None]) -> Answers:
        """From (1 + K, C) probabilities of each picture, None where it cannot be used."""
        num_copies = next((len(one) for one in found if one is not None), 1)
        labels = np.full((len(found), num_copies), NO_ANSWER, np.int64)
        confidences = np.full(labels.shape, np.nan, np.float32)
        for i, one in enumerate(found):
            if one is not None:
                labels[i], confidences[i] = one.argmax(-1), one.max(-1)
        return cls(labels, confidences)


def measure(answers: Answers, changes: Sequence[Change], data: Observations, frame: Frame) -> dict[str, Any]:
    """What each change costs.

    Args:
      answers: To N pictures and K changed copies of each.
      changes: (K,) those.
      data: The N pictures, with the answers to the files as they are.
      frame: Of these.

    Returns:
      JSON-ready: `clean`, `changes` (one for each, in their order) and `turn_mean`, the mean of the turns. Each has the
      names in `METRICS`; all but `clean` also `difference` (of the same names), `changed` (share of answers that are
      other ones) and `confidence_change` (median absolute change of the largest probability). `clean` and each of
      `changes` have `by_group`, group -> accuracy.
    """
    copies = [replace(data, y_pred=answers.labels[:, 1 + k]) for k in range(len(changes))]
    drawn = joint_draws([data], [frame], names=METRICS.values())[0]
    rows = []
    for k, (change, copy) in enumerate(zip(changes, copies, strict=True), start=1):
        both = joint_draws([data, copy], [frame, frame], names=METRICS.values())
        rows.append({
            "name": change.name,
            "kind": change.kind,
            "strength": change.strength,
            **_metrics(copy, frame, both[1]),
            "difference": _differences([copy], data, frame, both[1:], both[0]),
            "changed": data.rate(copy.y_pred != data.y_pred),
            "confidence_change": _median(np.abs(answers.confidences[:, k] - answers.confidences[:, 0])),
        })
    turned = [k for k, change in enumerate(changes) if change.kind == TURN]
    return {
        "clean": _metrics(data, frame, drawn),
        "changes": rows,
        "turn_mean": _mean([copies[k] for k in turned], data, frame, [rows[k] for k in turned]) if turned else None,
    }


def gate_problem(name: str, changes: Sequence[Change]) -> str | None:
    """Why nothing can be asked for by this name; None where it can."""
    what, _, metric = name.rpartition(".")
    if metric not in NAMES:
        return f"got {metric!r}, expected one of {', '.join(NAMES)}"
    is_mean = what == f"{TURN}-mean" and any(change.kind == TURN for change in changes)
    if not any(_is_meant(what, change.name, change.kind) for change in changes) and not is_mean:
        kinds = ", ".join(dict.fromkeys(change.kind for change in changes))
        return f"got {what!r}, expected a change by its name in the table, or its kind, one of {kinds}"
    return None


def check_gates(part: dict[str, Any], minima: dict[str, float]) -> list[dict[str, Any]]:
    """As `bench.results.gates.check`: the least value among the changes that are meant has to reach the minimum.

    Args:
      part: What `measure` gives.
      minima: Name -> minimum: a metric for all changes, KIND.METRIC, or CHANGE.METRIC.
    """
    checked = []
    for name, minimum in minima.items():
        what, _, metric = name.rpartition(".")
        rows = [row for row in part["changes"] if _is_meant(what, row["name"], row["kind"])]
        values = [_gated(row, metric) for row in rows or [part["turn_mean"]]]
        known = [value for value in values if value is not None]
        checked.append(judge(name, minimum, min(known) if len(known) == len(values) else None))
    return checked


def _is_meant(what: str, name: str, kind: str) -> bool:
    """Nothing means all; "border" all colours of borders, "border-edge" one, "border-edge-1:1" one change."""
    return what in ("", name, kind) or kind.startswith(f"{what}-")


def _gated(row: dict[str, Any], metric: str) -> float | None:
    value: float | None = row["changed" if metric == UNCHANGED else metric]["value"]
    return 1 - value if metric == UNCHANGED and value is not None else value


def _metrics(data: Observations, frame: Frame, drawn: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracies with their intervals, as `edge-bench score` gives them."""
    is_right = data.y_true == data.y_pred
    values = frame.statistics(data.counts, frame.parts_of_data(data))
    table = Intervals(frame, values, drawn, null_of(data, frame, values))
    return {
        "accuracy": data.rate(is_right),
        "balanced_accuracy": table.metric("balanced_accuracy"),
        "worst_group": table.metric("fairness.worst_group"),
        "by_group": {name: data.rate(is_right, data.group == index) for index, name in enumerate(data.groups)},
    }


def _differences(
    copies: Sequence[Observations], clean: Observations, frame: Frame, drawn: Sequence[dict[str, np.ndarray]],
    drawn_clean: dict[str, np.ndarray],
) -> dict[str, Metric]:
    """Mean over some copies of the data, minus the data as they are."""
    metrics = {}
    for name, statistic in METRICS.items():
        before = _value(clean, frame, statistic)
        value = float(np.mean([_value(copy, frame, statistic) for copy in copies])) - before
        draws = np.mean([one[statistic] for one in drawn], axis=0) - drawn_clean[statistic]
        metrics[name] = _metric(value, draws, _sizes(name, frame), lowest=-1)
    return metrics


def _mean(
    copies: Sequence[Observations], clean: Observations, frame: Frame, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The mean over some copies of the data."""
    both = joint_draws([clean, *copies], [frame] * (1 + len(copies)), names=METRICS.values())
    metrics: dict[str, Any] = {"name": f"{TURN}-mean"}
    for name, statistic in METRICS.items():
        value = float(np.mean([_value(copy, frame, statistic) for copy in copies]))
        draws = np.mean([one[statistic] for one in both[1:]], axis=0)
        metrics[name] = _metric(value, draws, _sizes(name, frame))
    times = np.sum([copy.y_pred != clean.y_pred for copy in copies], axis=0)  # (N,)
    steps = 1 + len(copies)
    resampled = Bootstrap.of(clean.group * steps + times, clusters=clean.cluster, sensitive_features=clean.group)
    counts = np.concatenate(list(resampled.draw(frame.setting.draws, seed=frame.setting.seed)))
    shares = counts @ (resampled.cells % steps) / (counts.sum(-1) * len(copies))
    known = [value for row in rows if (value := row["confidence_change"]["value"]) is not None]
    mean_change = round(float(np.mean(known)), 6) if known else None
    return metrics | {
        "difference": _differences(copies, clean, frame, both[1:], both[0]),
        "changed": _metric(float(times.mean() / len(copies)), shares, [len(times)]),
        "confidence_change": {**rows[0]["confidence_change"], "value": mean_change},
    }


def _value(data: Observations, frame: Frame, statistic: str) -> float:
    return float(frame.statistics(data.counts, names={statistic})[statistic])


def _sizes(name: str, frame: Frame) -> list[int]:
    """Images of each group that the metric compares, or of all together."""
    sizes = [int(n) for n in frame.sizes]
    return [sizes[group] for group in frame.compared] if name == "worst_group" else [sum(sizes)]


def _metric(value: float, draws: np.ndarray, sizes: Sequence[int], *, lowest: float = 0) -> Metric:
    """No interval where an image count that it rests on is under `MIN_CELL`: few images hardly differ when drawn."""
    found = bootstrap_interval(value, draws, lowest=lowest, highest=1) if min(sizes, default=0) >= MIN_CELL else None
    low, high = found or (None, None)
    return {"value": None if np.isnan(value) else value, "low": low, "high": high, "n": sum(sizes)}


def _median(moved: np.ndarray) -> Metric:
    usable = moved[~np.isnan(moved)]
    value = round(float(np.median(usable)), 6) if len(usable) else None
    return {"value": value, "low": None, "high": None, "n": len(usable)}
