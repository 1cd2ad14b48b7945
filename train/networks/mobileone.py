"""MobileOne S0 to S4: many branches in training, one plain convolution per layer in inference.

Written from the paper. Every block sums parallel branches (convolutions, a pointwise "scale" and an identity,
each with its own BatchNorm), which is linear, so `reparameterize` folds the sum into one convolution exactly.
Module names are ours; the shapes are those of the published weights, so one table of names maps both ways.

Source: Vasu et al., MobileOne: An Improved One millisecond Mobile Backbone, 2022, arXiv 2206.04040.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional

Module = TypeVar("Module", bound=nn.Module)
Activation = Callable[[torch.Tensor], torch.Tensor]


class Variant(NamedTuple):
    """One member of the family."""

    width_multipliers: tuple[float, float, float, float]
    """Factor on the 64, 128, 256 and 512 channels of the four stages."""
    num_conv_branches: int = 1
    """Convolutions in parallel in every block but the stem."""
    use_se: bool = False
    """Whether the second half of stage 2 and all of stage 3 end in a squeeze-and-excitation."""


# Source: arXiv 2206.04040, tables 2 and 3.
VARIANTS = {
    "s0": Variant((0.75, 1.0, 1.0, 2.0), num_conv_branches=4),
    "s1": Variant((1.5, 1.5, 2.0, 2.5)),
    "s2": Variant((1.5, 2.0, 2.5, 4.0)),
    "s3": Variant((2.0, 2.5, 3.0, 4.0)),
    "s4": Variant((3.0, 3.5, 3.5, 4.0), use_se=True),
}
_STAGES = ((64, 2, 0), (128, 8, 0), (256, 10, 5), (512, 1, 1))
"""Channels, blocks, and how many of these, counted from the end, may have a squeeze-and-excitation."""
_SE_REDUCTION = 16

_RESIDUAL_GAMMA = 0.3
"""First BatchNorm weight of the branches beside an identity.

At 1 the sum of five equal branches drowns the identity and a network of 43 layers learns nothing in 800 small
batches; at 0.3 it learns from the start, as with the small residual branches of arXiv 1706.02677, section 5.1."""


class ConvBN(nn.Module):
    """Convolution without bias, then BatchNorm."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, num_groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=num_groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.bn(self.conv(x)))


class SqueezeExcite(nn.Module):
    """Channel attention. Source: Hu et al., 2017, arXiv 1709.01507."""

    def __init__(self, channels: int, reduced: int, gate: Activation) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = functional.adaptive_avg_pool2d(x, 1)  # (N, D, 1, 1)
        return x * self.gate(self.expand(functional.relu(self.reduce(weight))))


class MobileOneBlock(nn.Module):
    """Sum of parallel branches, optional channel attention, ReLU. Source: arXiv 2206.04040, figure 3."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        num_groups: int = 1,
        num_conv_branches: int = 1,
        use_se: bool = False,
    ) -> None:
        super().__init__()

        def branch(kernel_size: int) -> ConvBN:
            return ConvBN(in_channels, out_channels, kernel_size, stride=stride, num_groups=num_groups)

        self.fused: nn.Conv2d | None = None
        self.conv_branches: nn.ModuleList | None = nn.ModuleList(branch(kernel_size) for _ in range(num_conv_branches))
        self.scale = branch(1) if kernel_size > 1 else None
        self.identity = nn.BatchNorm2d(in_channels) if in_channels == out_channels and stride == 1 else None
        self.se = SqueezeExcite(out_channels, out_channels // _SE_REDUCTION, torch.sigmoid) if use_se else None
        for each in self._convolutions():
            nn.init.kaiming_normal_(each.conv.weight, mode="fan_out", nonlinearity="relu")
            if self.identity is not None:
                nn.init.constant_(each.bn.weight, _RESIDUAL_GAMMA)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fused is not None:
            out = self.fused(x)
        else:
            out = sum(branch(x) for branch in self._convolutions())
            if self.identity is not None:
                out = out + self.identity(x)
        return functional.relu(out if self.se is None else self.se(out))

    def reparameterize(self) -> None:
        """Replaces the branches by the one convolution that computes their sum; in place, evaluation mode only.

        The folding runs in float64: in float32 the error of 43 layers reaches 1e-3 of the logits.
        """
        if self.fused is not None:
            return
        first = self._convolutions()[0].conv
        size = first.kernel_size[0]
        weight = torch.zeros_like(first.weight, dtype=torch.float64)
        bias = weight.new_zeros(first.out_channels)
        for branch in self._convolutions():
            gain, offset = affine(branch.bn)
            padding = (size - branch.conv.kernel_size[0]) // 2
            weight += functional.pad(branch.conv.weight.double() * gain[:, None, None, None], [padding] * 4)
            bias += offset
        if self.identity is not None:
            gain, offset = affine(self.identity)
            channels = torch.arange(first.out_channels)
            weight[channels, channels % weight.shape[1], size // 2, size // 2] += gain
            bias += offset
        stride = cast(tuple[int, int], first.stride)
        fused = nn.Conv2d(first.in_channels, first.out_channels, size, stride, size // 2, groups=first.groups)
        self.fused = fused.to(first.weight)
        with torch.no_grad():
            self.fused.weight.copy_(weight)
            cast(torch.Tensor, self.fused.bias).copy_(bias)
        self.conv_branches = self.scale = self.identity = None

    def _convolutions(self) -> list[ConvBN]:
        branches = list(self.conv_branches or ()) + ([] if self.scale is None else [self.scale])
        return cast(list[ConvBN], branches)


class MobileOne(nn.Module):
    """(N, 3, S, S) float32 images, already scaled -> (N, D, S/32, S/32) features."""

    def __init__(self, variant: str, *, num_conv_branches: int | None = None) -> None:
        """Builds the training form.

        Args:
          variant: "s0" to "s4".
          num_conv_branches: Convolutions in parallel per block; None: the variant's. The inference form is the same.

        Raises:
          ValueError: the variant is unknown, or a count is below 1.
        """
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant: got {variant!r}, expected one of {', '.join(VARIANTS)}")
        widths, own_branches, has_se = VARIANTS[variant]
        branches = own_branches if num_conv_branches is None else num_conv_branches
        if branches < 1:
            raise ValueError(f"num_conv_branches: got {branches}, expected at least 1")
        channels = min(64, int(64 * widths[0]))
        self.stem = MobileOneBlock(3, channels, 3, stride=2)
        stages = []
        for (base, num_blocks, num_se), multiplier in zip(_STAGES, widths, strict=True):
            width, blocks = int(base * multiplier), []
            for i in range(num_blocks):
                options: dict[str, Any] = {"num_conv_branches": branches, "use_se": has_se and i >= num_blocks - num_se}
                stride = 1 if i else 2
                blocks.append(MobileOneBlock(channels, channels, 3, stride=stride, num_groups=channels, **options))
                blocks.append(MobileOneBlock(channels, width, 1, **options))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.num_features = channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.stages(self.stem(images)))


def reparameterize(model: Module) -> Module:
    """A deep copy of a `MobileOne`, or of what holds one, in inference form and evaluation mode; same results."""
    fused = copy.deepcopy(model).eval()
    with torch.no_grad():
        for module in fused.modules():
            if isinstance(module, MobileOneBlock):
                module.reparameterize()
    return fused


def affine(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """The (gain, offset) that a BatchNorm applies in evaluation mode, float64."""
    mean, variance = cast(torch.Tensor, bn.running_mean), cast(torch.Tensor, bn.running_var)
    gain = bn.weight.double() / torch.sqrt(variance.double() + bn.eps)
    return gain, bn.bias.double() - mean.double() * gain
