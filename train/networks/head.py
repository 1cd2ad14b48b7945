"""Everything after the global pooling: an optional neck, one classifier or two, and the one linear layer they fold to.

Whatever is chosen for training, use costs the same: BatchNorm is affine, the length of a feature moves no argmax and
the logits of two classifiers are added.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

from .mobileone import affine

KINDS = ("linear", "cosine")

_MAX_COSINE = 1 - 1e-7
"""The derivative of a margin divides by sin(theta), which at this cosine is 4e-4."""


class HeadOutput(NamedTuple):
    """Logits, or of a cosine head the bare cosines, which a margin needs: what training takes from a head."""

    logits: torch.Tensor
    """(N, C) float32 or float64. Of the classifier that learns from the labels."""
    distill: torch.Tensor | None
    """The same of the classifier that learns only from the teacher."""


class Head(nn.Module):
    """(N, D) pooled features -> (N, C) logits.

    Runs in the precision of its own weights whatever autocast says: its cost is nothing beside the network's, and
    bfloat16 has no digits left for the angle whose cosine is near 1.

    Source: neck, Luo et al., Bag of Tricks for person re-identification, 2019, arXiv 1903.07071, section 3.5; cosine
    classifier, Wang et al., NormFace, 2017, arXiv 1704.06369; classifier of its own for the teacher, Touvron et al.,
    DeiT, 2020, arXiv 2012.12877, section 4. Differs: in use we add logits, which can be folded; DeiT adds softmaxes.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        kind: str = "linear",
        scale: float = 16.0,
        neck: bool = False,
        dropout: float = 0.0,
        distill: bool = False,
    ) -> None:
        """Builds it with random classifiers.

        Args:
          num_features: D.
          num_classes: C.
          kind: "linear", or "cosine": features and rows of the weight are used at length 1, and there is no bias.
          scale: Above 0. Factor on the cosines in `forward`; in training the loss applies it, after the margin.
          neck: Whether a BatchNorm comes before the classifiers. Its bias is frozen at 0: the features stay centred
            on the point that angles are measured from.
          dropout: In [0, 1). Share of the features dropped, of a cosine head after they got length 1.
          distill: Whether there is a second classifier.

        Raises:
          ValueError: the kind is unknown.
        """
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
        self.kind = kind
        self.scale = scale
        self.neck = nn.BatchNorm1d(num_features) if neck else None
        if self.neck is not None:
            self.neck.bias.requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.fc = _classifier(num_features, num_classes, kind)
        self.distill_fc = _classifier(num_features, num_classes, kind) if distill else None

    def classify(self, features: torch.Tensor) -> HeadOutput:
        """(N, D) pooled features of any float type -> logits, or cosines in [-1 + 1e-7, 1 - 1e-7], for training.

        Dropout can carry a product of features beyond these; there its gradient is 0, a margin's would be thousands.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.fc.weight.dtype)
            if self.neck is not None:
                features = self.neck(features)
            if self.kind == "cosine":
                features = functional.normalize(features, dim=1)
            features = self.dropout(features)
            distill = None if self.distill_fc is None else self._logits(self.distill_fc, features)
            return HeadOutput(self._logits(self.fc, features), distill)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, D) features -> (N, C) logits of use and evaluation: both classifiers added, cosines scaled."""
        output = self.classify(features)
        logits = output.logits if output.distill is None else output.logits + output.distill
        return logits * self.scale if self.kind == "cosine" else logits

    def _logits(self, classifier: nn.Linear, features: torch.Tensor) -> torch.Tensor:
        if self.kind == "linear":
            return cast(torch.Tensor, classifier(features))
        cosines = functional.linear(features, functional.normalize(classifier.weight, dim=1))
        return cosines.clamp(-_MAX_COSINE, _MAX_COSINE)


def to_linear(head: Head) -> nn.Linear:
    """Folds a head in evaluation mode into one layer, in float64; type and device are those of the head's weights.

    Returns:
      D -> C with bias. Of a linear head the same logits, up to rounding. Of a cosine head the logits times the length
      of the feature after the neck: the same argmax, but a temperature must be fitted to this layer.
    """
    weight = torch.zeros_like(head.fc.weight, dtype=torch.float64)
    bias = weight.new_zeros(len(weight))
    with torch.no_grad():
        for classifier in (head.fc, head.distill_fc):
            if classifier is None:
                continue
            if head.kind == "cosine":
                weight += functional.normalize(classifier.weight.double(), dim=1) * head.scale
            else:
                weight += classifier.weight.double()
                bias += classifier.bias.double()
        if head.neck is not None:
            gain, offset = affine(head.neck)
            bias += weight @ offset
            weight *= gain
        linear = nn.Linear(head.fc.in_features, head.fc.out_features).to(head.fc.weight)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return linear


def _classifier(num_features: int, num_classes: int, kind: str) -> nn.Linear:
    """Linear: nearly 0, so that training starts from equal odds. Cosine: random directions, rows of length about 1."""
    classifier = nn.Linear(num_features, num_classes, bias=kind == "linear")
    nn.init.normal_(classifier.weight, std=0.01 if kind == "linear" else num_features**-0.5)
    if kind == "linear":
        nn.init.zeros_(classifier.bias)
    return classifier
