"""Training-form weights as a safetensors file, and the provenance that every export of a run states."""

from __future__ import annotations

import json
from typing import Any

from safetensors.torch import save

from bench.provenance import marks_sha256
from train.checkpoint import Checkpoint


def to_safetensors(checkpoint: Checkpoint) -> bytes:
    """The averaged weights of a run, float32, with what `train.networks.weights` asks of a file in the metadata."""
    metadata = {
        "config": json.dumps(checkpoint.config),
        "classes": json.dumps(checkpoint.classes, ensure_ascii=False),
        "preprocess": checkpoint.preprocess,
        "training": json.dumps({"data": checkpoint.data_name, **origin_of(checkpoint)}, ensure_ascii=False),
        "clusters": json.dumps(checkpoint.clusters),
        "pictures": json.dumps(checkpoint.pictures),
        "sources": json.dumps(checkpoint.sources),
        **({"leaky": "true"} if checkpoint.leaky else {}),
    }
    return save({name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}, metadata)


def origin_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Recipe, commit, training images and fold of a run, JSON-ready: they identify it in all of its exports."""
    return {
        "recipe": checkpoint.recipe,
        "commit": checkpoint.commit,
        "cluster_sha256": marks_sha256(checkpoint.clusters),
        "hold_out": checkpoint.hold_out,
    }
