"""Records of finished runs, for the tables of results."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from train.checkpoint import NAME, Checkpoint, CheckpointError
from train.config import TrainConfig
from train.loop.epoch_log import JSONL
from train.loop.run import CONFIG
from train.networks.teacher import identity_of, sha256_of
from train.recipes import RECIPES

from .evidence import RunRecord


def record_of(run: Path, state: Checkpoint, *, num_images: int) -> RunRecord:
    """The record of a run that held a fold of so many images out.

    Raises:
      CheckpointError: config.json or the log is damaged.
    """
    if state.hold_out is None:
        raise CheckpointError(f"{run}: held no fold out, expected a run of edge-train fit --hold-out")
    config = TrainConfig.from_dict(state.config)
    images = config.sample.pk_images * len(state.classes) if config.sample.sampler == "pk" else config.optim.batch_size
    try:
        told = json.loads((run / CONFIG).read_bytes())
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
        machine=told.get("machine"),
        pytorch=told.get("pytorch"),
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
