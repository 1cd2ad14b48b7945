"""The optimizer, how its learning rate moves, and the averages that are the result: of weights and of statistics."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import nn

from ..config import OptimConfig
from ..networks.network import Network


def build_optimizer(model: Network, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over the body and the head.

    Its groups carry `share`, the body's rate over the head's. BatchNorm and biases are not decayed, since pulling a
    scale to 0 is no regularisation.
    """
    groups = []
    for part, share in ((model.body, config.body_lr), (model.head, 1.0)):
        for is_decayed in (True, False):
            parameters = [p for p in part.parameters() if p.requires_grad and (p.ndim > 1) == is_decayed]
            decay = config.weight_decay if is_decayed else 0.0
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "share": share})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


def set_rates(optimizer: torch.optim.Optimizer, step: int, num_steps: int, config: OptimConfig) -> float:
    """Sets what the schedule asks for at a step, counted from 0; returns the head's learning rate."""
    lr = learning_rate(step, num_steps, config)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]
        if config.schedule == "onecycle" and config.optimizer == "sgd":
            group["momentum"] = 0.95 - 0.1 * _cycle(step, num_steps, config)
    return lr


def learning_rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """The head's rate.

    cosine: linear from 0 over the warm-up, then a cosine to 0. constant: the same warm-up, then the peak.
    onecycle: a cosine from 1/25 of the peak up over the warm-up, and one down to 1/250,000 of it.
    Source of onecycle: Smith and Topin 2017, arXiv 1708.07120, with PyTorch's numbers.
    """
    num_warmup = config.warmup * num_steps
    if config.schedule == "onecycle":
        low = 1 / 25 if step <= num_warmup - 1 else 1 / 250_000
        return config.lr * (low + (1 - low) * _cycle(step, num_steps, config))
    if step < num_warmup:
        return config.lr * (step + 1) / (num_warmup + 1)
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / (num_steps - num_warmup)))


def _cycle(step: int, num_steps: int, config: OptimConfig) -> float:
    """0 to 1 at the last step of the warm-up, and to 0 at the last of all, each by half a cosine."""
    peak = config.warmup * num_steps - 1
    share = step / peak if step <= peak and peak > 0 else 1 + (step - peak) / max(num_steps - 1 - peak, 1)
    return 0.5 * (1 - math.cos(math.pi * share))


class Ema:
    """A shadow of a model, in evaluation mode, on the model's device: the average of its weights over the steps."""

    def __init__(self, model: nn.Module, *, decay: float, ramp: float) -> None:
        """Copies `model`.

        The decay of update t, from 1, is decay * (1 - exp(-t / ramp)), so that the random start is forgotten in time;
        with ramp 0 it is `decay`.
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
      batches: At least one, of training images augmented and drawn as in training; each counts the same.

    Raises:
      ValueError: no batch; the model is unchanged.

    Differs: from torch.optim.swa_utils.update_bn, which also turns dropout on.
    """
    iterator = iter(batches)
    batch = next(iterator, None)
    if batch is None:
        raise ValueError("got no batch to estimate BatchNorm on, expected at least one")
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    modes, momenta = [(m, m.training) for m in model.modules()], [(norm, norm.momentum) for norm in norms]
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
        for norm, momentum in momenta:
            norm.momentum = momentum
        for module, is_training in modes:
            module.training = is_training
