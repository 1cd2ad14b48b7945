"""Ladders of recipes, which add one thing at a time on the same folds, seeds and images, and what each step is worth.

Every part, one step on one fold with one seed, is a run of its own in a folder of its own: an interrupted ladder
continues where it stopped. A step is judged against the one before by the images both were measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.dataset import Sample, as_text, classes_of, index, malignant_classes
from bench.metrics import contest
from bench.metrics.evaluation import Setting
from bench.results import build, compare, document
from bench.results.join import join
from edge.predictions import Prediction, read
from train.checkpoint import CheckpointError
from train.loop.distributed import Ranks
from train.loop.run import METRICS, PREDICTIONS, Plan, run, write_json

from .recipe_ladders import Ladder
from .tables import cell, difference_cell, markdown_table

_SHOWN = ("accuracy", "balanced_accuracy", "score.fairness", "score.total_of_two_thirds", "fairness.worst_group")
_TEACHER = "teacher"


@dataclass(frozen=True)
class Part:
    """One run."""

    step: str
    fold: int
    seed: int


def parts_of(ladder: Ladder, *, folds: Sequence[int], num_seeds: int) -> list[Part]:
    """What is to be trained, in an order that gives a first whole ladder soon."""
    names = list(ladder.steps)
    learner = next((name for name, config in ladder.steps.items() if config.distill.distill != "none"), None)
    if learner is not None:
        names.insert(names.index(learner), _TEACHER)
    return [Part(name, fold, seed) for seed in range(num_seeds) for fold in folds for name in names]


def climb(
    plan: Plan, ladder: Ladder, ranks: Ranks, *, folds: Sequence[int], num_seeds: int, teacher_weights: Path | None,
    say: Callable[[str], None],
) -> int:
    """Trains what has not been trained yet.

    Args:
      plan: Data, folds file, cache, and the weights that every step begins with; `out` is the ladder's folder.
      ladder: What to train.
      ranks: This process among those that train together.
      folds: Measured on, one after the other.
      num_seeds: Runs of each.
      teacher_weights: What the teacher begins with.
      say: Takes each remark.

    Returns:
      The number of images that could not be used.

    Raises:
      CheckpointError: the folder has a part that was trained with other settings.
    """
    parts, num_unusable = parts_of(ladder, folds=folds, num_seeds=num_seeds), 0
    for i, part in enumerate(parts, start=1):
        out = folder_of(plan.out, part)
        config = ladder.teacher if part.step == _TEACHER else ladder.steps[part.step]
        if config is None:
            raise ValueError(f"{part.step}: distils, and the ladder has no teacher")
        teachers = [folder_of(plan.out, replace(part, step=_TEACHER))] if config.distill.distill != "none" else []
        one = replace(
            plan, out=out, config=config.changed(seed=part.seed), recipe=f"{plan.recipe} {part.step}",
            hold_out=part.fold, teacher=teachers,
            weights=teacher_weights if part.step == _TEACHER else plan.weights, resume=True, quiet=True,
        )
        is_done = (out / METRICS).exists()
        outcome = run(one, ranks, say=say)  # checks one that is done
        num_unusable, metrics = max(num_unusable, outcome.num_unusable), outcome.metrics
        if metrics is not None and not is_done:
            figures = ", ".join(f"{name} {metrics[name]['value']:.3f}" for name in ("accuracy", "balanced_accuracy"))
            say(f"{i}/{len(parts)} fold {part.fold} seed {part.seed} {part.step}: {figures}")
    return num_unusable


def folder_of(out: Path, part: Part) -> Path:
    """Where a part lies."""
    name = "".join(c if c.isalnum() else "-" for c in part.step.lower()).strip("-")
    return out / f"fold{part.fold}" / f"seed{part.seed}" / name


def evaluate(
    plan: Plan, ladder: Ladder, *, folds: Sequence[int], num_seeds: int, reference: str | None
) -> dict[str, Any]:
    """Scores every step on the images of all folds held out, and compares each with the one before and the first.

    Returns:
      JSON-ready: `steps`, name -> results file (`edge-bench/1`), `to_previous` and `to_first`, name -> comparison.

    Raises:
      EdgeError: no such reference group.
    """
    indexed = index(plan.data, label_column=plan.label, group_column=plan.group)
    samples = [as_text(sample) for sample in indexed]
    profile = contest.PROFILES["esfair2023"]
    reference = contest.reference_group((sample.group for sample in samples), profile=profile, wanted=reference)
    setting = Setting(profile, reference, malignant=malignant_classes(samples))
    classes = list(classes_of(samples))
    steps: dict[str, dict[str, Any]] = {}
    for name in ladder.steps:
        pairs: list[tuple[Sample, Prediction]] = []
        for part in (Part(name, fold, seed) for fold in folds for seed in range(num_seeds)):
            pairs += _pairs(samples, folder_of(plan.out, part) / PREDICTIONS, part.seed if num_seeds > 1 else None)
        steps[name] = {"schema": document.SCHEMA, **build.metrics(pairs, classes, setting)}
    names = list(steps)
    return {
        "steps": steps,
        "to_previous": {b: compare.compare(steps[a], steps[b]) for a, b in zip(names, names[1:])},
        "to_first": {name: compare.compare(steps[names[0]], steps[name]) for name in names[1:]},
    }


def write(out: Path, evaluation: dict[str, Any]) -> None:
    """Writes each step as a results file of edge-bench, and the comparisons."""
    for name, result in evaluation["steps"].items():
        path = folder_of(out, Part(name, 0, 0)).name
        document.write_json(out / f"{path}.json", result)
    write_json(out / "comparisons.json", {key: evaluation[key] for key in ("to_previous", "to_first")})


def table(evaluation: dict[str, Any]) -> Iterator[str]:
    """Markdown: each step's figures with intervals, and what it adds to the one before."""
    columns = ["step", *(name.split(".")[-1].replace("_", " ") for name in _SHOWN), "adds to 2/3"]
    rows = []
    for name, result in evaluation["steps"].items():
        cells = []
        for metric in _SHOWN:
            section, _, key = metric.rpartition(".")
            cells.append(cell((result[section] if section else result)[key]))
        found = evaluation["to_previous"].get(name)
        added = difference_cell(found["metrics"]["score.total_of_two_thirds"]["difference"]) if found else ""
        rows.append([name, *cells, added])
    yield from markdown_table(columns, rows)


def _pairs(samples: Sequence[Sample], path: Path, seed: int | None) -> list[tuple[Sample, Prediction]]:
    """The scored images of one run; with several seeds an image comes once for each, in the same cluster."""
    if not path.exists():
        raise CheckpointError(f"{path}: missing, expected that of a finished run")
    pairs = join(samples, read(path).rows, subset=True)
    if seed is None:
        return pairs
    return [(replace(sample, path=f"seed{seed}/{sample.path}"), prediction) for sample, prediction in pairs]
