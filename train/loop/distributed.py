"""Several processes that together train as one: what `torchrun` needs, on CPUs (gloo) and GPUs (nccl).

The plan: every rank runs the body on its rows of the batch, inside DistributedDataParallel and with
`share_batch_norm`; `gather` then gives every rank the embeddings of all; and every rank computes the head and all
losses on them, as one process would. What looks across the batch (BNNeck, batch-hard triplets, CurricularFace's t, the
normaliser of a weighted mean) is global without code of its own, and the gradients of the head are equal on all ranks.

Why the gradients of the body are right too: every rank holds the same loss L and differentiates the sum of all ranks'
losses, W L, since the all-reduce behind `gather` and the BatchNorms hands the gradients of all ranks to each row.
Rank r thus gets W dL/dtheta_r, its own part, and DistributedDataParallel's mean over ranks is the sum of the parts,
dL/dtheta. The shares of the batch may differ in size.

It holds for what draws the same random numbers on every rank (dropout in the head: seed it alike). The BNNeck stays a
plain BatchNorm: it already sees all rows. Set `broadcast_buffers = False` on the DistributedDataParallel once it is
made: the shared statistics are equal anyway, and as an argument of its constructor the name is deprecated from 2.13 on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edge.errors import EdgeError
from edge.exit import ENVIRONMENT

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ranks(NamedTuple):
    """This process among those that train together."""

    rank: int
    """0 to size - 1."""
    size: int
    """Number of processes."""
    device: torch.device
    """The GPU that is this process's own, else the CPU."""

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that writes files and talks."""
        return self.rank == 0


@contextmanager
def start() -> Iterator[Ranks]:
    """Joins the processes that `torchrun` started; outside of it, a single process.

    Raises:
      EdgeError: an environment that is not torchrun's, more processes than GPUs, or no connection.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return
    device = _join()
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def _join() -> torch.device:
    """Opens the process group and returns this process's device."""
    if absent := [name for name in _TORCHRUN if name not in os.environ]:
        text = f"WORLD_SIZE is set without {', '.join(absent)}: expected all that torchrun sets, or none"
        raise EdgeError(text, exit_status=ENVIRONMENT)
    try:
        if not torch.cuda.is_available():
            dist.init_process_group("gloo")
            return torch.device("cpu")
        index, num_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if index >= num_gpus:
            text = f"got process {index + 1} for {num_gpus} GPUs, expected --nproc-per-node {num_gpus}"
            raise EdgeError(text, exit_status=ENVIRONMENT)
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
        return device
    except (ValueError, RuntimeError) as error:
        text = f"cannot join the other processes: {str(error).splitlines()[0]}"
        raise EdgeError(text, exit_status=ENVIRONMENT) from error


def gather(local: torch.Tensor) -> torch.Tensor:
    """(n, ...) rows of each rank -> (N, ...) those of all, in rank order, on every rank; differentiable.

    n, at least 1, may differ; the number type may not. The gradient of a rank's rows is the sum of what all ranks'
    losses ask of them: with DistributedDataParallel's mean over ranks that is the gradient of one process, as above.
    Outside of `start` the result is `local` itself.
    """
    if not _is_shared():
        return local
    size = torch.tensor([len(local)], device=local.device)
    return _gather(local, _gather(size, [1] * dist.get_world_size()).tolist())


def share_batch_norm(model: nn.Module) -> nn.Module:
    """Makes every BatchNorm of `model` take the statistics of all ranks' rows in training; in place.

    Parameters, buffers and their names stay. In evaluation mode, and in one process, nothing changes.

    Raises:
      ValueError: a kind of BatchNorm other than 1d and 2d, which would stay with its own rows.
    """
    for name, module in model.named_modules():
        if type(module) in _SHARED:
            # Not a new module: one that is held twice, or has hooks or parameters in an optimizer, stays the same one.
            module.__class__ = _SHARED[type(module)]
        elif isinstance(module, _BatchNorm) and not isinstance(module, _SharedBatchNorm):
            raise ValueError(f"{name}: got a {type(module).__name__}, expected BatchNorm1d or BatchNorm2d")
    return model


class _SharedBatchNorm(_BatchNorm):
    """BatchNorm over the rows of all ranks. `nn.SyncBatchNorm` is the same for GPUs and refuses CPUs.

    Source: Chan et al., Updating formulae and a pairwise algorithm for computing sample variances, 1979, equation 2.1:
    counts, means and variances of parts make those of the whole, exactly and without the cancellation of
    E[x^2] - E[x]^2. One all-reduce forward, one backward.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(n, C, ...) -> (n, C, ...); each rank has at least one row."""
        if not self.training or not _is_shared():
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        x = input.to(torch.promote_types(input.dtype, torch.float32))  # 16 bits are too few for statistics
        var, mean = torch.var_mean(x, dims, correction=0)  # (C,) each
        part = torch.cat([x.new_tensor([x.numel() / x.shape[1]]), mean, var])  # (1 + 2 C,)
        parts = _gather(part[None], [1] * dist.get_world_size())
        counts, means, variances = parts.split([1, len(mean), len(mean)], dim=1)  # (W, 1), (W, C), (W, C)
        count = counts.sum()  # at least 2, so that the unbiased variance exists
        mean = (counts * means).sum(0) / count
        var = (counts * (variances + (means - mean) ** 2)).sum(0) / count
        self._track(mean.detach(), var.detach() * count / (count - 1))
        shape = [-1] + [1] * (input.ndim - 2)
        out: torch.Tensor = (x - mean.view(shape)) * torch.rsqrt(var + self.eps).view(shape)
        if self.affine:
            out = torch.addcmul(self.bias.view(shape), out, self.weight.view(shape))
        return out.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(var.to(self.running_var.dtype), momentum)


class SharedBatchNorm1d(_SharedBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the rows of all ranks."""


class SharedBatchNorm2d(_SharedBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the rows of all ranks."""


_SHARED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SharedBatchNorm1d,
    nn.BatchNorm2d: SharedBatchNorm2d,
}


class _SumOverRanks(torch.autograd.Function):
    """Each rank's input is in every rank's output, so its gradient is the sum over ranks as well."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        """(...) -> (...), equal on all ranks."""
        total = local.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        """(...) gradient of this rank's loss -> (...) gradient of the sum of all losses."""
        return _SumOverRanks.forward(ctx, grads[0])


def _gather(local: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """`gather` where the number of rows of each rank is known: zeros around one's own rows, summed; exact."""
    rank = dist.get_rank()
    before, after = (local.new_zeros(sum(s), *local.shape[1:]) for s in (sizes[:rank], sizes[rank + 1 :]))
    function: Any = _SumOverRanks
    return cast(torch.Tensor, function.apply(torch.cat([before, local, after])))


def _is_shared() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
