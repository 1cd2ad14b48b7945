"""The numbers of a report as CSV: one per row, unrounded, the same columns for every result.

Long tables rather than wide ones, because results have other classes and groups, and a row must not need its
neighbours to be understood.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Row = tuple[Any, ...]
_ACCURACIES = ("accuracy", "balanced_accuracy", "macro_f1")
_CELLS = ("value", "low", "high", "n")
PAIR = "difference.csv"
"""B minus A of two results."""


def of_results(results: dict[str, dict[str, Any]]) -> dict[str, str]:
    """File name -> content; a file that would have no row is left out."""
    contents = {}
    for file_name, (columns, rows) in SHEETS.items():
        found = [(name, *row) for name, result in results.items() for row in rows(result)]
        if found:
            contents[file_name] = as_csv([dict(zip(("result", *columns), row, strict=True)) for row in found])
    return contents


def of_pair(paired: dict[str, Any] | None) -> dict[str, str]:
    """The file `PAIR` of what `edge-bench compare` says of two results; none without it."""
    if paired is None:
        return {}
    entries = [(name, "", entry) for name, entry in paired["metrics"].items()]
    entries += [("accuracy", group, entry) for group, entry in paired["by_group"].items()]
    return {PAIR: as_csv([
        {"metric": name, "group": group, "a": entry["a"], "b": entry["b"],
         **dict(zip(_CELLS, _cells(entry["difference"]), strict=True)), "verdict": entry["verdict"]}
        for name, group, entry in entries
    ])}


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with equal keys, of which there is at least one, under a header; None becomes an empty field."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def metrics(result: dict[str, Any]) -> Iterator[Row]:
    """(metric, group, class, value, low, high, n): everything that is a number in a result."""
    for name in _ACCURACIES:
        yield _row(name, result[name])
    contest = result["score"]
    for name in ("accuracy", "fairness", "spd", "latency", "total", "total_of_two_thirds"):
        if contest[name] is not None:
            yield _row(f"score.{name}", contest[name])
    for name, third in contest["thirds"].items():
        if third is not None:
            yield _row(f"score.thirds.{name}", third)
    for name, moments in (contest.get("over_permutations") or {}).items():
        if isinstance(moments, dict):
            yield from (_plain(f"score.over_permutations.{name}.{key}", value) for key, value in moments.items())
    for label, rates in result["by_class"].items():
        yield from (_row(name, metric, label=label) for name, metric in rates.items())
    yield from _groups(result)
    for column, part in result.get("groupings", {}).items():
        yield from ((f"groupings.{column}.{name}", *values) for name, *values in _groups(part))
    if calibration := result["calibration"]:
        for group, bins in (("", calibration), *calibration["by_group"].items()):
            yield _row("ece", bins["ece"], group=group)
    for part, key in (("data", "samples"), ("data", "left_out"), ("errors", "images"), ("interval", "draws"),
                      ("interval", "clusters"), ("interval", "seed")):
        yield _plain(f"{part}.{key}", result[part][key])


def _groups(part: dict[str, Any]) -> Iterator[Row]:
    """What is made of one column of groups: of the result itself, or of one of its `groupings`."""
    for name, metric in part["fairness"].items():
        if isinstance(metric, dict) and "value" in metric:
            yield _row(f"fairness.{name}", metric)
            yield from (_row(f"fairness.{name}", own, group=group) for group, own in metric.get("by_group", {}).items())
            for label, own in metric.get("by_class", {}).items():
                yield _plain(f"fairness.{name}", own, label=label)
    for kind, null in (part["null"] or {}).items():
        for name, value in null.items():
            yield (_row if isinstance(value, dict) else _plain)(f"null.{kind}.{name}", value)
    for group, own in part["by_group"].items():
        for name in (*_ACCURACIES, "difference_to_reference"):
            if own[name] is not None:
                yield _row(name, own[name], group=group)
        yield from (_row("recall", metric, group=group, label=label) for label, metric in own["recall"].items())
        yield _plain("clusters", own["clusters"], group=group)
    if malignant := part["malignant"]:
        for group, rates in (("", malignant), *malignant["by_group"].items()):
            yield from (_row(f"malignant.{name}", rates[name], group=group) for name in ("sensitivity", "specificity"))


def _row(name: str, metric: dict[str, Any], *, group: str = "", label: str = "") -> Row:
    return name, group, label, *_cells(metric)


def _plain(name: str, value: float | None, *, group: str = "", label: str = "") -> Row:
    """Of a number that has no interval."""
    return _row(name, {**dict.fromkeys(_CELLS), "value": value}, group=group, label=label)


def _cells(metric: dict[str, Any]) -> Row:
    return tuple(metric[key] for key in _CELLS)


def confusion(result: dict[str, Any]) -> Iterator[Row]:
    """(group, label, prediction, images): "" for all groups together, and for no answer."""
    matrices = {"": result["confusion_matrix"]} | {g: own["confusion_matrix"] for g, own in result["by_group"].items()}
    for group, matrix in matrices.items():
        recalls = result["by_group"][group]["recall"] if group else None
        for label, counts in zip(result["classes"], matrix, strict=True):
            n = (recalls[label] if recalls else result["by_class"][label]["recall"])["n"]
            yield from ((group, label, answer, count) for answer, count in zip(result["classes"], counts, strict=True))
            yield group, label, "", n - sum(counts)


def calibration(result: dict[str, Any]) -> Iterator[Row]:
    """(group, from, to, images, confidence, accuracy) of each bin of confidence."""
    if found := result["calibration"]:
        edges = found["edges"]
        for group, own in (("", found), *found["by_group"].items()):
            bins = own["bins"]
            for row in zip(edges[:-1], edges[1:], bins["n"], bins["confidence"], bins["accuracy"], strict=True):
                yield group, *row


def latency(result: dict[str, Any]) -> Iterator[Row]:
    """(part, name, quantity, value)."""
    if (found := result["latency"]) is None:
        return
    for name in ("seconds_per_100", "score", "spread", "images", "first_result_s"):
        yield "all", "", name, found[name]
    yield from (("protocol", "", name, value) for name, value in found["protocol"].items())
    for part in ("stages_ms", "by_size", "ratio_to_bound"):
        for name, row in found[part].items():
            yield from ((part, name, quantity, value) for quantity, value in row.items())
    for quantity, values in found["samples"].items():
        yield from (("run", run, quantity, value) for run, value in enumerate(values, start=1))


def robustness(result: dict[str, Any]) -> Iterator[Row]:
    """(change, kind, strength, metric, group, value, low, high, n); the files as they are have no change."""
    if (part := result.get("robustness")) is None:
        return
    for row in (part["clean"], *part["changes"], *([part["turn_mean"]] if part["turn_mean"] else [])):
        where = tuple(row.get(key, "") for key in ("name", "kind", "strength"))
        metrics = {(name, ""): value for name, value in row.items() if isinstance(value, dict) and "value" in value}
        metrics |= {(f"difference.{name}", ""): value for name, value in row.get("difference", {}).items()}
        metrics |= {("accuracy", group): value for group, value in row.get("by_group", {}).items()}
        for (name, group), metric in metrics.items():
            yield *where, name, group, *_cells(metric)


SHEETS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Iterator[Row]]]] = {
    "metrics.csv": (("metric", "group", "class", *_CELLS), metrics),
    "confusion.csv": (("group", "label", "prediction", "images"), confusion),
    "calibration.csv": (("group", "from", "to", "images", "confidence", "accuracy"), calibration),
    "latency.csv": (("part", "name", "quantity", "value"), latency),
    "robustness.csv": (("change", "kind", "strength", "metric", "group", *_CELLS), robustness),
}
"""File name -> its columns behind `result`, and the function that makes its rows."""
