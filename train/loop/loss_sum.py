"""What is minimised: from the features of a whole batch to one number, part by part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..config import DistillConfig, LossConfig, TrainConfig
from ..data.sampler import numbers_by_class
from ..networks.head import Head
from . import losses


class Objective(nn.Module):
    """The losses of a configuration, with CurricularFace's running `t` as its one state."""

    t: torch.Tensor
    class_weights: torch.Tensor

    def __init__(self, config: TrainConfig, *, classes: Sequence[str], num_groups: int) -> None:
        """Prepares the constants.

        Args:
          config: What to minimise.
          classes: Class names in the order of the logits.
          num_groups: G.

        Raises:
          EdgeError: class weights for other classes than the data's.
        """
        super().__init__()
        self._loss: LossConfig = config.loss
        self._distill: DistillConfig = config.distill
        self._scale = config.model.head_scale
        self._has_cosines = config.model.head == "cosine"
        self._num_groups = num_groups
        items = config.loss.class_weights
        given = numbers_by_class(items, list(classes), name="class_weights") if items else dict.fromkeys(classes, 1.0)
        weights = [given[name] for name in classes]
        self.register_buffer("t", torch.zeros(()))
        self.register_buffer("class_weights", torch.tensor(weights, dtype=torch.float32), persistent=False)

    def forward(
        self,
        head: Head,
        features: torch.Tensor,
        targets: torch.Tensor,
        groups: torch.Tensor,
        teacher: torch.Tensor | None,
        *,
        turned: torch.Tensor | None = None,
        progress: float,
    ) -> dict[str, torch.Tensor]:
        """The loss of one batch.

        Args:
          head: In training mode.
          features: (N, D) pooled features of the global batch.
          targets: (N,) int64 class indices.
          groups: (N,) int64 group indices.
          teacher: (N, C) its log-probabilities, or None.
          turned: (N, D) features of the same pictures turned, or None.
          progress: Share of the steps done, for the margin's warm-up.

        Returns:
          `total`, and what it is the weighted sum of: `hard`, `triplet`, `distill`, `turn` where they are used.
        """
        loss = self._loss
        output = head.classify(features)
        parts = {"hard": self._hard(output.logits, targets, groups, progress)}
        if turned is not None:
            others = head.classify(turned).logits
            parts["hard"] = (parts["hard"] + self._hard(others, targets, groups, progress)) / 2
            scale = self._scale if self._has_cosines else 1.0
            parts["turn"] = losses.symmetric_kl(output.logits * scale, others * scale)
        total = parts["hard"]
        if teacher is not None:
            student = output.logits if output.distill is None else output.distill
            student = student * self._scale if self._has_cosines else student
            parts["distill"] = losses.kl_distillation(student, teacher, temperature=self._distill.temperature)
            total = self._distill.hard_weight * total + self._distill.distill_weight * parts["distill"]
        if loss.triplet_weight:
            parts["triplet"] = losses.batch_hard_triplet(features, targets, margin=loss.triplet_margin)
            total = total + loss.triplet_weight * parts["triplet"]
        if "turn" in parts:
            total = total + loss.turn_weight * parts["turn"]
        return {"total": total, **parts}

    def _hard(
        self, logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor, progress: float
    ) -> torch.Tensor:
        loss = self._loss
        if self._has_cosines:
            margin = loss.margin * min(1.0, progress / loss.margin_warmup) if loss.margin_warmup else loss.margin
            if loss.margin_type == "curricular":
                logits, t = losses.curricular_logits(logits, targets, margin=margin, scale=self._scale, t=self.t)
                self.t.copy_(t)
            elif loss.margin_type == "arcface":
                logits = losses.arcface_logits(logits, targets, margin=margin, scale=self._scale)
            else:
                logits = logits * self._scale
        return losses.cross_entropy(
            logits,
            targets,
            class_weights=self.class_weights if loss.class_weights else None,
            sample_weights=losses.group_weights(groups, self._num_groups) if loss.group_weights else None,
            label_smoothing=loss.label_smoothing,
        )
