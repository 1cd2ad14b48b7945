"""Predictions and a data set -> a results file (`edge-bench/1`).

Every metric is {value, low, high, n}; what is not defined is null, never NaN. The samples are kept, so that any
other metric, and a paired comparison, can be computed from the file alone.

The interval of a proportion is Wilson's, with as many images as the clusters are worth. Every other interval is of the
cluster bootstrap. A measure of the gap between groups whose value a perfectly fair classifier would reach by chance
(p >= 0.05) has the fair value inside its interval.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import EdgeError
from edge.output_files import write_output
from edge.predictions import Prediction

from ..dataset import Sample
from ..metrics import accuracy as of
from ..metrics import rates, score
from ..metrics.evaluation import Frame, Metric, Observations, Setting
from ..metrics.interval import CONFIDENCE
from .groupings import Grouping
from .pairing import has_answer

SCHEMA = "edge-bench/1"


def metrics(
    pairs: Sequence[tuple[Sample, Prediction]], classes: list[str], setting: Setting
) -> dict[str, Any]:
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
    grouping = Grouping(data, setting)
    counts, table, part = grouping.counts, grouping.table, grouping.part()
    contest = _contest(data, grouping.frame, counts)
    is_right = data.y_true == data.y_pred
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
        "fairness": part["fairness"],
        "null": part["null"],
        "malignant": part["malignant"],
        "calibration": _calibration(pairs, data),
        "by_class": {
            name: {
                "recall": data.rate(is_right, data.y_true == index),
                "precision": data.rate(is_right, data.y_pred == index),
            }
            for index, name in enumerate(classes)
        },
        "by_group": part["by_group"],
        "confusion_matrix": counts.sum(0)[:, :-1].tolist(),
        "interval": _interval(data, setting),
        "warnings": part["warnings"],
        "latency": None,
        "machine": None,
        "valid": True,
        "reasons": [],
        "samples": samples,
    }


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      EdgeError: no such file, or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise EdgeError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EdgeError(f"{path}: not JSON: {error}") from error


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes a results file that is whole or absent.

    Raises:
      EdgeError: what was taken over from another file (a meta, a latency) is nothing that JSON can hold.
    """
    try:
        content = (json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (ValueError, RecursionError) as error:
        raise EdgeError(f"{path}: not written, the results hold what JSON cannot: {error}") from error
    write_output(path, content)


def _interval(data: Observations, setting: Setting) -> dict[str, Any]:
    """How the intervals were made."""
    return {
        "confidence": CONFIDENCE,
        "rates": "Wilson" + ("" if data.has_single_clusters else ", images counted as what clusters are worth"),
        "others": "bootstrap over clusters, stratified by group, percentiles shifted by the bias",
        "draws": setting.draws,
        "seed": setting.seed,
        "clusters": int(data.cluster.max()) + 1 if len(data.cluster) else 0,
    }


def _contest(data: Observations, frame: Frame, counts: np.ndarray) -> dict[str, Any]:
    """What of the `score` part of a results file has no interval."""
    setting, profile = frame.setting, frame.setting.profile
    contest: dict[str, Any] = {
        "profile": profile.name,
        "summary": profile.summary,
        "reference_group": setting.reference,
        "excluded_groups": list(frame.excluded),
    }
    if profile.batch_size is not None:
        dropped = frame.sizes - score.scored_sizes(frame.sizes, profile)
        contest["seed"] = setting.seed
        contest["images_dropped"] = dict(zip(data.groups, dropped.tolist(), strict=True))
        contest["over_permutations"] = score.over_permutations(
            rates.hits(counts).sum(-1), frame.sizes,
            reference=frame.reference, compared=frame.compared, profile=profile, seed=setting.seed,
        )
    return contest


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


def _third(metric: Metric) -> Metric:
    return {k: metric[k] if k == "n" or metric[k] is None else metric[k] / 3 for k in ("value", "low", "high", "n")}
