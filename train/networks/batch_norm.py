"""BatchNorm statistics measured anew, for weights whose activations no step of training has seen."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


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
