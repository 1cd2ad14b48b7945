"""Two forms of one model, asked about the same images: what changed, for whom, and whether it may.

Every export promises the same answers, and int8 breaks the promise for the smallest group first, which an overall
accuracy hides. So a change is judged by the contest's score and by each group, with intervals in which the images that
both forms find difficult cancel. Several folds are judged as one: each pair of models on the images held out from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import dataset
from bench.dataset import Sample
from bench.metrics import contest
from bench.metrics.evaluation import Observations, Setting
from bench.metrics.fairness import MIN_CELL
from bench.metrics.interval import DRAWS
from bench.remarks import one_answer
from bench.results import build, compare, join
from edge.errors import EdgeError
from edge.predictions import Prediction
from edge.progress import Progress
from train.after.held_out import to_predictions
from train.after.temperature import softmax

from .loaded_model import Pair, ask_both, choose_images, open_pair, remarks_on_leaks

SCHEMA = "edge-verify/1"

_SHOWN = ("accuracy", "balanced_accuracy", "fairness.worst_group", "score.fairness", "score.total_of_two_thirds")
_SHOWN_FLIPS = 10


def verify(
    root: Path,
    pairs: Sequence[Pair],
    *,
    label_column: str = "class",
    group_column: str = "group",
    allow_leak: bool = False,
    draws: int = DRAWS,
    quiet: bool = True,
) -> dict[str, Any]:
    """Asks both models of each pair about its images, and compares the answers of all pairs together.

    Args:
      root: Folder of the data set.
      pairs: At least one, all of the same classes; no image in two of them.
      label_column: Of the manifest.
      group_column: Of the manifest.
      allow_leak: Whether figures are given on images that a model was trained on.
      draws: Of the bootstrap.
      quiet: Whether no progress is shown.

    Returns:
      JSON-ready: `pairs`, `images`, `errors` (images that cannot be decoded: wrong in both), `agreement`, `logits`, `a`
      and `b` (figures of each), `comparison` (`bench.results.compare`, B minus A), `flips`, `failures` (`gate`),
      `remarks`.

    Raises:
      EdgeError: a model was trained on an image, an image is in two pairs, models of other classes, no usable image.
      CheckpointError, DatasetError, ModelError: a run, the data set or a subset, a model file cannot be used.
    """
    everything = dataset.index(root, label_column=label_column, group_column=group_column)
    parts = choose_images(everything, pairs)
    opened = [open_pair(pair) for pair in pairs]
    classes = opened[0][0].classes
    remarks: list[str] = []
    for runners, samples in zip(opened, parts, strict=True):
        for runner in runners:
            if sorted(runner.classes) != sorted(classes):
                got, expected = ", ".join(runner.classes), ", ".join(classes)
                raise EdgeError(f"{runner.path}: got the classes {got}, expected those of the others, {expected}")
            remarks += remarks_on_leaks(runner, runners[0], samples, everything, root, allow_leak=allow_leak)
    described: list[dict[str, Any]] = []
    rows: tuple[list[Prediction], list[Prediction]] = ([], [])
    progress = Progress(sum(map(len, parts)), quiet=quiet)
    for runners, samples in zip(opened, parts, strict=True):
        reasons: list[str | None] = []
        batches = []
        for batch_reasons, batch_logits in ask_both(root, runners, samples, classes):
            reasons += batch_reasons
            batches.append(batch_logits)
            progress.update(len(rows[0]) + len(reasons))
        logits = np.concatenate(batches, axis=1)  # (2, N, C)
        stated = [runner.temperature for runner in runners if runner.temperature is not None]
        for runner, own_logits, own_rows in zip(runners, logits, rows, strict=True):
            temperature = runner.temperature or (stated[0] if stated else 1.0)
            found = to_predictions(samples, softmax(own_logits / temperature), classes)
            own_rows += [
                row if reason is None else Prediction(row.path, status="error", error=reason)
                for row, reason in zip(found, reasons, strict=True)
            ]
        change, largest = float(np.abs(logits[1] - logits[0]).max()), float(np.abs(logits[0]).max())
        described.append({
            **{side: {"name": runner.path.name, "kind": runner.kind, "sha256": runner.sha256}
               for side, runner in zip("ab", runners, strict=True)},
            "images": len(samples),
            "logits": {"max_change": change, "largest": largest, "relative": change / largest if largest else 0.0},
        })
    progress.close()
    report = _compare([sample for part in parts for sample in part], rows, classes, everything, draws)
    result = {
        "schema": SCHEMA,
        "data": root.resolve().name,
        "pairs": described,
        "logits": max((pair["logits"] for pair in described), key=lambda logits: logits["relative"]),
        **report,
        "remarks": list(dict.fromkeys([*remarks, *report["remarks"]])),
    }
    return {**result, "failures": compare.reasons_against(result["comparison"])}


def table(result: dict[str, Any]) -> Iterator[str]:
    """The lines a person reads."""
    for pair in result["pairs"]:
        yield f"A {pair['a']['name']} ({pair['a']['kind']}), B {pair['b']['name']} ({pair['b']['kind']})"
    same, logits = result["agreement"], result["logits"]
    interval = f"95 % {same['low']:.2%} to {same['high']:.2%}"
    yield f"{result['images']} images, the same answer on {same['value']:.2%} ({interval})"
    yield f"largest change of a logit {logits['max_change']:.2g}, {logits['relative']:.2g} of the largest logit"
    shown = {name: result["comparison"]["metrics"][name] for name in _SHOWN}
    yield from compare.table({**result["comparison"], "metrics": shown})
    flips = sorted(result["flips"], key=lambda flip: -flip["a_margin"])
    for flip in flips[:_SHOWN_FLIPS]:
        yield f"flip: {flip['path']} ({flip['label']}): {flip['a']} -> {flip['b']}, margin {flip['a_margin']:.3f}"
    if len(flips) > _SHOWN_FLIPS:
        yield f"and {len(flips) - _SHOWN_FLIPS} flips of smaller margin"


def _compare(
    samples: Sequence[Sample], rows: tuple[list[Prediction], list[Prediction]], classes: Sequence[str],
    everything: Sequence[Sample], draws: int,
) -> dict[str, Any]:
    """What is to be said of the answers."""
    samples = [dataset.as_text(sample) for sample in samples]
    is_usable = np.array([row.status == "ok" for row in rows[0]])
    if not is_usable.any():
        raise EdgeError(f"none of {len(samples)} images can be used, first {samples[0].path}: {rows[0][0].error}")
    both = [list(zip(samples, own, strict=True)) for own in rows]
    order = join.class_order({"classes": list(classes)}, dataset.classes_of(samples), both[0])
    sizes = Counter(sample.group for sample in samples)
    groups = [dataset.as_text(sample).group for sample in everything]
    compared = sorted({*groups} - {dataset.NOT_STATED})
    small = tuple(name for name in compared if sizes[name] < MIN_CELL)
    excluded = small if len(small) < len(compared) else ()
    profile = contest.PROFILES[contest.DEFAULT]
    reference = contest.reference_group(groups, profile=profile, excluded=excluded)
    found = [build.metrics(pairs, order, Setting(profile, reference, excluded, draws=draws)) for pairs in both]
    difference = compare.compare(*found, draws=draws)
    data = Observations.of(
        *(found[1]["samples"][name] for name in ("label", "prediction", "group", "cluster")),
        classes=order, reference=reference,
    )
    same = f"(the reference is {reference}; edge-bench score does the same with --exclude-group"
    remarks = [
        f"group {name} has {sizes[name]} images: not in the fairness that is compared {same} {name})"
        for name in excluded
    ]
    if unstated := sizes[dataset.NOT_STATED]:
        remarks.append(f"the group of {unstated} images is not stated: they are compared with no other")
    if not is_usable.all():
        remarks.append(f"{(~is_usable).sum()} images cannot be decoded: wrong in both")
    if difference["metrics"]["score.total_of_two_thirds"]["difference"]["high"] is None:
        remarks.append("the total of two thirds has no interval on these images: the gate judges the groups alone")
    for side, own in zip("AB", rows, strict=True):
        line = one_answer(row.label if row.status == "ok" else None for row in own)
        if line and len({sample.label for sample in samples}) > 1:
            remarks.append(f"{side}: {line}")
    answers = list(zip(samples, *rows, strict=True))
    return {
        "images": len(samples),
        "errors": [row.path for row in rows[0] if row.status == "error"],
        "agreement": data.rate(np.array([a.label == b.label for _, a, b in answers]), is_usable),
        **{side: _figures(one) for side, one in zip("ab", found, strict=True)},
        "comparison": difference,
        "flips": [
            {
                "path": sample.path, "group": sample.group, "label": sample.label, "a": a.label, "b": b.label,
                "a_margin": float(np.diff(np.sort(a.probabilities)[-2:])[0]),
            }
            for sample, a, b in answers
            if a.label != b.label and a.probabilities is not None
        ],
        "remarks": remarks,
    }


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a model's results, each {value, low, high, n}."""
    names = ("accuracy", "balanced_accuracy")
    return {
        **{name: found[name] for name in names},
        **{name: found["score"][name] for name in ("fairness", "total_of_two_thirds")},
        "ece": found["calibration"]["ece"],
        "by_group": {group: {name: part[name] for name in names} for group, part in found["by_group"].items()},
    }
