"""Two results of the same images: which differences are more than noise.

The images are drawn once for both models, so what the two have in common, the difficult images above all, cancels: a
paired interval is far narrower than the two intervals side by side suggest. "No difference shown" is said wherever it
includes 0; it does not say that there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from edge.errors import EdgeError

from ..dataset import NOT_STATED, ONE_GROUP
from ..metrics.contest import PROFILES
from ..metrics.evaluation import Frame, Metric, Observations, Setting, as_metric, is_parity
from ..metrics.fairness import MIN_CELL
from ..metrics.interval import DRAWS, bootstrap_interval
from ..metrics.meaning import LEGEND, meaning
from ..metrics.paired import joint_draws
from .build import OBSERVED
from .document import SCHEMA
from .text import fitting, number

SAME = "no difference shown"

MAX_TOTAL_LOSS = 0.003
"""Of the total of two thirds: the gate fails when the interval of the change lies wholly below."""
MAX_GROUP_LOSS = 0.01
"""Of a group's accuracy: the gate fails when more is lost, and by more than noise."""
MIN_GROUP = 100
"""Images of a group that the gate judges; a smaller one is reported only."""

_COMPARED = (
    "accuracy", "balanced_accuracy", "macro_f1", "score.accuracy", "score.fairness", "score.total_of_two_thirds",
    "fairness.worst_group", "fairness.spd_accuracy", "fairness.gap", "fairness.gap_mix_adjusted", "fairness.u_l1",
    "fairness.pqd", "fairness.dpm", "fairness.eom", "fairness.equal_opportunity", "fairness.equalized_odds",
)
"""What is compared, by its name in `Frame.statistics`."""


def compare(a: dict[str, Any], b: dict[str, Any], *, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """B minus A, metric by metric, on the images both were scored on.

    Args:
      a, b: Results files of `edge-bench score`.
      draws, seed: Of the paired bootstrap.

    Returns:
      JSON-ready: `metrics` and `by_group`, each name -> {a, b, difference: {value, low, high, n}, verdict};
      `changed`, how many images only one of the two has right; `levelling_down`.

    Raises:
      EdgeError: other images, labels, groups, clusters, profile or groups compared, or a result edited by hand.
    """
    try:
        return _compare(a, b, draws=draws, seed=seed)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__} {error}"
        raise EdgeError(f"the results are not as `edge-bench score` writes them: {what}") from error


def _compare(a: dict[str, Any], b: dict[str, Any], *, draws: int, seed: int) -> dict[str, Any]:
    order = _paired(a, b)
    classes = [*a["classes"], *(name for name in b["classes"] if name not in a["classes"])]
    profile, reference, excluded = (a["score"][key] for key in ("profile", "reference_group", "excluded_groups"))
    setting = Setting(PROFILES[profile], reference, tuple(excluded), draws=draws, seed=seed)
    first = _observations(a, list(range(len(order))), classes, reference)
    second = _observations(b, order, classes, reference)
    frame = Frame(first.counts, first.groups, setting)
    values = [frame.statistics(data.counts, frame.parts_of_data(data)) for data in (first, second)]
    # Where the profile drops images, each model's shuffles are drawn apart, as the organisers' runs would be.
    other = Frame(first.counts, first.groups, replace(setting, seed=seed + 1))
    drawn = joint_draws([first, second], [frame, other])

    def entry(name: str, *position: int, n: int) -> dict[str, Any]:
        old, new = (float(value[name][position]) for value in values)
        is_known = frame.has_large_groups if is_parity(name) else n >= MIN_CELL
        draws = (drawn[1][name] - drawn[0][name])[:, *position]
        interval = bootstrap_interval(new - old, draws) if is_known else None
        return _entry(old, new, interval, higher_is_better=meaning(name).is_higher_better, n=n)

    num_compared = int(frame.sizes[frame.compared].sum())
    metrics = {
        name: entry(name, n=num_compared if name.startswith("fairness.") else len(order)) for name in _COMPARED
    }
    if a["score"].get("latency") and b["score"].get("latency"):
        metrics["score.total"] = _with_latency(metrics["score.total_of_two_thirds"], a, b)
    by_group = {
        name: entry("by_group.accuracy", index, n=int(frame.sizes[index]))
        for index, name in enumerate(first.groups)
    }
    return {
        "schema": SCHEMA,
        "profile": profile,
        "reference_group": reference,
        "excluded_groups": list(excluded),
        "metrics": metrics,
        "by_group": by_group,
        "changed": _changed(first, second),
        "levelling_down": _levelling_down(metrics["score.fairness"], by_group),
        "interval": {"kind": "paired bootstrap over clusters, stratified by group", "draws": draws, "seed": seed},
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    """Aligned lines: name, direction, A, B, difference with its interval, verdict."""
    rows = [(name, title, entry) for name, title, entry in _rows(result) if not _is_undefined(entry)]
    width = max(len(title) for _, title, _ in rows)
    if {"a", "b"} <= result.keys():
        yield fitting(f"A = {result['a']}, B = {result['b']}")
    yield fitting(LEGEND)
    yield f"{'':{width}}         A       B    B - A  95 % interval"
    for name, title, entry in rows:
        difference = entry["difference"]
        change = "-" if difference["value"] is None else f"{difference['value']:+.4f}"
        ends = "-" if difference["low"] is None else f"{difference['low']:+.4f} to {difference['high']:+.4f}"
        found = f"{number(entry['a']):>6}  {number(entry['b']):>6}  {change:>7}  {ends:18}  {entry['verdict']}"
        yield fitting(f"{title:{width}} {meaning(name).arrow}  {found}")
    if len(rows) < len(_rows(result)):
        why = "no groups" if [*result["by_group"]] == [ONE_GROUP] else "for either"
        undefined = ", ".join(title for _, title, entry in _rows(result) if _is_undefined(entry))
        yield fitting(f"not defined, {why}: {undefined}")


def conclusion(result: dict[str, Any]) -> str:
    """One sentence: what B is shown to be better and worse in, and whether it may replace A."""
    titles: dict[str, list[str]] = {}
    for _, title, entry in _rows(result):
        titles.setdefault(entry["verdict"], []).append(title)
    better, worse, same = (titles.get(verdict, []) for verdict in ("B better", "B worse", SAME))
    said = [f"B is shown {how} in {', '.join(names)}" for how, names in (("better", better), ("worse", worse)) if names]
    if same:
        said.append(f"no difference is shown in {'the other' if said else 'any of'} {len(same)} figures")
    gate = (
        f"it refuses a total of two thirds that falls by over {MAX_TOTAL_LOSS}, or a group of {MIN_GROUP} images or "
        f"more that loses over {100 * MAX_GROUP_LOSS:.0f} point of accuracy, each beyond noise"
    )
    if failures := reasons_against(result):
        said.append(f"by the gate, B may not replace A ({'; '.join(failures)})")
    elif not _is_judged(result):
        said.append(f"too few images for the gate to say whether B may replace A ({gate})")
    else:
        said.append(f"by the gate, B may replace A ({gate})")
    return "; ".join(said)


def reasons_against(result: dict[str, Any]) -> list[str]:
    """Why B must not replace A, one line each; empty where nothing shown speaks against it."""
    failures = []
    total = result["metrics"]["score.total_of_two_thirds"]["difference"]
    if total["high"] is not None and total["high"] < -MAX_TOTAL_LOSS:
        ends = f"{total['low']:+.4f} to {total['high']:+.4f}"
        failures.append(f"total of two thirds: {ends}, expected an interval that reaches {-MAX_TOTAL_LOSS}")
    for name, lost in _judged_groups(result).items():
        # The bootstrap shifts an end at 0 by its own small error: under half an image it is still at 0.
        if lost["value"] < -MAX_GROUP_LOSS and lost["high"] < -0.5 / lost["n"]:
            change = f"{100 * lost['value']:+.2f} points ({100 * lost['low']:+.2f} to {100 * lost['high']:+.2f})"
            failures.append(f"accuracy in {name}: {change} on {lost['n']} images, expected at most 1 lost, or noise")
    return failures


def remarks(result: dict[str, Any]) -> Iterator[str]:
    """What a person should know who reads the table, one line each."""
    changed = result["changed"]
    yield f"right in A alone: {changed['only_a_right']} images, in B alone: {changed['only_b_right']}"
    if result["levelling_down"]["flag"]:
        yield f"levelling down: B is fairer, and worse for {', '.join(result['levelling_down']['groups'])}"
    yield "intervals: 95 %, paired, each for itself: of 20 true zeros one is expected to look like a difference"


def _rows(result: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(metric, title, entry) of all that is compared; the accuracy once, and not again for data without groups."""
    metrics = ((name, entry) for name, entry in result["metrics"].items() if name != "score.accuracy")
    rows = [(name, meaning(name).title, entry) for name, entry in metrics]
    groups = {name: entry for name, entry in result["by_group"].items() if [*result["by_group"]] != [ONE_GROUP]}
    return rows + [("accuracy", f"accuracy in {name}", entry) for name, entry in groups.items()]


def _is_undefined(entry: dict[str, Any]) -> bool:
    return entry["a"] is None and entry["b"] is None


def _judged_groups(result: dict[str, Any]) -> dict[str, Metric]:
    """The changes of accuracy that the gate judges, by group."""
    changes = {name: entry["difference"] for name, entry in result["by_group"].items() if name != NOT_STATED}
    return {name: change for name, change in changes.items() if change["n"] >= MIN_GROUP and change["high"] is not None}


def _is_judged(result: dict[str, Any]) -> bool:
    """Whether there are images enough for the gate to say anything."""
    total = result["metrics"]["score.total_of_two_thirds"]["difference"]
    return total["high"] is not None or bool(_judged_groups(result))


def _paired(a: dict[str, Any], b: dict[str, Any]) -> list[int]:
    """For each sample of A its index in B."""
    paths = [result["samples"]["path"] for result in (a, b)]
    index = {path: i for i, path in enumerate(paths[1])}
    for what, names, others in (("first", paths[0], set(paths[1])), ("second", paths[1], set(paths[0]))):
        if len(set(names)) < len(names):
            raise EdgeError(f"the {what} result has a path twice")
        if alone := [name for name in names if name not in others]:
            raise EdgeError(
                f"{len(alone)} of {len(names)} images are in the {what} result alone, first {alone[0]}; expected the "
                "same images in both"
            )
    for key in ("profile", "reference_group", "excluded_groups"):
        ours, theirs = a["score"][key], b["score"][key]
        if ours != theirs:
            got = f"{key.replace('_', ' ')} {ours!r} in the first result and {theirs!r} in the second"
            raise EdgeError(f"got {got}, expected one")
    order = [index[path] for path in paths[0]]
    for key in ("label", "group", "cluster"):
        theirs = b["samples"][key]
        for path, ours, position in zip(paths[0], a["samples"][key], order, strict=True):
            if ours != theirs[position]:
                got = f"{key} {ours!r} in the first result and {theirs[position]!r} in the second"
                raise EdgeError(f"{path}: got {got}, expected the same")
    return order


def _observations(result: dict[str, Any], order: list[int], classes: list[str], reference: str) -> Observations:
    samples = {name: [result["samples"][name][i] for i in order] for name in OBSERVED}
    if unknown := {*samples["label"], *samples["prediction"]} - {*classes, None}:
        raise EdgeError(f"got the class {sorted(unknown)[0]!r}, expected one of {', '.join(classes)}")
    return Observations.of(*samples.values(), classes=classes, reference=reference)


def _entry(
    a: float, b: float, interval: tuple[float, float] | None, *, higher_is_better: bool | None, n: int
) -> dict[str, Any]:
    difference = as_metric(b - a, interval, n)
    if interval is None:
        verdict = "not defined" if difference["value"] is None else "not known: too few images"
    elif interval[0] <= 0 <= interval[1]:
        verdict = SAME
    else:
        verdict = "B better" if (interval[0] > 0) == higher_is_better else "B worse"
    ends = (None if np.isnan(value) else value for value in (a, b))
    return {**dict(zip("ab", ends)), "difference": difference, "verdict": verdict}


def _with_latency(two_thirds: dict[str, Any], a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The total: two thirds plus latencies, which are taken as exact."""
    ends = [result["score"]["latency"]["value"] / 3 for result in (a, b)]
    _, low, high, n = (difference := two_thirds["difference"]).values()
    if difference["value"] is None:
        return two_thirds
    interval = None if low is None else (low + ends[1] - ends[0], high + ends[1] - ends[0])
    return _entry(two_thirds["a"] + ends[0], two_thirds["b"] + ends[1], interval, higher_is_better=True, n=n)


def _levelling_down(fairness: dict[str, Any], by_group: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Whether B is fairer because it serves a group worse: fairness rose, an accuracy fell by more than noise.

    Source: Mittelstadt et al., The unfairness of fair machine learning, arXiv 2302.02404.
    """
    highs = {name: entry["difference"]["high"] for name, entry in by_group.items() if name != NOT_STATED}
    fell = [name for name, high in highs.items() if high is not None and high < 0]
    rose = None not in (fairness["a"], fairness["b"]) and fairness["b"] > fairness["a"]
    return {"flag": bool(rose and fell), "groups": fell}


def _changed(first: Observations, second: Observations) -> dict[str, Any]:
    """How many images only A or only B has right, and how many are wrong in two ways, overall and per group."""
    a, b = first.is_right, second.is_right
    kinds = {"only_a_right": a & ~b, "only_b_right": b & ~a, "both_wrong": ~a & ~b & (first.y_pred != second.y_pred)}
    by_group = {
        name: {kind: int(images[first.group == index].sum()) for kind, images in kinds.items()}
        for index, name in enumerate(first.groups)
    }
    return {**{kind: int(images.sum()) for kind, images in kinds.items()}, "by_group": by_group}
