"""Weights averaged over a run or over several runs, and the BatchNorm statistics that such weights need.

Averaged weights have activations that no step of training has seen, so their BatchNorm statistics are measured anew
(`reestimate_batch_norm`) before anything is scored or folded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

State = Mapping[str, torch.Tensor]


class RunningMean:
    """Mean of the states added, each with the same weight; summed in float64, and held by the CPU.

    Source: Izmailov et al., Averaging weights leads to wider optima and better generalization, 2018, arXiv 1803.05407.
    Differs: averages whatever it is given, here states of an EMA; the learning rate is the schedule's affair.
    """

    def __init__(self) -> None:
        self.num_added = 0
        self._mean: dict[str, torch.Tensor] = {}
        self._last: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def add(self, state: State) -> None:
        """Takes a state dict into the mean. It is copied.

        Raises:
          ValueError: other names or shapes than those of the states before.
        """
        if self.num_added and _shapes(state) != _shapes(self._last):
            names = ", ".join(sorted(dict(_shapes(state) ^ _shapes(self._last))))
            raise ValueError(f"got a state that differs in {names}, expected states of one network")
        self.num_added += 1
        self._last = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        for name, tensor in self._last.items():
            if tensor.is_floating_point():
                mean = self._mean.get(name, torch.zeros_like(tensor, dtype=torch.float64))
                # Not in place: what `to_dict` gave stays as it was.
                self._mean[name] = mean + (tensor.double() - mean) / self.num_added

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint; the inverse of `from_dict`."""
        return {"num_added": self.num_added, "mean": dict(self._mean), "last": self._last}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunningMean:
        """Reads what `to_dict` gave; of an empty mapping, a mean of nothing."""
        mean = cls()
        if values:
            mean.num_added, mean._mean, mean._last = values["num_added"], dict(values["mean"]), dict(values["last"])
        return mean

    def state(self) -> dict[str, torch.Tensor]:
        """The mean in the states' own number types; integers, which cannot be averaged, are those added last.

        Raises:
          ValueError: nothing was added.
        """
        if not self.num_added:
            raise ValueError("got no state, expected at least one")
        return {
            name: self._mean[name].to(last.dtype, copy=True) if name in self._mean else last.clone()
            for name, last in self._last.items()
        }


def greedy_soup(
    states: Sequence[State], score: Callable[[dict[str, torch.Tensor]], float]
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Averages those of several trained states that do the average good.

    From the best state on its own to the worst, each is kept when the score of the average does not fall.

    Args:
      states: At least one; of one network, and of runs that share their start (pre-trained weights), without which
        the average of two networks is none.
      score: More is better, never NaN. It chooses, so it must be measured on the SEARCH part of the data: no figure
        of the part that is reported may enter. It re-estimates BatchNorm for itself.

    Returns:
      The average, and the indices into `states` that it holds, best first.

    Raises:
      ValueError: no state, or a score of NaN.

    Source: Wortsman et al., Model soups, 2022, arXiv 2203.05482, recipe 1.
    """
    if not states:
        raise ValueError("got no state to average, expected at least one")
    scores = [score(dict(state)) for state in states]
    for i, value in enumerate(scores):
        if math.isnan(value):
            raise ValueError(f"state {i}: got a score of NaN, expected a number")
    first, *others = sorted(range(len(scores)), key=lambda i: -scores[i])
    soup, kept, best = _mean([states[first]]), [first], scores[first]
    for i in others:
        candidate = _mean([states[j] for j in (*kept, i)])
        value = score(candidate)
        if value >= best:
            soup, kept, best = candidate, [*kept, i], value
    return soup, kept


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


def _mean(states: Sequence[State]) -> dict[str, torch.Tensor]:
    mean = RunningMean()
    for state in states:
        mean.add(state)
    return mean.state()


def _shapes(state: State) -> set[tuple[str, torch.Size]]:
    return {(name, tensor.shape) for name, tensor in state.items()}
