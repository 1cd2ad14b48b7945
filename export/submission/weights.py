"""The training-form weights of a submission: where they come from, and whether they are the model's.

A safetensors file is read by hand here, its header alone: the slim install has neither PyTorch nor safetensors.

Source: safetensors' format: 8 bytes little-endian length, then that many bytes of JSON, then the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.classifier import DEFAULT_MODEL, Classifier
from edge.errors import ModelError
from edge.photo.preprocess import Preprocess

from .sources import CHECKOUT

_MAX_HEADER = 100_000_000

LOAD = '''\
"""The training form of the model: its structure is code/source/train, its weights are weights.safetensors.

Needs ../requirements-train.txt and the wheel in ../code: see the README.
"""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file

from train.config import TrainConfig
from train.networks.network import build

weights = Path(__file__).with_name("weights.safetensors")
said = safe_open(weights, "pt").metadata()
model = build(TrainConfig.from_dict(json.loads(said["config"])).model, len(json.loads(said["classes"])))
model.load_state_dict(load_file(weights))
model.eval()  # (N, 3, S, S) float32 images, pixels times the scale in `preprocess` -> (N, C) logits
print(said["classes"], sum(tensor.numel() for tensor in model.parameters()), "parameters")
'''


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    classes: list[str]
    preprocess: Preprocess
    config: dict[str, Any]
    """`TrainConfig.to_dict`: the recipe."""
    training: dict[str, Any]
    """The run that they come of, as in the model file; empty where the file says nothing of it."""


def read_header(path: Path) -> Header:
    """Reads the header of a safetensors file of `edge-export weights`.

    Raises:
      ModelError: cannot be read, or says nothing of classes, preprocessing and configuration.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, path.stat().st_size):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        said = header.pop("__metadata__")
        ends = [tensor["data_offsets"][1] for tensor in header.values()]
        if 8 + length + max(ends) != path.stat().st_size:
            raise ValueError(f"{path.stat().st_size} bytes, expected {8 + length + max(ends)}")
        return Header(
            json.loads(said["classes"]), Preprocess.from_json(said["preprocess"]), json.loads(said["config"]),
            stated(said, "training"),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{path}: no file of edge-export weights: {reason}") from error


def differences(header: Header, classifier: Classifier) -> Iterator[str]:
    """What shows that weights are not of a model file."""
    if header.classes != list(classifier.classes):
        yield f"is of the classes {', '.join(header.classes)}; the model has {', '.join(classifier.classes)}"
    if header.preprocess != classifier.preprocess:
        yield f"is of {header.preprocess.to_json()}; the model has {classifier.preprocess.to_json()}"
    for name, value in stated(classifier.metadata, "training").items():
        if header.training.get(name, value) != value:
            yield f"is of another run: {name} is {header.training[name]!r}, the model has {value!r}"


def of_run(checkpoint: Path | None, classifier: Classifier) -> bytes | None:
    """The bytes of the safetensors file that belongs to a model.

    `checkpoint` is a run folder or checkpoint.pt, which takes PyTorch to read, or a safetensors file, which is copied.
    Without it the bundled model has the file of the checkout, any other none.

    Raises:
      ModelError: it cannot be read, or PyTorch is not installed.
      CheckpointError: no checkpoint can be read there.
    """
    if checkpoint is None:
        path = CHECKOUT / "models" / DEFAULT_MODEL.name.replace(".int8.onnx", ".safetensors")
        is_bundled = classifier.path.read_bytes() == DEFAULT_MODEL.read_bytes()
        return path.read_bytes() if is_bundled and path.is_file() else None
    if checkpoint.suffix == ".safetensors":
        try:
            return checkpoint.read_bytes()
        except OSError as error:
            raise ModelError(f"{checkpoint}: cannot be read: {error.strerror}") from error
    try:
        from train.checkpoint import load

        from ..to_safetensors import to_safetensors

        return to_safetensors(load(checkpoint))
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        hint = "where PyTorch is: edge-export weights RUN -o FILE.safetensors, then --checkpoint FILE.safetensors"
        raise ModelError(f"{checkpoint}: takes PyTorch to read; {hint}") from error


def stated(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """An optional object of a file's metadata; empty where it is none: it is anybody's text."""
    try:
        values = json.loads(metadata.get(name, "{}"))
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
