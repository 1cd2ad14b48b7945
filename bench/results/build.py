"""Predictions and a data set -> what a results file (`edge-bench/1`) says.

Every metric is {value, low, high, n}; what is not defined is null, never NaN. The samples are kept, so that any
other metric, and a paired comparison, can be computed from the file alone. A data set may be divided in several ways,
by skin angle, sex or age: the contest's score compares the first, and what is said of a further one has the same form.

The interval of a proportion is Wilson's, with as many images as the clusters are worth. Every other interval is of the
cluster bootstrap. A measure of the gap between groups whose value a perfectly fair classifier would reach by chance
(p >= 0.05) has the fair value inside its interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edge.errors import EdgeError
from edge.predictions import Prediction

from ..dataset import NOT_STATED, Sample
from ..metrics.contest import latency_score, left_out, over_permutations, scored_sizes
from ..metrics.counts import EDGES, NO_ANSWER, calibration, hits
from ..metrics.evaluation import Frame, Intervals, Metric, Observations, Setting, as_metric
from ..metrics.fairness import MIN_CELL
from ..metrics.interval import CONFIDENCE, null_of
from ..metrics.paired import joint_draws
from ..remarks import remarks_on
from .caveats import caveats, why_undefined
from .join import has_answer

OBSERVED = ("label", "prediction", "group", "cluster")
"""Of the `samples` of a results file, what `Observations.of` takes."""


def metrics(pairs: Sequence[tuple[Sample, Prediction]], classes: list[str], setting: Setting) -> dict[str, Any]:
    """What the results file says of accuracy and fairness.

    Args:
      pairs: The scored samples with their predictions.
      classes: Class names in the order of the confusion matrix.
      setting: Profile, reference group and what else the numbers depend on.

    Raises:
      EdgeError: no samples; a group too small for the profile.
    """
    if not pairs:
        raise EdgeError("no sample is left to score")
    samples: dict[str, list[Any]] = {
        **{name: [getattr(sample, name) for sample, _ in pairs] for name in ("path", "group", "cluster", "label")},
        "prediction": [prediction.label if has_answer(prediction) else None for _, prediction in pairs],
        "status": [prediction.status for _, prediction in pairs],
    }
    data = Observations.of(*(samples[name] for name in OBSERVED), classes=classes, reference=setting.reference)
    frame, table, part = _of_groups(data, setting)
    accuracy = data.rate(data.is_right)
    contest = _contest(data, frame) | {
        "accuracy": accuracy if setting.profile.batch_size is None else table.metric("score.accuracy"),
        "fairness": table.metric("score.fairness"),
        "spd": table.metric("score.spd"),
        "latency": None,
        "total": None,
        "total_of_two_thirds": table.metric("score.total_of_two_thirds"),
    }
    contest["thirds"] = {name: _third(contest[name]) for name in ("accuracy", "fairness")} | {"latency": None}
    if contest["fairness"]["value"] is None:
        contest["total_of_parts"] = {**contest["thirds"]["accuracy"], "parts": ["accuracy"]}
    return {
        "classes": classes,
        "score": contest,
        "accuracy": accuracy,
        "balanced_accuracy": table.metric("balanced_accuracy"),
        "macro_f1": table.metric("macro_f1"),
        "fairness": part["fairness"],
        "null": part["null"],
        "malignant": part["malignant"],
        "calibration": _calibration(pairs, data),
        "by_class": {
            name: {
                "recall": data.rate(data.is_right, data.y_true == index),
                "precision": data.rate(data.is_right, data.y_pred == index),
            }
            for index, name in enumerate(classes)
        },
        "by_group": part["by_group"],
        "confusion_matrix": data.counts.sum(0)[:, :-1].tolist(),
        "interval": {
            "confidence": CONFIDENCE,
            "rates": "Wilson" + ("" if data.has_single_clusters else ", images counted as what clusters are worth"),
            "others": "bootstrap over clusters, stratified by group, percentiles shifted by the bias",
            "draws": setting.draws,
            "seed": setting.seed,
            "clusters": data.num_clusters,
        },
        "warnings": [*part["warnings"], *remarks_on(samples["label"], samples["group"], samples["prediction"])],
        "latency": None,
        "machine": None,
        "valid": True,
        "reasons": [],
        "samples": samples,
    }


def further(
    samples: Mapping[str, Sequence[Any]], classes: list[str], setting: Setting,
    columns: Mapping[str, Mapping[str, str]], *, excluded: Sequence[str] = (),
) -> dict[str, Any]:
    """The `groupings` of a results file: what it says of the same images, divided by further columns.

    Every image counts, whatever the profile drops. The reference is the contest's own group or else the largest: its
    accuracy, which the others are held against, is known best.

    Args:
      samples: The `samples` of the results file.
      classes: Class names in the order of the confusion matrix.
      setting: Of the first column.
      columns: By column the group of every image of the data set, by its path.
      excluded: Groups left out of what compares groups, in every column that has one of the name.

    Returns:
      By column `fairness`, `null`, `malignant`, `by_group`, `warnings` as of the first, and its own `samples.group`.

    Raises:
      EdgeError: a column without a group to compare.
    """
    profile = replace(setting.profile, batch_size=None)
    found: dict[str, Any] = {}
    for column, group_of in columns.items():
        sizes = Counter(group_of.values())
        own = tuple(name for name in dict.fromkeys(excluded) if name in sizes)
        alone = left_out(sizes, own)
        compared = sorted({*sizes} - {*alone})
        if not compared:
            raise EdgeError(f"column {column}: every group is excluded or {NOT_STATED}, got {', '.join(alone)}")
        largest = max(compared, key=lambda name: sizes[name])
        reference = profile.reference if profile.reference in compared else largest
        groups = {"group": [group_of[path] for path in samples["path"]]}
        columns_of = {**samples, **groups}
        data = Observations.of(*(columns_of[name] for name in OBSERVED), classes=classes, reference=reference)
        part = _of_groups(data, replace(setting, profile=profile, reference=reference, excluded=own))[2]
        found[column] = {**part, "samples": groups}
    return found


def add_latency(result: dict[str, Any], measured: dict[str, Any]) -> None:
    """Completes a result with a file of `edge-bench latency`: the third part, the total, the machine.

    The latency stands without an interval: its runs differ far less than accuracy and fairness do, and the score
    holds for the machine it was measured on.
    """
    latency, contest = measured["latency"], result["score"]
    value = latency_score(latency["seconds_per_100"])
    contest["latency"] = as_metric(value, None, latency["images"])
    contest["thirds"]["latency"] = _third(contest["latency"])
    two_thirds = contest["total_of_two_thirds"]
    if two_thirds["value"] is not None:
        contest["total"] = {
            key: end if key == "n" or end is None else end + value / 3 for key, end in two_thirds.items()
        }
    if parts := contest.get("total_of_parts"):  # of what is defined: without groups there is no fairness
        ends = {key: parts[key] if parts[key] is None else parts[key] + value / 3 for key in ("value", "low", "high")}
        contest["total_of_parts"] = {**parts, **ends, "parts": [*parts["parts"], "latency"]}
    result["latency"], result["machine"] = latency, measured.get("machine")
    # The file may be a result that took its latency from another one, with these reasons.
    reasons = [f"latency: {reason.removeprefix('latency: ')}" for reason in measured["reasons"]]
    if not (measured["valid"] or reasons):
        reasons.append("latency: its file says no more than that it is not valid")
    models = [(measured.get("model") or {}).get("sha256"), result["predictions"].get("model_sha256")]
    if None not in models and models[0] != models[1]:
        reasons.append("latency: measured with another model than the predictions are of")
    result["reasons"] += reasons
    result["valid"] = not result["reasons"]


def _of_groups(data: Observations, setting: Setting) -> tuple[Frame, Intervals, dict[str, Any]]:
    """The metrics of the images divided in one way, and what a results file says of these groups."""
    frame = Frame(data.counts, data.groups, setting)
    values = frame.statistics(data.counts, frame.parts_of_data(data))
    null = null_of(data, frame, values)
    table = Intervals(frame, values, joint_draws([data], [frame])[0], null)
    by_group = {name: _group(data, frame, table, index) for index, name in enumerate(data.groups)}
    return frame, table, {
        "fairness": _fairness(data, frame, table),
        "null": None if null is None else null.report,
        "malignant": _malignant(data, setting.malignant),
        "by_group": by_group,
        "warnings": list(caveats(frame, by_group)),
    }


def _fairness(data: Observations, frame: Frame, table: Intervals) -> dict[str, Any]:
    part: dict[str, Any] = {
        "reference_group": frame.setting.reference,
        "reason": why_undefined(frame),
        "compared_groups": frame.names,
        "excluded_groups": list(frame.excluded),
        "groups_without_images": [name for name, n in zip(frame.names, frame.support.sum(-1)) if not n],
        "min_cell": MIN_CELL,
        "cells_below_min": [
            {"group": frame.names[g], "class": data.classes[c], "n": int(frame.support[g, c])}
            for g, c in np.argwhere(~frame.cells).tolist()
        ],
    }
    for name, metric in frame.parities(data.counts).items():
        part[name] = table.metric(f"fairness.{name}") | {"by_group": table.by_group(f"fairness.{name}.by_group")}
        if metric.by_class is not None:
            by_class = [None if np.isnan(value) else value for value in metric.by_class.tolist()]
            part[name]["by_class"] = dict(zip(data.classes, by_class, strict=True))
    part["gap_from_mix"] = table.metric("fairness.gap_from_mix")
    return part


def _group(data: Observations, frame: Frame, table: Intervals, index: int) -> dict[str, Any]:
    chosen, is_compared = data.group == index, index in frame.compared
    return {
        "accuracy": data.rate(data.is_right, chosen),
        "balanced_accuracy": table.of_group("by_group.balanced_accuracy", index),
        "macro_f1": table.of_group("by_group.macro_f1", index),
        "difference_to_reference": table.of_group("fairness.spd_accuracy.by_group", index) if is_compared else None,
        "recall": {
            name: data.rate(data.is_right, chosen & (data.y_true == c)) for c, name in enumerate(data.classes)
        },
        "confusion_matrix": data.counts[index][:, :-1].tolist(),
        "clusters": len(np.unique(data.cluster[chosen])),
    }


def _malignant(data: Observations, malignant: Collection[str]) -> dict[str, Any] | None:
    """Sensitivity and specificity of the malignant classes taken as one; None where none or all classes are."""
    positive = np.array([name in malignant for name in data.classes])
    if not positive.any() or positive.all():
        return None
    truth = positive[data.y_true]
    answer = np.where(data.y_pred == NO_ANSWER, ~truth, positive[data.y_pred])  # no answer is wrong either way

    def rates(chosen: np.ndarray) -> dict[str, Metric]:
        return {
            "sensitivity": data.rate(answer == truth, chosen & truth),
            "specificity": data.rate(answer == truth, chosen & ~truth),
        }

    return {
        "classes": [name for name in data.classes if name in malignant],
        **rates(np.ones(len(truth), bool)),
        "by_group": {name: rates(data.group == index) for index, name in enumerate(data.groups)},
    }


def _contest(data: Observations, frame: Frame) -> dict[str, Any]:
    """What of the `score` part of a results file has no interval."""
    setting, profile = frame.setting, frame.setting.profile
    said: dict[str, Any] = {
        "profile": profile.name,
        "summary": profile.summary,
        "reference_group": setting.reference,
        "excluded_groups": list(frame.excluded),
    }
    if profile.batch_size is not None:
        dropped = frame.sizes - scored_sizes(frame.sizes, profile)
        said["seed"] = setting.seed
        said["images_dropped"] = dict(zip(data.groups, dropped.tolist(), strict=True))
        said["over_permutations"] = over_permutations(
            hits(data.counts).sum(-1), frame.sizes,
            reference=frame.reference, compared=frame.compared, profile=profile, seed=setting.seed,
        )
    return said


def _calibration(pairs: Sequence[tuple[Sample, Prediction]], data: Observations) -> dict[str, Any] | None:
    """Expected calibration error of the images with an answer; None where the predictions lack probabilities."""
    answered = np.flatnonzero(data.y_pred != NO_ANSWER)
    probabilities = [pairs[k][1].probabilities for k in answered.tolist()]
    confidences = np.array([p.max() for p in probabilities if p is not None], np.float64)
    if not len(answered) or len(confidences) < len(answered):
        return None
    right, group = data.is_right[answered], data.group[answered]

    def describe(chosen: np.ndarray) -> dict[str, Any]:
        bins = calibration(confidences[chosen], right[chosen])
        return {
            "ece": {"value": bins.error, "low": None, "high": None, "n": int(chosen.sum())},
            "bins": {"n": bins.sizes, "confidence": bins.confidences, "accuracy": bins.accuracies},
        }

    return {
        "edges": list(EDGES),
        **describe(np.ones(len(right), bool)),
        "by_group": {name: describe(group == index) for index, name in enumerate(data.groups)},
    }


def _third(metric: Metric) -> Metric:
    return {key: end if key == "n" or end is None else end / 3 for key, end in metric.items()}
