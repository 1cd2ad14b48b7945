"""Training-form weights as a safetensors file that says what it is: to fine-tune from, with no code inside."""

from __future__ import annotations

import json

from safetensors.torch import save

from train.checkpoint import Checkpoint

from .provenance import origin_of


def to_safetensors(checkpoint: Checkpoint) -> bytes:
    """The averaged weights of a run, float32, with config, classes, preprocess and origin in the metadata."""
    metadata = {
        "config": json.dumps(checkpoint.config),
        "classes": json.dumps(checkpoint.classes, ensure_ascii=False),
        "preprocess": checkpoint.preprocess,
        "training": json.dumps(origin_of(checkpoint), ensure_ascii=False),
        **({"leaky": "true"} if checkpoint.leaky else {}),
    }
    return save({name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}, metadata)
