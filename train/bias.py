"""Class offsets: fitted on the held-out predictions of runs, written to a file, and read back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from bench.dataset import NOT_STATED, DatasetError, as_text, index
from bench.score import PROFILES, reference_group
from edge.errors import EdgeError

from . import checkpoint as checkpoints
from .collect import held_out_pairs
from .posthoc import ClassBias, Form, Objective, fit_class_bias


class BiasError(EdgeError):
    """A file that is none of edge-train bias."""

    exit_status = 3


@dataclass(frozen=True)
class Bias:
    """Class offsets, and what they were fitted on."""

    classes: list[str]
    """(C,) names."""
    offsets: list[float]
    """(C,) finite, to be added to the logits."""
    objective: str
    """What they raise: one of `posthoc.Objective`."""
    form: str
    """Among which offsets they were sought: one of `posthoc.Form`."""
    folds: list[int | None]
    """Held-out folds that they were fitted on, at least one."""
    folds_sha256: list[str]
    """Of the folds files."""
    is_leaky: bool
    """Whether a run that they were fitted on is LEAKY."""
    sha256: str
    """Of the file."""


def class_bias(
    root: Path,
    runs: Sequence[Path],
    *,
    label_column: str,
    group_column: str = "group",
    objective: Objective,
    form: Form = "classes",
    reference: str | None = None,
) -> dict[str, Any]:
    """Fits class offsets on the held-out predictions of several runs, each image predicted by a run that held it out.

    Returns:
      JSON-ready: classes and their `bias`, the `objective`, the `form`, the metric `before` and `after` (nested: no
      offset is measured on a cluster it was fitted on), and what they were fitted on.

    Raises:
      CheckpointError: a run without held-out predictions, or of other classes.
      DatasetError: an image held out by two runs, or of a class that the runs do not know, or too few images to fit.
    """
    states = [checkpoints.load(run) for run in runs]
    samples = [as_text(sample) for sample in index(root, label_column=label_column, group_column=group_column)]
    pairs, classes = [pair for part in held_out_pairs(samples, runs, states) for pair in part], states[0].classes
    if unknown := sorted({sample.label for sample, _ in pairs} - {*classes}):
        expected = f"expected one of {', '.join(classes)} (see --label)"
        raise DatasetError(f"{runs[0]}: got an image of the class {unknown[0]!r}, {expected}")
    if objective == "contest":  # which compares groups
        pairs = [(sample, prediction) for sample, prediction in pairs if sample.group != NOT_STATED]
    groups = sorted({sample.group for sample in samples})
    clusters = sorted({sample.cluster for sample, _ in pairs})
    name = reference_group((s.group for s in samples), profile=PROFILES["esfair2023"], wanted=reference)
    probabilities = np.array([prediction.probabilities for _, prediction in pairs], np.float64)
    try:
        found: ClassBias = fit_class_bias(
            np.log(np.maximum(probabilities, 1e-12)),
            np.array([classes.index(sample.label) for sample, _ in pairs]),
            np.array([groups.index(sample.group) for sample, _ in pairs]),
            np.array([clusters.index(sample.cluster) for sample, _ in pairs]),
            reference_group=groups.index(name),
            objective=objective,
            form=form,
        )
    except ValueError as error:
        got = f"no offsets can be fitted on {len(pairs)} images, reference group {name}"
        raise DatasetError(f"{runs[0]}: {got}: {error}") from error
    return {
        "classes": classes,
        "bias": [round(float(value), 6) for value in found.bias],
        "objective": found.objective,
        "form": found.form,
        "before": round(found.before, 6),
        "after": round(found.after, 6),
        "images": len(pairs),
        "folds": [state.hold_out for state in states],
        "folds_sha256": sorted({str(state.folds_sha256) for state in states}),
        "note": "fitted on out-of-fold predictions to raise this metric; `after` is nested",
        **({"leaky": True} if any(state.leaky for state in states) else {}),
    }


def read_bias(path: Path) -> Bias:
    """Reads class offsets.

    Raises:
      BiasError: no such file, or none of `edge-train bias`.
    """
    try:
        content = path.read_bytes()
        values = json.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "no JSON"
        raise BiasError(f"{path}: {reason}, expected a file of edge-train bias") from error
    if not isinstance(values, dict):
        raise BiasError(f"{path}: got a {type(values).__name__}, expected a file of edge-train bias")
    classes, offsets = _list(path, values, "classes", str), _list(path, values, "bias", float)
    if len(offsets) != len(classes) or not all(math.isfinite(value) for value in offsets):
        got = ", ".join(f"{value:g}" for value in offsets[:20])
        raise BiasError(f"{path}: bias: got {got}, expected a finite number for each of {', '.join(classes)}")
    for name, known in (("objective", get_args(Objective)), ("form", get_args(Form))):
        if values.get(name) not in known:
            raise BiasError(f"{path}: {name}: got {str(values.get(name))[:40]!r}, expected {' or '.join(known)}")
    if not isinstance(leaky := values.get("leaky", False), bool):
        raise BiasError(f"{path}: leaky: got {str(leaky)[:40]!r}, expected true or false")
    return Bias(
        classes=classes,
        offsets=offsets,
        objective=values["objective"],
        form=values["form"],
        folds=_list(path, values, "folds", int, type(None)),
        folds_sha256=_list(path, values, "folds_sha256", str),
        is_leaky=leaky,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _list(path: Path, values: dict[str, Any], name: str, *kinds: type) -> list[Any]:
    found = values.get(name)
    is_valid = isinstance(found, list) and bool(found) and all(type(value) in kinds for value in found)
    if not is_valid:
        expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise BiasError(f"{path}: {name}: got {str(found)[:40]!r}, expected a list of {expected}")
    return list(found or [])
