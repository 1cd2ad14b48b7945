"""Averages of a run: its weights over the steps, and BatchNorm's statistics over batches.

The averaged weights are the result of a run, with no checkpoint to choose.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

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


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Replaces the running statistics of every BatchNorm by their mean over `batches`; in place.

    Args:
      model: Takes one batch. Whether each module trains or evaluates is as before in the end.
      batches: At least one, of training images augmented and drawn as in training, and about equally large: each
        counts the same.

    Raises:
      ValueError: no batch; the model is unchanged.

    Differs: from torch.optim.swa_utils.update_bn, which also turns dropout on.
    """
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    before = [(m, m.training) for m in model.modules()]
    momenta = [norm.momentum for norm in norms]
    iterator = iter(batches)
    batch = next(iterator, None)
    if batch is None:
        raise ValueError("got no batch to estimate BatchNorm on, expected at least one")
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a mean over all batches, not a moving one
            norm.train()
        while batch is not None:
            model(batch)
            batch = next(iterator, None)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in before:
            module.training = training
