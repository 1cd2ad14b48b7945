"""EfficientNet-Lite0 to 2 as bodies: EfficientNet without attention and with ReLU6, made for int8 on phones.

Lite0 to 4 share one table of bottlenecks; a variant repeats them more often, and makes them wider. The published
weights come from TensorFlow, so strided convolutions pad as there.

Source: Tan and Le, EfficientNet, 2019, arXiv 1905.11946, table 1; TensorFlow's repository tpu, models/official/
efficientnet/lite, for what Lite changes: no squeeze-and-excitation, ReLU6 for swish, stem and last convolution of one
width, first and last bottleneck never repeated more often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn
from torch.nn import functional

from .mobilenet import Block, MobileNet, multiple_of_8


@dataclass(frozen=True)
class Variant:
    """What tells one member of the family from another."""

    width: float
    """Factor on the channels of every bottleneck."""
    depth: float
    """Factor on the repeats of every bottleneck but the first and the last."""


VARIANTS = {"lite0": Variant(1.0, 1.0), "lite1": Variant(1.0, 1.1), "lite2": Variant(1.1, 1.2)}

# Source: arXiv 1905.11946, table 1: kernel, expansion, channels, repeats, stride of the first.
_STAGES = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)
_STEM_CHANNELS = 32
_EPSILON = 1e-3
"""Under the root of BatchNorm: the published weights were trained with it."""


class EfficientNetLite(MobileNet):
    """(N, 3, S, S) float32 images, already scaled -> (N, 1280, S/32, S/32) features.

    Differs: no stochastic depth in training; BatchNorm's momentum is PyTorch's 0.1, where 0.01 would take longer to
    settle than a short run lasts.
    """

    def __init__(self, variant: str) -> None:
        """Builds it with random weights.

        Args:
          variant: "lite0", "lite1" or "lite2".

        Raises:
          KeyError: no such variant.
        """
        blocks: list[Block] = []
        in_channels = _STEM_CHANNELS
        for stage, (kernel_size, factor, base, repeats, stride) in enumerate(_STAGES):
            is_outer = stage in (0, len(_STAGES) - 1)
            channels = multiple_of_8(base * VARIANTS[variant].width)
            for i in range(repeats if is_outer else math.ceil(repeats * VARIANTS[variant].depth)):
                expanded = factor * in_channels
                blocks.append(Block(kernel_size, expanded, channels, 1 if i else stride, functional.relu6))
                in_channels = channels
        super().__init__(
            tuple(blocks),
            stem_channels=_STEM_CHANNELS,
            num_features=1280,
            activation=functional.relu6,
            pads_like_tensorflow=True,
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = _EPSILON
