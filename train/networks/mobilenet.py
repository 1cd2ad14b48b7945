"""MobileNetV2 and MobileNetV3-Small as bodies: bottlenecks between a stem and a last layer.

Written from the papers. The layers come in the order of the published weights, so `weights.py` maps the names of
those by rule.

Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018, arXiv 1801.04381; Howard et al.,
Searching for MobileNetV3, 2019, arXiv 1905.02244.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

from .mobileone import Activation, ConvBN, SqueezeExcite


class Block(NamedTuple):
    """One bottleneck."""

    kernel_size: int
    expanded: int
    """Channels between its 1x1 convolutions."""
    channels: int
    """Channels that it gives."""
    stride: int
    activation: Activation
    use_se: bool = False


# Kernel, expansion t, channels c, repeats n, stride s of the first. Source: arXiv 1801.04381, table 2.
_V2_STAGES = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (3, 6, 32, 3, 2),
    (3, 6, 64, 4, 2),
    (3, 6, 96, 3, 1),
    (3, 6, 160, 3, 2),
    (3, 6, 320, 1, 1),
)
# Source: arXiv 1905.02244, table 2.
_V3_SMALL_BLOCKS = (
    Block(3, 16, 16, 2, functional.relu, use_se=True),
    Block(3, 72, 24, 2, functional.relu),
    Block(3, 88, 24, 1, functional.relu),
    Block(5, 96, 40, 2, functional.hardswish, use_se=True),
    Block(5, 240, 40, 1, functional.hardswish, use_se=True),
    Block(5, 240, 40, 1, functional.hardswish, use_se=True),
    Block(5, 120, 48, 1, functional.hardswish, use_se=True),
    Block(5, 144, 48, 1, functional.hardswish, use_se=True),
    Block(5, 288, 96, 2, functional.hardswish, use_se=True),
    Block(5, 576, 96, 1, functional.hardswish, use_se=True),
    Block(5, 576, 96, 1, functional.hardswish, use_se=True),
)
STEM_CHANNELS = 32
"""Of V2 and of EfficientNet-Lite."""
EPSILON = 1e-3
"""Under the root of BatchNorm: the published weights of V3 and EfficientNet-Lite were trained with it."""


class _ConvBNAct(ConvBN):
    """Convolution, BatchNorm, activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        activation: Activation,
        *,
        stride: int = 1,
        num_groups: int = 1,
        pads_like_tensorflow: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, num_groups=num_groups)
        self.activation = activation
        self.pads_unevenly = pads_like_tensorflow and stride > 1
        if self.pads_unevenly:
            self.conv.padding = (0, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pads_unevenly:
            x = functional.pad(x, _same_padding(x.shape, self.conv))
        return self.activation(super().forward(x))


class _InvertedResidual(nn.Module):
    """1x1 to many channels, depthwise, attention, 1x1 to few; plus the input where the shapes agree.

    Source: arXiv 1801.04381, figure 4d; arXiv 1905.02244, figure 4, and for the attention sections 5.2 and 5.3.
    """

    def __init__(self, in_channels: int, block: Block, *, pads_like_tensorflow: bool = False) -> None:
        super().__init__()
        kernel_size, expanded, channels, stride, activation, use_se = block
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(_ConvBNAct(in_channels, expanded, 1, activation))
        layers.append(
            _ConvBNAct(
                expanded,
                expanded,
                kernel_size,
                activation,
                stride=stride,
                num_groups=expanded,
                pads_like_tensorflow=pads_like_tensorflow,
            )
        )
        if use_se:
            layers.append(SqueezeExcite(expanded, multiple_of_8(expanded / 4), functional.hardsigmoid))
        layers.append(ConvBN(expanded, channels, 1))
        self.layers = nn.Sequential(*layers)
        self.adds_input = stride == 1 and in_channels == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = cast(torch.Tensor, self.layers(x))
        return x + out if self.adds_input else out


class MobileNet(nn.Module):
    """(N, 3, S, S) float32 images, already scaled -> (N, D, S/32, S/32) features."""

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        stem_channels: int,
        num_features: int,
        activation: Activation,
        epsilon: float = 1e-5,
        pads_like_tensorflow: bool = False,
    ) -> None:
        """Builds it with random weights.

        Args:
          blocks: The bottlenecks in their order.
          stem_channels: What the first convolution gives.
          num_features: D, what the last gives.
          activation: Of these two.
          epsilon: Under the root of every BatchNorm.
          pads_like_tensorflow: Whether a convolution with a stride pads as TensorFlow's "SAME": an even side only at
            the right and the lower edge, which moves what it sees by a pixel. Weights from there need it.
        """
        super().__init__()
        self.stem = _ConvBNAct(
            3, stem_channels, 3, activation, stride=2, pads_like_tensorflow=pads_like_tensorflow
        )
        channels = (stem_channels, *(block.channels for block in blocks))
        self.blocks = nn.Sequential(
            *(
                _InvertedResidual(in_channels, block, pads_like_tensorflow=pads_like_tensorflow)
                for in_channels, block in zip(channels, blocks, strict=False)
            )
        )
        self.last = _ConvBNAct(channels[-1], num_features, 1, activation)
        self.num_features = num_features
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = epsilon

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.last(self.blocks(self.stem(images))))


class MobileNetV2(MobileNet):
    """(N, 3, S, S) float32 images, already scaled -> (N, 1280, S/32, S/32) features."""

    def __init__(self) -> None:
        super().__init__(
            repeat(_V2_STAGES), stem_channels=STEM_CHANNELS, num_features=1280, activation=functional.relu6
        )


class MobileNetV3Small(MobileNet):
    """(N, 3, S, S) float32 images, already scaled -> (N, 576, S/32, S/32) features.

    Differs: table 2 ticks an attention after the last 1x1 convolution, which the published weights do not have; the
    hidden layer of 1024 between pooling and classifier is left out, as Li et al. do; BatchNorm's momentum is
    PyTorch's 0.1, where 0.01 would take longer to settle than a short run lasts.
    """

    def __init__(self) -> None:
        activation = functional.hardswish
        super().__init__(
            _V3_SMALL_BLOCKS, stem_channels=16, num_features=576, activation=activation, epsilon=EPSILON
        )


def repeat(
    stages: Sequence[tuple[int, int, int, int, int]], *, width: float = 1.0, depth: float = 1.0
) -> list[Block]:
    """The bottlenecks of stages, made wider and repeated more often."""
    blocks: list[Block] = []
    in_channels = STEM_CHANNELS
    for stage, (kernel_size, factor, base, repeats, stride) in enumerate(stages):
        is_outer = stage in (0, len(stages) - 1)
        channels = multiple_of_8(base * width)
        for i in range(repeats if is_outer else math.ceil(repeats * depth)):
            blocks.append(Block(kernel_size, factor * in_channels, channels, 1 if i else stride, functional.relu6))
            in_channels = channels
    return blocks


def _same_padding(shape: torch.Size, conv: nn.Conv2d) -> list[int]:
    """Left, right, top, bottom of what makes a convolution give ceil(side / stride). Source: TensorFlow, "SAME"."""
    padding: list[int] = []
    for side in (int(shape[3]), int(shape[2])):
        kernel_size, stride = conv.kernel_size[0], conv.stride[0]
        total = max((-(-side // stride) - 1) * stride + kernel_size - side, 0)
        padding += [total // 2, total - total // 2]
    return padding


def multiple_of_8(x: float) -> int:
    """The nearest multiple of 8, at least 8, never below 0.9 of `x`. Source: Sandler et al., their published code."""
    nearest = max(8, int(x + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * x else nearest + 8
