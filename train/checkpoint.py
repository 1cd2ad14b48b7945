"""The checkpoint of a run: all that is needed to continue it bit for bit, or to export it.

Written to a temporary file and renamed, so a killed run leaves the last complete one. Holds only tensors and plain
values and is read with `weights_only`: loading one runs no code.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

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
ORIGIN = "origin"
"""Name of a source: in words, the data, the recipe and the licence of the weights of ours that it began with."""
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
    """What it began with: SHA-256 of "weights", "teacher", `IMAGENET`, `OFFSETS`; `ORIGIN`."""
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
    """A trained network, ready for use."""

    network: Network
    """In evaluation mode, training form."""
    preprocess: Preprocess
    classes: tuple[str, ...]
    """In the order of the logits."""
    state: Checkpoint


def start(config: TrainConfig, *, classes: list[str], network: Network | None = None, **origin: Any) -> Checkpoint:
    """The checkpoint of a run that has done nothing yet.

    Args:
      config: What to train.
      classes: Class names in the order of the logits.
      network: Begun with; None: random weights by the seed.
      origin: The fields of `Checkpoint` that say where the data and the code come from.
    """
    if network is None:
        torch.manual_seed(config.optim.seed)
        network = build(config.model, len(classes))
    weights = network.state_dict()
    empty: dict[str, Any] = {name: {} for name in ("optimizer", "objective", "scaler", "sums", "result")}
    return Checkpoint(config=config.to_dict(), classes=classes, step=0, model=weights, ema=weights, **empty, **origin)


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
    content = io.BytesIO()  # a full disk under torch.save is an internal error of its own
    torch.save({"schema": SCHEMA, **vars(checkpoint)}, content)
    with replacing(path) as part, open(part, "wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint file, or that of a run folder.

    Raises:
      CheckpointError: no such file, or no checkpoint of this schema.
    """
    path = file_of(path)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint, expected the folder of an edge-train fit") from error
    except Exception as error:  # torch.load raises most built-in types on foreign files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        if path.is_file() and not is_zipfile(path):  # torch then speaks of its own pickles
            reason = "another kind of file, or one that was cut off"
        raise CheckpointError(f"{path}: no readable checkpoint: {reason}") from error
    got: object = type(values).__name__
    if isinstance(values, dict):
        got = values.pop("schema", None)
        values.pop("swa", None)  # of an earlier version; a run that used it has its outcome in `result`
        if got == SCHEMA and {*values, "profile"} == {field.name for field in fields(Checkpoint)}:
            return Checkpoint(**values)
    raise CheckpointError(f"{path}: got schema {got!r}, expected {SCHEMA!r}")


def file_of(path: Path) -> Path:
    """The checkpoint of a run folder; another path as it is."""
    return path / NAME if path.is_dir() else path


def marks_of(state: Checkpoint) -> frozenset[str] | None:
    """Marks of all that a run has learned from; None of a leaky one, which has seen more than it lists."""
    return None if state.leaky else frozenset(state.clusters + state.pictures)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
