"""Predictions and a data set -> a results file (`edge-bench/1`), and the lines a person reads of it.

Every metric is {value, low, high, n}; what is not defined is null, never NaN. The samples are kept, so that any
other metric, and a paired comparison, can be computed from the file alone.

The interval of a proportion is Wilson's, with as many images as the clusters are worth. Every other interval is of the
cluster bootstrap. A measure of the gap between groups whose value a perfectly fair classifier would reach by chance
(p >= 0.05) has the fair value inside its interval.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import EdgeError
from edge.outputs import write_output
from edge.predictions import Prediction

from . import accuracy as of
from . import fairness, score
from .dataset import Sample
from .evaluation import Frame, Intervals, Metric, Observations, Setting, null_of
from .interval import CONFIDENCE, images_needed

SCHEMA = "edge-bench/1"

HALF_WIDTH = 0.05
"""A group whose accuracy is known less well than this gets a warning: 5 points are a quarter of the contest's 0.2."""


class MismatchError(EdgeError):
    """Predictions and a data set that do not belong together."""


def join(
    samples: Sequence[Sample], rows: Sequence[Prediction], *, subset: bool = False
) -> list[tuple[Sample, Prediction]]:
    """Each sample with its prediction, in the order of the data set.

    Args:
      samples: The data set.
      rows: The predictions.
      subset: Whether samples without a prediction are left out instead of being an error.

    Raises:
      MismatchError: a path predicted twice, a prediction for no sample, a sample without one, or a row that cannot be:
        another status than ok and error, a confidence or probability that is no number from 0 to 1.
    """
    by_path = {row.path: row for row in rows}
    if len(by_path) < len(rows):
        twice, _ = Counter(row.path for row in rows).most_common(1)[0]
        raise MismatchError(f"{len(rows) - len(by_path)} predictions are for a path that has one already: {twice}")
    paths = {sample.path for sample in samples}
    extra = [row.path for row in rows if row.path not in paths]
    missing = [sample.path for sample in samples if sample.path not in by_path]
    problems = []
    if extra:
        problems.append(f"{len(extra)} of {len(rows)} predictions are for no sample of the data set, first {extra[0]}")
    if missing:
        text = f"{len(missing)} of {len(samples)} samples have no prediction, first {missing[0]}"
        if len(missing) == len(samples) or not subset:
            problems.append(text + ("" if extra or subset else " (--subset leaves them out)"))
    if problems:
        raise MismatchError("; ".join(problems))
    for row in rows:
        if row.status != "ok" or row.probabilities is not None or not 0 <= (row.confidence or 0) <= 1:
            _check(row)
    return [(sample, by_path[sample.path]) for sample in samples if sample.path in by_path]


def class_order(
    meta: dict[str, Any], data_classes: Sequence[str], pairs: Sequence[tuple[Sample, Prediction]]
) -> list[str]:
    """The model's classes in its order; from a file that does not name them, all that occur.

    Raises:
      MismatchError: a class of the data or of a prediction that the model does not know, or an index that is not the
        label's.
    """
    labels = {prediction.label: prediction for _, prediction in pairs if _has_answer(prediction)}
    if "classes" not in meta:
        return [*data_classes, *sorted(set(labels).difference(data_classes))]
    classes = [str(name) for name in meta["classes"]]
    for what, names in (("the data set has the class", data_classes), ("a prediction is", sorted(labels))):
        if unknown := [name for name in names if name not in classes]:
            raise MismatchError(f"{what} {unknown[0]!r}, but the model knows only {', '.join(classes)} (see --label)")
    index = {name: i for i, name in enumerate(classes)}
    for _, prediction in pairs:
        if _has_answer(prediction) and prediction.label_index != index[prediction.label]:
            raise MismatchError(
                f"{prediction.path}: got label_index {prediction.label_index} for {prediction.label!r}, "
                f"expected {index[prediction.label]}"
            )
    return classes


def metrics(
    pairs: Sequence[tuple[Sample, Prediction]], classes: list[str], setting: Setting
) -> dict[str, Any]:
    """What the results file says of accuracy and fairness.

    Args:
      pairs: The scored samples with their predictions.
      classes: Class names in the order of the confusion matrix.
      setting: Profile, reference group and what else the numbers depend on.

    Raises:
      MismatchError: no samples.
      ScoreError: a group too small for the profile.
    """
    if not pairs:
        raise MismatchError("no sample is left to score")
    answers = [prediction.label if _has_answer(prediction) else None for _, prediction in pairs]
    samples: dict[str, list[Any]] = {
        "path": [sample.path for sample, _ in pairs],
        "group": [sample.group for sample, _ in pairs],
        "cluster": [sample.cluster for sample, _ in pairs],
        "label": [sample.label for sample, _ in pairs],
        "prediction": answers,
        "status": [prediction.status for _, prediction in pairs],
    }
    data = Observations.of(
        samples["label"], answers, samples["group"], samples["cluster"], classes=classes, reference=setting.reference
    )
    counts = data.counts
    frame = Frame(counts, data.groups, setting)
    score.check_sizes([int(n) for n in frame.sizes[frame.compared]], frame.names, setting.profile)
    is_right = data.y_true == data.y_pred
    contest = _contest(data, frame, counts)
    values = frame.statistics(counts, frame.parts_of_data(data))
    null = null_of(data, frame, values)
    table = Intervals(data, frame, values, null)
    by_group = {name: _group(data, frame, table, counts, index) for index, name in enumerate(data.groups)}
    accuracy = data.rate(is_right)
    contest |= {
        "accuracy": accuracy if setting.profile.batch_size is None else table.metric("score.accuracy"),
        "fairness": table.metric("score.fairness"),
        "spd": table.metric("score.spd"),
        "latency": None,
        "total": None,
        "total_of_two_thirds": table.metric("score.total_of_two_thirds"),
    }
    contest["thirds"] = {name: _third(contest[name]) for name in ("accuracy", "fairness")} | {"latency": None}
    return {
        "classes": classes,
        "score": contest,
        "accuracy": accuracy,
        "balanced_accuracy": table.metric("balanced_accuracy"),
        "macro_f1": table.metric("macro_f1"),
        "fairness": _fairness(frame, table, counts, classes),
        "null": None if null is None else null.report,
        "malignant": _malignant(data, setting.malignant),
        "calibration": _calibration(pairs, data),
        "by_class": {
            name: {
                "recall": data.rate(is_right, data.y_true == index),
                "precision": data.rate(is_right, data.y_pred == index),
            }
            for index, name in enumerate(classes)
        },
        "by_group": by_group,
        "confusion_matrix": counts.sum(0)[:, :-1].tolist(),
        "interval": {
            "confidence": CONFIDENCE,
            "rates": "Wilson" + ("" if data.has_single_clusters else ", images counted as what clusters are worth"),
            "others": "bootstrap over clusters, stratified by group, percentiles shifted by the bias",
            "draws": setting.draws,
            "seed": setting.seed,
            "clusters": int(data.cluster.max()) + 1 if len(data.cluster) else 0,
        },
        "warnings": list(_warnings(data, frame, by_group)),
        "latency": None,
        "machine": None,
        "valid": True,
        "reasons": [],
        "samples": samples,
    }


def add_latency(result: dict[str, Any], timing: dict[str, Any]) -> None:
    """Completes a result with the latency of `edge-bench latency`: the third part, the total, the machine.

    The latency stands without an interval: its runs differ far less than accuracy and fairness do, and the score
    holds for the machine it was measured on.
    """
    from .latency import latency_score  # onnxruntime, which scoring without a latency does without

    latency, contest = timing["latency"], result["score"]
    value = latency_score(latency["seconds_per_100"])
    contest["latency"] = {"value": value, "low": None, "high": None, "n": latency.get("images")}
    contest["thirds"]["latency"] = _third(contest["latency"])
    two_thirds = contest["total_of_two_thirds"]
    if two_thirds["value"] is not None:
        ends = {key: two_thirds[key] for key in ("value", "low", "high")}
        total = {key: None if end is None else end + value / 3 for key, end in ends.items()}
        contest["total"] = {**total, "n": two_thirds["n"]}
    result["latency"] = latency
    result["machine"] = timing.get("machine")
    reasons = [f"latency: {reason}" for reason in timing.get("reasons") or ()]
    models = [(timing.get("model") or {}).get("sha256"), result["predictions"].get("model_sha256")]
    if None not in models and models[0] != models[1]:
        reasons.append("latency: measured with another model than the predictions are of")
    result["reasons"] += reasons
    result["valid"] = not result["reasons"]


def table(result: dict[str, Any]) -> Iterator[str]:
    """Aligned lines: name, value, interval, number of samples; the score last, where a terminal ends."""
    rows = [(name.replace("_", " "), result[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")]
    rows += [(f"recall {name}", metrics["recall"]) for name, metrics in result["by_class"].items()]
    rows += [(f"precision {name}", metrics["precision"]) for name, metrics in result["by_class"].items()]
    if result["malignant"]:
        rows += [(f"malignant {name}", result["malignant"][name]) for name in ("sensitivity", "specificity")]
    rows += [(f"accuracy in {group}", metrics["accuracy"]) for group, metrics in result["by_group"].items()]
    parity, contest = result["fairness"], result["score"]
    rows += [(text, parity[name]) for name, text in _PARITY_ROWS.items()]
    rows += [(f"spd to {contest['reference_group']}", contest["spd"])]
    rows += [(f"score: {name}", contest[name]) for name in ("accuracy", "fairness", "latency") if contest[name]]
    total = "total" if contest["latency"] else "total_of_two_thirds"
    rows += [(f"score: {total.replace('_', ' ')}", contest[total] or _UNDEFINED)]
    width = max(len(name) for name, _ in rows)
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
            f"{interval_text(fair['fairness'])} on these images, as low as this with p = {fair['p_value']:.3f}"
        )
    if over := contest.get("over_permutations"):
        mean, sd = (number(over["fairness"][key]) for key in ("mean", "sd"))
        yield (
            f"images dropped at random: fairness {mean}, sd {sd} over all shuffles ({over['method']}); this is the one "
            f"of seed {contest['seed']}"
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


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes a results file that is whole or absent."""
    write_output(path, json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n")


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


def _contest(data: Observations, frame: Frame, counts: np.ndarray) -> dict[str, Any]:
    """What of the `score` part of a results file has no interval."""
    setting, profile = frame.setting, frame.setting.profile
    contest: dict[str, Any] = {
        "profile": profile.name,
        "summary": profile.summary,
        "reference_group": setting.reference,
        "excluded_groups": list(setting.excluded),
    }
    if profile.batch_size is not None:
        dropped = frame.sizes - score.scored_sizes(frame.sizes, profile)
        contest["seed"] = setting.seed
        contest["images_dropped"] = dict(zip(data.groups, dropped.tolist(), strict=True))
        contest["over_permutations"] = score.over_permutations(
            fairness.hits(counts).sum(-1), frame.sizes,
            reference=frame.reference, compared=frame.compared, profile=profile, seed=setting.seed,
        )
    return contest


def _fairness(frame: Frame, table: Intervals, counts: np.ndarray, classes: list[str]) -> dict[str, Any]:
    setting = frame.setting
    parities = fairness.parity(
        counts[frame.compared], reference=frame.compared.index(frame.reference), cells=frame.cells
    )
    small = np.argwhere(~frame.cells).tolist()
    part: dict[str, Any] = {
        "reference_group": setting.reference,
        "compared_groups": frame.names,
        "excluded_groups": list(setting.excluded),
        "groups_without_images": [name for name, n in zip(frame.names, frame.support.sum(-1)) if not n],
        "min_cell": fairness.MIN_CELL,
        "cells_below_min": [
            {"group": frame.names[g], "class": classes[c], "n": int(frame.support[g, c])} for g, c in small
        ],
    }
    for name, metric in parities.items():
        part[name] = table.metric(f"fairness.{name}") | {"by_group": table.by_group(f"fairness.{name}.by_group")}
        if metric.by_class is not None:
            by_class = [None if np.isnan(value) else float(value) for value in metric.by_class]
            part[name]["by_class"] = dict(zip(classes, by_class, strict=True))
    part["gap_from_mix"] = table.metric("fairness.gap_from_mix")
    return part


def _group(data: Observations, frame: Frame, table: Intervals, counts: np.ndarray, index: int) -> dict[str, Any]:
    is_right, chosen = data.y_true == data.y_pred, data.group == index
    is_compared = index in frame.compared
    return {
        "accuracy": data.rate(is_right, chosen),
        "balanced_accuracy": table.of_group("by_group.balanced_accuracy", index),
        "macro_f1": table.of_group("by_group.macro_f1", index),
        "difference_to_reference": table.of_group("fairness.spd_accuracy.by_group", index) if is_compared else None,
        "recall": {
            name: data.rate(is_right, chosen & (data.y_true == c)) for c, name in enumerate(data.classes)
        },
        "confusion_matrix": counts[index][:, :-1].tolist(),
        "clusters": len(np.unique(data.cluster[chosen])),
    }


def _malignant(data: Observations, malignant: Collection[str]) -> dict[str, Any] | None:
    """Sensitivity and specificity of the malignant classes taken as one; None where none or all classes are."""
    positive = np.array([name in malignant for name in data.classes])
    if not positive.any() or positive.all():
        return None
    truth = positive[data.y_true]
    answer = np.where(data.y_pred == of.NO_ANSWER, ~truth, positive[data.y_pred])  # no answer is wrong either way

    def rates(chosen: np.ndarray) -> dict[str, Metric]:
        return {
            "sensitivity": data.rate(answer == truth, chosen & truth),
            "specificity": data.rate(answer == truth, chosen & ~truth),
        }

    everyone = np.ones(len(truth), bool)
    return {
        "classes": [name for name in data.classes if name in malignant],
        **rates(everyone),
        "by_group": {name: rates(data.group == index) for index, name in enumerate(data.groups)},
    }


def _calibration(pairs: Sequence[tuple[Sample, Prediction]], data: Observations) -> dict[str, Any] | None:
    """Expected calibration error of the images with an answer; None where the predictions lack probabilities."""
    answered = [i for i, (_, prediction) in enumerate(pairs) if _has_answer(prediction)]
    found = [probabilities for i in answered if (probabilities := pairs[i][1].probabilities) is not None]
    if not answered or len(found) < len(answered):
        return None
    confidences = np.array([probabilities.max() for probabilities in found], np.float64)
    right, group = (data.y_true == data.y_pred)[answered], data.group[answered]

    def describe(chosen: np.ndarray) -> dict[str, Any]:
        bins = of.calibration(confidences[chosen], right[chosen])
        return {
            "ece": {"value": bins.error, "low": None, "high": None, "n": bins.n},
            "bins": {"n": bins.sizes, "confidence": bins.confidences, "accuracy": bins.accuracies},
        }

    return {
        "edges": of.calibration(confidences, right).edges,
        **describe(np.ones(len(right), bool)),
        "by_group": {name: describe(group == index) for index, name in enumerate(data.groups)},
    }


def _warnings(data: Observations, frame: Frame, by_group: dict[str, Any]) -> Iterator[str]:
    """What a reader should know before believing a gap."""
    for name in frame.names:
        accuracy = by_group[name]["accuracy"]
        n = accuracy["n"]
        if n < fairness.MIN_CELL:
            yield (
                f"group {name} has {n} images, under {fairness.MIN_CELL}: no interval for anything that compares "
                "groups (--exclude-group leaves it out)"
            )
        elif (accuracy["high"] - accuracy["low"]) / 2 > HALF_WIDTH:
            half = (accuracy["high"] - accuracy["low"]) / 2
            needed = images_needed(min(max(accuracy["value"], 0.1), 0.9), HALF_WIDTH)
            ends = f"{n} images give its accuracy +- {100 * half:.1f} points"
            yield f"group {name}: {ends}; +- {100 * HALF_WIDTH:.0f} points take about {needed}"
    if len(frame.names) - (frame.support.sum(-1) == 0).sum() < 2:
        yield "fewer than two groups with images: nothing that compares groups is defined"
    elif not frame.sizes[frame.reference]:
        yield f"the reference group {frame.setting.reference} has no scored image: SPD and fairness are not defined"
    if small := int((~frame.cells).sum()):
        yield (
            f"{small} of {frame.cells.size} cells of group and class have under {fairness.MIN_CELL} images and are "
            "left out of eom, equal_opportunity and equalized_odds"
        )


def _third(metric: Metric) -> Metric:
    return {k: metric[k] if k == "n" or metric[k] is None else metric[k] / 3 for k in ("value", "low", "high", "n")}


def _check(row: Prediction) -> None:
    if row.status not in ("ok", "error"):
        raise MismatchError(f"{row.path}: got status {row.status!r}, expected ok or error")
    if row.confidence is not None and not 0 <= row.confidence <= 1:
        raise MismatchError(f"{row.path}: got confidence {row.confidence}, expected 0 to 1")
    if row.probabilities is not None and not ((row.probabilities >= 0) & (row.probabilities <= 1)).all():
        raise MismatchError(f"{row.path}: got probabilities {row.probabilities.tolist()}, expected 0 to 1")


def _has_answer(prediction: Prediction) -> bool:
    """False for an image that could not be used, and for a label of "uncertain" (index -1)."""
    return prediction.status == "ok" and prediction.label_index is not None and prediction.label_index >= 0
