"""Evidence from finished runs of different folds: each image as predicted by a run that has not seen it.

What is collected goes into tables, so nothing is that would flatter them: no leak, no run cut short, no mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.dataset import DatasetError, as_text, classes_of, index
from bench.results.join import Pairs
from train import checkpoint as checkpoints
from train.after.derived_run import held_out_pairs
from train.checkpoint import OFFSETS, Checkpoint, CheckpointError
from train.config import TrainConfig
from train.leakage.checks import LeakError, check_disjoint

from . import evidence
from .evidence import Evidence
from .run_record import command_of, record_of


def collect(
    root: Path, runs: Sequence[Path], *, configuration: str, folder: Path, label_column: str,
    group_column: str = "group", force: bool,
) -> Evidence:
    """Joins the held-out predictions of runs that differ in their fold alone, and adds them to a folder of evidence.

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
            text = "has a prior correction, expected the run without"
            raise CheckpointError(f"{run}: {text}")
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
        record_of(run, state, num_images=len(pairs)) for run, state, pairs in zip(runs, states, parts, strict=True)
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
