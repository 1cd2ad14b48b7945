"""A body of convolutions, global average pooling, a head: the form all networks have here."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import nn
from torch.nn import functional

from ..config import ModelConfig
from .efficientnet_lite import EfficientNetLite
from .head import Head
from .mobilenet import MobileNetV2, MobileNetV3Small
from .mobileone import MobileOne


class Body(Protocol):
    """A module from (N, 3, S, S) float32 images, already scaled, to (N, D, h, w) features."""

    num_features: int
    """D."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Runs it."""
        ...


class Network(nn.Module):
    """(N, 3, S, S) float32 images, already scaled -> (N, C) logits."""

    def __init__(self, body: Body, head: Head) -> None:
        super().__init__()
        self.body = cast(nn.Module, body)
        self.head = head

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) images -> (N, D) features, averaged over the picture."""
        return functional.adaptive_avg_pool2d(self.body(images), 1).flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.embed(images)))


def build(config: ModelConfig, num_classes: int) -> Network:
    """A network in training form, freshly initialised."""
    family, _, variant = config.network.partition("_")
    body: Body
    if family == "mobileone":
        body = MobileOne(variant, num_conv_branches=config.num_conv_branches or None)
    elif family == "efficientnet":
        body = EfficientNetLite(variant)
    else:
        body = MobileNetV2() if variant == "v2" else MobileNetV3Small()
    head = Head(
        body.num_features,
        num_classes,
        kind=config.head,
        scale=config.head_scale,
        neck=config.neck,
        dropout=config.dropout,
        distill=config.distill_head,
    )
    return Network(body, head)
