"""The checkpoint of a run: all that is needed to continue it bit for bit, or to export it.

Written to a temporary file and renamed, so a killed run leaves the last complete one. Holds tensors and plain
values alone and is read with `weights_only`: loading one runs no code.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from edge.errors import EdgeError

SCHEMA = "edge-checkpoint/1"
NAME = "checkpoint.pt"


class CheckpointError(EdgeError):
    """A checkpoint that is missing, damaged or of another run."""

    exit_status = 4


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after a whole number of epochs."""

    config: dict[str, Any]
    """`TrainConfig.to_dict`."""
    recipe: str
    """Name of the recipe the run began with."""
    classes: list[str]
    """Class names in the order of the logits."""
    preprocess: str
    """`Preprocess.to_json`."""
    data_name: str
    """Name, not path, of the data set's folder."""
    cluster_sha256: str
    """Of the sorted names of the clusters trained on."""
    folds_sha256: str | None
    """Of the folds file; None where all images were trained on."""
    hold_out: int | None
    """The fold that was not trained on."""
    commit: str
    """Of this source code; "unknown" outside a git checkout."""
    epoch: int
    """Epochs done."""
    step: int
    """Optimizer steps done."""
    model: dict[str, torch.Tensor]
    """Weights, training form."""
    ema: dict[str, torch.Tensor]
    """Averaged weights, training form: the result."""
    optimizer: dict[str, Any]
    """State of AdamW."""
    generator: torch.Tensor
    """State of the one source of chance."""
    metrics: dict[str, Any] | None = None
    """Held-out metrics, once training is done."""
    leaky: bool = False
    """Whether pictures or clusters of the held-out part were trained on (--allow-leak)."""


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a checkpoint; it appears under its name only when it is complete."""
    part = path.with_name(path.name + ".part")
    values = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    with open(part, "wb") as file:
        torch.save({"schema": SCHEMA, **values}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Args:
      path: The file, or the run folder that holds it.

    Raises:
      CheckpointError: no such file, or no checkpoint of this schema.
    """
    path = path / NAME if path.is_dir() else path
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint, expected the --out folder of edge-train fit") from error
    except Exception as error:  # torch.load raises most built-in types on foreign files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise CheckpointError(f"{path}: no readable checkpoint: {reason}") from error
    names = {"schema", *(field.name for field in fields(Checkpoint))}
    if isinstance(values, dict):
        values.setdefault("leaky", False)  # checkpoints from before it was asked
    if not isinstance(values, dict) or values.get("schema") != SCHEMA or set(values) != names:
        got = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(f"{path}: got schema {got!r}, expected {SCHEMA!r}")
    del values["schema"]
    return Checkpoint(**values)


def source_commit() -> str:
    """Commit of this source code, with "+" where files differ from it."""
    folder = Path(__file__).parent
    try:
        head, status = (
            subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "."])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if status else "")
