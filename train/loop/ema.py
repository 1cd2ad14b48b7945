"""Exponential moving average of a model's weights: the result of a run, with no checkpoint to choose."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class Ema:
    """A shadow of a model, in evaluation mode, on the model's device."""

    def __init__(self, model: nn.Module, *, decay: float, ramp: float) -> None:
        """Copies `model`.

        Args:
          model: What is trained.
          decay: In [0, 1).
          ramp: In updates; the decay of update t, from 1, is decay * (1 - exp(-t / ramp)), so that the random start
            is forgotten in time. 0: at once.
        """
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.num_updates = 0
        self._decay = decay
        self._ramp = ramp

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the shadow towards `model`. BatchNorm's statistics are averaged, integer buffers copied."""
        self.num_updates += 1
        decay = self._decay * (1 - math.exp(-self.num_updates / self._ramp) if self._ramp else 1)
        current = model.state_dict()
        for name, shadow in self.model.state_dict().items():
            if shadow.is_floating_point():
                shadow.lerp_(current[name], 1 - decay)
            else:
                shadow.copy_(current[name])
