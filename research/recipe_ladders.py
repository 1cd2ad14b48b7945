"""Ladders of recipes: each step adds one thing to the one before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from train.config import TrainConfig
from train.recipes import RUTGERS_BASE, RUTGERS_STEPS


@dataclass(frozen=True)
class Ladder:
    """Recipes that add one thing at a time, by their names in their order; those that distil learn from the teacher."""

    steps: dict[str, TrainConfig]
    teacher: TrainConfig | None = None
    """Trained for each fold and seed before the first step that distils."""


def _ladder(base: TrainConfig, added: Mapping[str, dict[str, Any]]) -> Ladder:
    """Of steps that each add their values to the one before, and a larger teacher with those of EMA."""
    steps, config = {"baseline": base}, base
    for name, values in added.items():
        steps[name] = config = config.changed(**values)
    return Ladder(steps, teacher=steps["+E EMA"].changed(network="mobileone_s2"))


LADDERS = {
    # The steps of the winners' slide. Needs a GPU and ImageNet weights.
    "rutgers-ladder": _ladder(RUTGERS_BASE, RUTGERS_STEPS),
    # The same steps in minutes on two cores, from random weights: to see that every ingredient runs, not what it is
    # worth, for which this is too short. The margins are those that a short run can learn.
    "smoke-ladder": _ladder(
        TrainConfig().changed(
            num_conv_branches=1,
            sizes_px=(64,),
            p_hflip=0.0,
            p_vflip=0.0,
            quarter_turns=False,
            p_affine=0.0,
            border="black",
            sampler="pk",
            pk_images=6,
            steps_per_epoch=40,
            batch_size=36,
            epochs=5,
            ema_decay=0.0,
        ),
        {
            **RUTGERS_STEPS,
            "+B CurricularFace": {
                **RUTGERS_STEPS["+B CurricularFace"],
                "head_scale": 16.0, "margin": 0.2, "margin_warmup": 0.3, "dropout": 0.0,
            },
            "+E EMA": {"ema_decay": 0.97, "ema_ramp": 20.0},
            "+KD": {"distill": "kl", "distill_head": True},
        },
    ),
}
