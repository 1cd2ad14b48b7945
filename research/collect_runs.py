"""Evidence from finished runs of different folds: each image as predicted by a run that has not seen it.

What is collected goes into tables, so nothing is that would flatter them: no leak, no run cut short, no mixture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from bench.dataset import DatasetError, as_text, classes_of, index
from bench.results.join import Pairs
from train import checkpoint as checkpoints
from train.after.derived_run import held_out_pairs
from train.checkpoint import NAME, OFFSETS, Checkpoint, CheckpointError, sha256_of
from train.config import TrainConfig
from train.leakage.checks import LeakError, check_disjoint
from train.loop.epoch_log import JSONL
from train.loop.run import CONFIG
from train.networks.teacher import identity_of
from train.recipes import RECIPES

from . import evidence
from .evidence import Evidence, RunRecord


def collect(
    root: Path, runs: Sequence[Path], *, configuration: str, folder: Path, label_column: str,
    group_column: str = "group", force: bool,
) -> Evidence:
    """Joins the held-out predictions of runs that differ only in their fold, and adds them to a folder of evidence.

    Args:
      root: The data set.
      runs: Finished runs of one recipe, seed and folds file.
      configuration: What the tables call them.
      folder: Of the evidence.
      label_column: The manifest's class column.
      group_column: The manifest's group column.
      force: Whether to replace the same configuration and seed.

    Raises:
      CheckpointError: a run that is not finished, lacks images it held out, or differs in more than its fold.
      DatasetError: runs of other labels or images than the data set's, or of one fold.
      LeakError: a run that was trained on what it held out.
    """
    samples = [as_text(sample) for sample in index(root, label_column=label_column, group_column=group_column)]
    states = [checkpoints.load(run) for run in runs]
    if states[0].classes != list(classes_of(samples)):
        got, expected = ", ".join(states[0].classes), ", ".join(classes_of(samples))
        raise DatasetError(f"{runs[0]}: got the classes {got}, expected the data set's {expected} (see --label)")
    for run, state in zip(runs, states, strict=True):
        _check_alike(run, state, runs[0], states[0])
        if state.leaky:
            raise LeakError(f"{run}: is LEAKY: its figures mean little, and are not collected")
        if OFFSETS in state.sources:
            raise CheckpointError(f"{run}: has a prior correction, expected the run without")
    parts = held_out_pairs(samples, runs, states, classes=states[0].classes)
    for run, state, pairs in zip(runs, states, parts, strict=True):
        _check_whole(run, pairs)
        check_disjoint(state.clusters + state.pictures, [sample for sample, _ in pairs], root, name=str(run))
    order = {sample.path: number for number, sample in enumerate(samples)}
    rows = sorted(
        ((order[sample.path], state.hold_out, prediction)
         for state, pairs in zip(states, parts, strict=True) for sample, prediction in pairs),
        key=lambda row: row[0],
    )
    records = [
        _record_of(run, state, num_images=len(pairs)) for run, state, pairs in zip(runs, states, parts, strict=True)
    ]
    config = TrainConfig.from_dict(states[0].config)
    found = Evidence(
        configuration=configuration,
        seed=config.optim.seed,
        data=root.resolve().name,
        label_column=label_column,
        group_column=group_column,
        classes=states[0].classes,
        command=command_of(states[0], label_column=label_column, group_column=group_column),
        config=config.to_dict(),
        offsets=None,
        runs=sorted(records, key=lambda record: record.fold),
        paths=[prediction.path for _, _, prediction in rows],
        folds=np.array([fold for _, fold, _ in rows], np.int64),
        ppm=evidence.ppm_of_predictions([prediction for _, _, prediction in rows]),
    )
    evidence.write(folder, samples, found, force=force)
    return found


def _check_alike(run: Path, state: Checkpoint, first_run: Path, first: Checkpoint) -> None:
    values, others = _settings(run, state), _settings(first_run, first)
    for name, got in values.items():
        if got != others[name]:
            raise CheckpointError(f"{run}: got {name} {got}, expected {others[name]} as in {first_run}")


def _settings(run: Path, state: Checkpoint) -> dict[str, Any]:
    """What runs must have in common, by its name."""
    try:
        flat = TrainConfig.from_dict(state.config).flat()
    except ValueError as error:
        raise CheckpointError(f"{run}: a checkpoint of another version: {error}") from error
    return flat | {name: getattr(state, name) for name in ("recipe", "classes", "preprocess", "folds_sha256")}


def _check_whole(run: Path, pairs: Pairs) -> None:
    listed = (run / "heldout.txt").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    if len(listed) != len(pairs):
        raise CheckpointError(f"{run}: got predictions of {len(pairs)} of {len(listed)} images held out, expected all")


def _record_of(run: Path, state: Checkpoint, *, num_images: int) -> RunRecord:
    if state.hold_out is None:
        raise CheckpointError(f"{run}: held no fold out, expected a run of edge-train fit --hold-out")
    config = TrainConfig.from_dict(state.config)
    images = config.sample.pk_images * len(state.classes) if config.sample.sampler == "pk" else config.optim.batch_size
    try:
        recorded = json.loads((run / CONFIG).read_bytes())
        seconds = _seconds(run / JSONL)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{run}: {CONFIG} or {JSONL} cannot be read: {error}") from error
    sha256 = sha256_of(run / NAME)
    return RunRecord(
        fold=state.hold_out,
        images=num_images,
        steps=state.step,
        images_seen=state.step * images,
        seconds=seconds,
        machine=recorded.get("machine"),
        pytorch=recorded.get("pytorch"),
        commit=state.commit,
        checkpoint_sha256=sha256,
        folds_sha256=state.folds_sha256,
        weights_sha256=state.sources.get("weights"),
        teacher_sha256=state.sources.get("teacher"),
        identity=identity_of([(sha256, state.preprocess)], state.classes),
        temperature=((state.metrics or {}).get("calibration") or {}).get("temperature"),
    )


def command_of(state: Checkpoint, *, label_column: str, group_column: str = "group") -> str:
    """The command that a run was started with, as far as it changes the result; K stands for the fold.

    A run that is no recipe's own (a step of a ladder, a refit) has its name instead.
    """
    if state.recipe not in RECIPES:
        return state.recipe
    words = ["edge-train fit", state.data_name, *([] if label_column == "class" else [f"--label {label_column}"])]
    words += [] if group_column == "group" else [f"--group {group_column}"]
    words += ["--folds FOLDS --hold-out K", f"--recipe {state.recipe}"]
    words += [f"--{name} {name.upper()}" for name in ("weights", "teacher") if name in state.sources]
    recipe, values = RECIPES[state.recipe].flat(), TrainConfig.from_dict(state.config).flat()
    return " ".join([*words, *(_flag(name, value) for name, value in values.items() if value != recipe[name])])


def _flag(name: str, value: Any) -> str:
    sections = (getattr(TrainConfig(), section.name) for section in fields(TrainConfig))
    has_flag = {field.name: field.metadata["is_flag"] for section in sections for field in fields(section)}
    flag = name.replace("_", "-")
    if has_flag[name] and isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if isinstance(value, bool):
        text = text.lower()
    return f"--{flag} {text}" if has_flag[name] else f"--set {name}={text}"


def _seconds(log: Path) -> float | None:
    """Of all epochs; None where nothing was trained, as for a refit."""
    if not log.exists():
        return None
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return round(sum(float(row["seconds"]) for row in rows), 1)
