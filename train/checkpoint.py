"""The checkpoint of a run: all that is needed to continue it bit for bit, or to export it.

Written to a temporary file and renamed, so a killed run leaves the last complete one. Holds tensors and plain
values alone and is read with `weights_only`: loading one runs no code.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from edge.errors import EdgeError, ModelError
from edge.output_files import replacing
from edge.photo.preprocess import Preprocess

from .config import TrainConfig
from .networks.network import Network, build

SCHEMA = "edge-checkpoint/2"
NAME = "checkpoint.pt"
IMAGENET = "imagenet"
"""Name of a source: the published ImageNet weights that it, or what it began with, comes from."""
OFFSETS = "offsets"
"""Name of a source: the prior correction (its prior.json) that was added to the last layer."""


class CheckpointError(EdgeError):
    """A checkpoint that is missing, damaged or of another run."""

    exit_status = 4


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after a number of steps."""

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
    clusters: list[str]
    """Marks of the clusters trained on (`bench.provenance.cluster_marks`), also by what it learned from."""
    pictures: list[str]
    """Marks of the pictures trained on (`bench.provenance.picture_marks`), likewise."""
    folds_sha256: str | None
    """Of the folds file; None where all images were trained on."""
    hold_out: int | None
    """The fold that was not trained on."""
    commit: str
    """Of this source code; "unknown" outside a git checkout."""
    sources: dict[str, str]
    """SHA-256 of what it began with: "weights", "teacher"; `IMAGENET`; `OFFSETS`: the prior correction added to it."""
    step: int
    """Optimizer steps done. With the seed it decides all further chance, so there is no random state to keep."""
    model: dict[str, torch.Tensor]
    """Weights, training form."""
    ema: dict[str, torch.Tensor]
    """Averaged weights, training form: the result."""
    optimizer: dict[str, Any]
    """Its state."""
    objective: dict[str, torch.Tensor]
    """State of the losses."""
    scaler: dict[str, Any]
    """State of fp16's loss scaling."""
    sums: dict[str, float]
    """Of the epoch in progress: its seconds and the sums of its losses."""
    result: dict[str, torch.Tensor]
    """Weights of the finished run where they are not `ema`; else empty."""
    metrics: dict[str, Any] | None = None
    """Held-out metrics, once training is done."""
    leaky: bool = False
    """Whether pictures or clusters of the held-out part were trained on (--allow-leak)."""
    profile: str | None = None
    """`Profile.to_json` of the pictures trained on; None where a run is older than profiles."""

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The result of the run so far, training form."""
        return self.result or self.ema


class LoadedModel(NamedTuple):
    """What using a trained network takes."""

    network: Network
    """In evaluation mode, training form."""
    preprocess: Preprocess
    classes: tuple[str, ...]
    """In the order of the logits."""
    state: Checkpoint


def load_model(path: Path) -> LoadedModel:
    """Reads the network of a checkpoint file, or of the run folder that holds one.

    Raises:
      CheckpointError: no such file, or no checkpoint of this schema.
      ModelError: a checkpoint of another version.
    """
    state = load(path)
    try:
        network = build(TrainConfig.from_dict(state.config).model, len(state.classes))
        network.load_state_dict(state.weights)
        preprocess = Preprocess.from_json(state.preprocess)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ModelError(f"{path}: a checkpoint of another version: {str(error).splitlines()[0][:120]}") from error
    return LoadedModel(network.eval(), preprocess, tuple(state.classes), state)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a checkpoint; it appears under its name only when it is complete."""
    values = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    content = io.BytesIO()  # a full disk under torch.save is an internal error of its own
    torch.save({"schema": SCHEMA, **values}, content)
    with replacing(path) as part, open(part, "wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())


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
        values.pop("swa", None)  # of an earlier version; a run that used it has its outcome in `result`
    if not isinstance(values, dict) or values.get("schema") != SCHEMA or {*values, "profile"} != names:
        got = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(f"{path}: got schema {got!r}, expected {SCHEMA!r}")
    del values["schema"]
    return Checkpoint(**values)
