"""Exponential moving average of a model's weights: the result of a run, with no checkpoint to choose."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """A shadow of a model, in evaluation mode."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """Copies `model`.

        Args:
          model: What is trained.
          decay: In [0, 1), reached gradually: after t updates it is at most (1 + t) / (10 + t), so that the random
            start is forgotten in time.
        """
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.num_updates = 0
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the shadow towards `model`. Integer buffers, which cannot be averaged, are copied."""
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        current = model.state_dict()
        for name, shadow in self.model.state_dict().items():
            if shadow.is_floating_point():
                shadow.lerp_(current[name], 1 - decay)
            else:
                shadow.copy_(current[name])
