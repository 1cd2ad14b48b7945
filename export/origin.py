"""What a run says of itself in everything that is exported of it: whether two files are of one run is told by this."""

from __future__ import annotations

import hashlib
from typing import Any

from train.checkpoint import Checkpoint


def origin_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Recipe, commit, training images and fold of a run, JSON-ready."""
    return {
        "recipe": checkpoint.recipe,
        "commit": checkpoint.commit,
        "cluster_sha256": hashlib.sha256("\n".join(checkpoint.clusters).encode()).hexdigest(),
        "hold_out": checkpoint.hold_out,
    }
