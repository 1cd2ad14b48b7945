"""Images divided into groups by a column of the manifest: how each group fares, how far apart they are, by chance too.

A data set may be divided in several ways, by skin angle, sex or age. The first column is the one that the contest's
score compares; what is said of a further one has the same form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import EdgeError

from ..dataset import NOT_STATED
from ..metrics import accuracy as of
from ..metrics import fairness, score
from ..metrics.evaluation import Frame, Intervals, Metric, Observations, Setting
from ..metrics.fair_null import null_of
from ..metrics.interval import images_needed
from ..metrics.joint_draws import joint_draws

HALF_WIDTH = 0.05
"""A group whose accuracy is known less well than this gets a warning: 5 points are a quarter of the contest's 0.2."""


class Grouping:
    """The images divided in one way, with every metric and its interval."""

    def __init__(self, data: Observations, setting: Setting) -> None:
        """Computes the metrics.

        Raises:
          EdgeError: a group too small for the profile.
        """
        self.data, self.counts = data, data.counts
        self.frame = Frame(self.counts, data.groups, setting)
        score.check_sizes(
            [int(n) for n in self.frame.sizes[self.frame.compared]], self.frame.names, setting.profile
        )
        values = self.frame.statistics(self.counts, self.frame.parts_of_data(data))
        null = null_of(data, self.frame, values)
        self.table = Intervals(self.frame, values, joint_draws([data], [self.frame])[0], null)
        self._null = None if null is None else null.report

    def part(self) -> dict[str, Any]:
        """What a results file says of the groups, under the names it has there."""
        data, frame, table, counts = self.data, self.frame, self.table, self.counts
        by_group = {name: _group(data, frame, table, counts, index) for index, name in enumerate(data.groups)}
        return {
            "fairness": _fairness(frame, table, counts, data.classes),
            "null": self._null,
            "malignant": _malignant(data, frame.setting.malignant),
            "by_group": by_group,
            "warnings": list(_warnings(data, frame, by_group)),
        }


def further(
    samples: Mapping[str, Sequence[Any]],
    classes: list[str],
    setting: Setting,
    columns: Mapping[str, Mapping[str, str]],
    *,
    excluded: Sequence[str] = (),
) -> dict[str, Any]:
    """The `groupings` of a results file: what it says of the same images, divided by further columns.

    Args:
      samples: The `samples` of the results file.
      classes: Class names in the order of the confusion matrix.
      setting: Of the first column. Here every image counts, whatever its profile drops, and the reference is the
        contest's own group or else the largest: its accuracy, which the others are held against, is known best.
      columns: By column the group of every image of the data set, by its path.
      excluded: Groups left out of what compares groups, in every column that has one of the name.

    Returns:
      By column the parts of `Grouping.part`, and `samples.group`, parallel to the other samples.

    Raises:
      EdgeError: a column without a group to compare.
    """
    found: dict[str, Any] = {}
    for column, group_of in columns.items():
        sizes = Counter(group_of.values())
        own = tuple(name for name in dict.fromkeys(excluded) if name in sizes)
        left_out, profile = score.left_out(sizes, own), replace(setting.profile, batch_size=None)
        compared = sorted({*sizes} - {*left_out})
        if not compared:
            got = ", ".join(left_out)
            raise EdgeError(f"column {column}: every group is excluded or {NOT_STATED}, got {got}")
        largest = max(compared, key=lambda name: sizes[name])
        reference = profile.reference if profile.reference in compared else largest
        groups = [group_of[path] for path in samples["path"]]
        data = Observations.of(
            samples["label"], samples["prediction"], groups, samples["cluster"], classes=classes, reference=reference
        )
        grouping = Grouping(data, replace(setting, profile=profile, reference=reference, excluded=own))
        found[column] = {**grouping.part(), "samples": {"group": groups}}
    return found


def columns_of(result: dict[str, Any]) -> list[str]:
    """The columns of groups that a result was scored by; the first is the one that its score compares."""
    data, further = result.get("data"), result.get("groupings")
    first = str(data.get("group_column", "group")) if isinstance(data, dict) else "group"
    return [first, *(further if isinstance(further, dict) else [])]


def check_columns(result: dict[str, Any], columns: Sequence[str], path: Path) -> None:
    """Refuses columns that a result was not scored by.

    Raises:
      EdgeError: it was not scored by one.
    """
    known = columns_of(result)
    for column in columns:
        if column not in known:
            raise EdgeError(f"{path}: was not scored by {column}, got {', '.join(known)} (edge-bench score --group)")


def _fairness(frame: Frame, table: Intervals, counts: np.ndarray, classes: list[str]) -> dict[str, Any]:
    parities = fairness.parity(
        counts[frame.compared], reference=frame.compared.index(frame.reference), cells=frame.cells
    )
    small = np.argwhere(~frame.cells).tolist()
    part: dict[str, Any] = {
        "reference_group": frame.setting.reference,
        "compared_groups": frame.names,
        "excluded_groups": list(frame.excluded),
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


def _warnings(data: Observations, frame: Frame, by_group: dict[str, Any]) -> Iterator[str]:
    """What a reader should know before believing a gap."""
    if num_unstated := by_group[NOT_STATED]["accuracy"]["n"] if NOT_STATED in by_group else 0:
        yield f"the group of {num_unstated} images is not stated: they are compared with no other"
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
