"""Predictions and a data set -> a results file (`edge-bench/1`).

Every metric is {value, low, high, n}; what is not defined is null, never NaN. The samples are kept, so that any
other metric, and a paired comparison, can be computed from the file alone.

The interval of a proportion is Wilson's, with as many images as the clusters are worth. Every other interval is of the
cluster bootstrap. A measure of the gap between groups whose value a perfectly fair classifier would reach by chance
(p >= 0.05) has the fair value inside its interval.
"""

from __future__ import annotations

import json
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
from .evaluation import Frame, Intervals, Metric, Observations, Setting
from .interval import CONFIDENCE, images_needed
from .joint import joint_draws
from .null import null_of
from .pairing import MismatchError, has_answer

SCHEMA = "edge-bench/1"

HALF_WIDTH = 0.05
"""A group whose accuracy is known less well than this gets a warning: 5 points are a quarter of the contest's 0.2."""


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
    answers = [prediction.label if has_answer(prediction) else None for _, prediction in pairs]
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
    table = Intervals(frame, values, joint_draws([data], [frame])[0], null)
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


def read_json(path: Path, error_type: type[EdgeError]) -> Any:
    """What a JSON file holds.

    Raises:
      EdgeError: of that type: no such file, or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise error_type(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise error_type(f"{path}: not JSON: {error}") from error


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes a results file that is whole or absent.

    Raises:
      MismatchError: what was taken over from another file (a meta, a latency) is nothing that JSON can hold.
    """
    try:
        content = (json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (ValueError, RecursionError) as error:
        raise MismatchError(f"{path}: not written, the results hold what JSON cannot: {error}") from error
    write_output(path, content)


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
    answered = np.flatnonzero(data.y_pred != of.NO_ANSWER)
    confidences = np.empty(len(answered))
    for i, probabilities in enumerate(pairs[k][1].probabilities for k in answered.tolist()):
        if probabilities is None:
            return None
        confidences[i] = probabilities.max()
    if not len(answered):
        return None
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
