"""What a run says of itself in everything that is exported of it: whether two files are of one run is told by this."""

from __future__ import annotations

from typing import Any

from bench.provenance import marks_sha256
from train.checkpoint import Checkpoint


def origin_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Recipe, commit, training images and fold of a run, JSON-ready."""
    return {
        "recipe": checkpoint.recipe,
        "commit": checkpoint.commit,
        "cluster_sha256": marks_sha256(checkpoint.clusters),
        "hold_out": checkpoint.hold_out,
    }
