"""A model's answers to pictures and their changed copies -> what each change costs: figures, gates and their table.

Every metric is {value, low, high, n} as in any results file. A difference is of the changed copies minus the files as
they are, on the same resampled images, so the difficult images cancel. The interval of a proportion is Wilson's, with
as many images as the clusters are worth; every other is of the cluster bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..metrics.evaluation import Frame, Intervals, Metric, Observations, as_metric
from ..metrics.fairness import MIN_CELL
from ..metrics.interval import bootstrap_interval, null_of
from ..metrics.paired import Bootstrap, joint_draws
from ..results.gates import judge
from .changes import TURN, Change, is_of

METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "worst_group": "fairness.worst_group"}
"""What is measured of each change -> its name in `Frame.statistics`."""

UNCHANGED = "unchanged"
"""Share of the answers that stay."""

NAMES = (*METRICS, UNCHANGED)
"""What can be asked for, all better when larger; behind CHANGE and a dot only of that change."""

_WIDTH = 20  # of a column of the table


def measure(
    labels: np.ndarray, confidences: np.ndarray, changes: Sequence[Change], data: Observations, frame: Frame
) -> dict[str, Any]:
    """What each change costs.

    Args:
      labels: (N, 1 + K) int64. Class answered to each of N pictures as it is and in K changed copies; -1 where the
        picture cannot be used.
      confidences: (N, 1 + K) float32. Largest probability; NaN where the picture cannot be used.
      changes: (K,) those.
      data: The N pictures, with the answers to the files as they are.
      frame: Of these.

    Returns:
      JSON-ready: `clean`, `changes` (one for each, in their order) and `turn_mean`, the mean of the turns. Each has the
      names in `METRICS`; all but `clean` also `difference` (of the same names), `changed` (share of answers that are
      other ones) and `confidence_change` (median absolute change of the largest probability). `clean` and each of
      `changes` have `by_group`, group -> accuracy.
    """
    copies = [replace(data, y_pred=labels[:, 1 + k]) for k in range(len(changes))]
    clean, = joint_draws([data], [frame], names=METRICS.values())
    rows = []
    for k, (change, copy) in enumerate(zip(changes, copies, strict=True), start=1):
        drawn = joint_draws([data, copy], [frame, frame], names=METRICS.values())
        moved = np.abs(confidences[:, k] - confidences[:, 0])
        usable = moved[~np.isnan(moved)]
        median = round(float(np.median(usable)), 6) if len(usable) else np.nan
        rows.append({
            "name": change.name,
            "kind": change.kind,
            "strength": change.strength,
            **_metrics(copy, frame, drawn[1]),
            "difference": _means([copy], data, frame, drawn)[1],
            "changed": data.rate(copy.y_pred != data.y_pred),
            "confidence_change": as_metric(median, None, len(usable)),
        })
    turned = [k for k, change in enumerate(changes) if change.kind == TURN]
    return {
        "clean": _metrics(data, frame, clean),
        "changes": rows,
        "turn_mean": _mean([copies[k] for k in turned], data, frame, [rows[k] for k in turned]) if turned else None,
    }


def _metrics(data: Observations, frame: Frame, drawn: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracies with their intervals, as `edge-bench score` gives them."""
    values = frame.statistics(data.counts, frame.parts_of_data(data))
    table = Intervals(frame, values, drawn, null_of(data, frame, values))
    return {
        "accuracy": data.rate(data.is_right),
        "balanced_accuracy": table.metric("balanced_accuracy"),
        "worst_group": table.metric("fairness.worst_group"),
        "by_group": {name: data.rate(data.is_right, data.group == index) for index, name in enumerate(data.groups)},
    }


def _mean(
    copies: Sequence[Observations], clean: Observations, frame: Frame, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The mean over some copies of the data, which have these rows."""
    drawn = joint_draws([clean, *copies], [frame] * (1 + len(copies)), names=METRICS.values())
    means, differences = _means(copies, clean, frame, drawn)
    times = np.sum([copy.y_pred != clean.y_pred for copy in copies], axis=0)  # (N,)
    steps = 1 + len(copies)
    resampled = Bootstrap.of(clean.group * steps + times, clusters=clean.cluster, sensitive_features=clean.group)
    counts = np.concatenate(list(resampled.draw(frame.setting.draws, seed=frame.setting.seed)))
    shares = counts @ (resampled.cells % steps) / (counts.sum(-1) * len(copies))
    known = [value for row in rows if (value := row["confidence_change"]["value"]) is not None]
    mean_change = round(float(np.mean(known)), 6) if known else None
    return {
        "name": f"{TURN}-mean",
        **means,
        "difference": differences,
        "changed": _metric(float(times.mean() / len(copies)), shares, [len(times)]),
        "confidence_change": {**rows[0]["confidence_change"], "value": mean_change},
    }


def _means(
    copies: Sequence[Observations], clean: Observations, frame: Frame, drawn: Sequence[dict[str, np.ndarray]]
) -> tuple[dict[str, Metric], dict[str, Metric]]:
    """Means over copies of the data, and these minus the data as they are; `drawn` is of the latter, then of each."""
    before, *after = (frame.statistics(one.counts, names=METRICS.values()) for one in (clean, *copies))
    means, differences = {}, {}
    for name, statistic in METRICS.items():
        sizes = frame.sizes[frame.compared] if name == "worst_group" else frame.sizes.sum(keepdims=True)
        value = float(np.mean([one[statistic] for one in after]))
        draws = np.mean([one[statistic] for one in drawn[1:]], axis=0)
        means[name] = _metric(value, draws, sizes.tolist())
        difference = value - float(before[statistic])
        differences[name] = _metric(difference, draws - drawn[0][statistic], sizes.tolist(), lowest=-1)
    return means, differences


def _metric(value: float, draws: np.ndarray, sizes: Sequence[int], *, lowest: float = 0) -> Metric:
    """No interval where an image count that it rests on is under `MIN_CELL`: few images hardly differ when drawn."""
    found = bootstrap_interval(value, draws, lowest=lowest, highest=1) if min(sizes, default=0) >= MIN_CELL else None
    return as_metric(value, found, sum(sizes))


# Gates


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


def check_gates(part: dict[str, Any], minima: Mapping[str, float]) -> list[dict[str, Any]]:
    """As `bench.results.gates.check`: the least value among the changes that are meant has to reach the minimum.

    Args:
      part: What `measure` gives.
      minima: Name -> minimum: a metric for all changes, KIND.METRIC, or CHANGE.METRIC.
    """
    checked = []
    for name, minimum in minima.items():
        what, _, metric = name.rpartition(".")
        rows = [row for row in part["changes"] if _is_meant(what, row["name"], row["kind"])] or [part["turn_mean"]]
        values = [1 - row["changed"]["value"] if metric == UNCHANGED else row[metric]["value"] for row in rows]
        checked.append(judge(name, minimum, None if None in values else min(values)))
    return checked


def _is_meant(what: str, name: str, kind: str) -> bool:
    """Nothing means all; else it is a kind, or the name of a change."""
    return what in ("", name) or is_of(kind, what)


# Lines for a person


def table(part: dict[str, Any]) -> Iterator[str]:
    """Aligned lines, one a change: accuracies with their intervals, share of changed answers, change of confidence.

    A star stands behind what differs from the files as they are by more than noise.
    """
    rows = [part["clean"], *part["changes"], *([part["turn_mean"]] if part["turn_mean"] else [])]
    names = [row.get("name", "as they are") for row in rows]
    width = max(map(len, names))
    heads = [*(name.replace("_", " ") for name in METRICS), "changed answers", "confidence"]
    for name, cells in [("", heads), *zip(names, map(_cells, rows), strict=True)]:
        yield f"{name:{width}}  {''.join(f'{cell:{_WIDTH}}' for cell in cells)}".rstrip()


def _cells(row: dict[str, Any]) -> Iterator[str]:
    differences = row.get("difference", {})
    for name in METRICS:
        yield _cell(row[name], has_star=name in differences and is_other(differences[name]))
    if differences:
        moved = row["confidence_change"]["value"]
        yield from (_cell(row["changed"]), "-" if moved is None else f"+-{moved:.3f}")


def _cell(metric: Metric, *, has_star: bool = False) -> str:
    if metric["value"] is None:
        return "-"
    ends = "" if metric["low"] is None else f"{metric['low']:.3f}-{metric['high']:.3f}"
    return f"{metric['value']:.3f}{'*' if has_star else ' '} {ends}".rstrip()


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
