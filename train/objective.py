"""What is minimised: from the features of a whole batch to one number, part by part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from . import losses
from .config import DistillConfig, LossConfig, TrainConfig
from .head import Head
from .sampler import numbers_by_class


class Objective(nn.Module):
    """The losses of a configuration, with CurricularFace's running `t` as its one state."""

    t: torch.Tensor
    class_weights: torch.Tensor
    log_priors: torch.Tensor

    def __init__(self, config: TrainConfig, *, classes: Sequence[str], labels: np.ndarray, num_groups: int) -> None:
        """Prepares the constants.

        Args:
          config: What to minimise.
          classes: Class names in the order of the logits.
          labels: (N,) class indices of the images as drawn, for priors and inverse weights: of a sampler that draws all
        classes alike there is nothing left to adjust.
          num_groups: G.

        Raises:
          ValueError: class weights for other classes than the data's.
        """
        super().__init__()
        self._loss: LossConfig = config.loss
        self._distill: DistillConfig = config.distill
        self._scale = config.model.head_scale
        self._has_cosines = config.model.head == "cosine"
        self._num_groups = num_groups
        counts = np.bincount(labels, minlength=len(classes)).astype(np.float64)
        weights = _class_weights(config.loss.class_weights, counts, list(classes))
        priors = np.log(np.maximum(counts, 1) / counts.sum())
        self.register_buffer("t", torch.zeros(()))
        self.register_buffer("class_weights", torch.tensor(weights, dtype=torch.float32), persistent=False)
        self.register_buffer("log_priors", torch.tensor(priors, dtype=torch.float32), persistent=False)

    def forward(
        self,
        head: Head,
        features: torch.Tensor,
        targets: torch.Tensor,
        groups: torch.Tensor,
        teacher: torch.Tensor | None,
        *,
        progress: float,
    ) -> dict[str, torch.Tensor]:
        """The loss of one batch.

        Args:
          head: In training mode.
          features: (N, D) pooled features of the global batch.
          targets: (N,) int64 class indices.
          groups: (N,) int64 group indices.
          teacher: (N, C) its log-probabilities, or None.
          progress: Share of the steps done, for the margin's warm-up.

        Returns:
          `total`, and what it is the weighted sum of: `hard`, `triplet`, `distill` where they are used.
        """
        loss = self._loss
        output = head.classify(features)
        parts = {"hard": self._hard(output.logits, targets, groups, progress)}
        total = parts["hard"]
        if teacher is not None:
            student = output.logits if output.distill is None else output.distill
            student = student * self._scale if self._has_cosines else student
            distance = losses.dist_distillation if self._distill.distill == "dist" else losses.kl_distillation
            parts["distill"] = distance(student, teacher, temperature=self._distill.temperature)
            total = self._distill.hard_weight * total + self._distill.distill_weight * parts["distill"]
        if loss.triplet_weight:
            parts["triplet"] = losses.batch_hard_triplet(features, targets, margin=loss.triplet_margin)
            total = total + loss.triplet_weight * parts["triplet"]
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
        if loss.logit_adjustment:
            logits = logits + losses.logit_adjustment(self.log_priors, tau=loss.logit_adjustment)
        return losses.cross_entropy(
            logits,
            targets,
            class_weights=self.class_weights if loss.class_weights else None,
            sample_weights=losses.group_weights(groups, self._num_groups) if loss.group_weights else None,
            label_smoothing=loss.label_smoothing,
            focal_gamma=loss.focal_gamma,
        )


def _class_weights(items: tuple[str, ...], counts: np.ndarray, classes: list[str]) -> np.ndarray:
    if items == ("inverse",):
        return np.asarray(counts.sum() / (len(counts) * np.maximum(counts, 1)))
    if not items:
        return np.ones(len(classes))
    given = numbers_by_class(items, classes, name="class_weights")
    return np.array([given[name] for name in classes])
