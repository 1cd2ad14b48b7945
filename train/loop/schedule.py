"""The optimizer and how its learning rate and momentum move."""

from __future__ import annotations

import math

import torch

from ..config import OptimConfig
from ..networks.network import Network


def build_optimizer(model: Network, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over the body and the head.

    Its groups carry `share`, what the body's rate is of the head's. BatchNorm and biases are not decayed, since
    pulling a scale to 0 is no regularisation.
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
    """Sets what the schedule says for a step, counted from 0; returns the head's learning rate."""
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
    if config.schedule == "onecycle":
        low = 1 / 25 if step <= config.warmup * num_steps - 1 else 1 / 250_000
        return config.lr * (low + (1 - low) * _cycle(step, num_steps, config))
    num_warmup = config.warmup * num_steps
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
