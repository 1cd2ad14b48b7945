"""The losses, as functions of logits or embeddings and labels; and their sum, the objective.

Everything is computed in float32, or in float64 where the arguments have it, also under autocast. Means are taken
over the images that count, so that no weight and no batch size moves the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ..config import TrainConfig
from ..data.sampler import numbers_by_class
from ..networks.head import Head

_CURRICULAR_MOMENTUM = 0.01
"""Source: CurricularFace, arXiv 2004.00288, section 3: alpha = 0.99 on the old value."""


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    sample_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """(N, C) float logits, (N,) int64 labels -> () float: sum of weight times loss over sum of weights.

    An image is weighed by its label, (C,) float `class_weights`, and by itself, (N,) float `sample_weights`, each 0 or
    more. `label_smoothing`, in [0, 1), is the share of the target that is spread over all C classes.

    Source: label smoothing, Szegedy et al., 2015, arXiv 1512.00567, section 7. Differs: under smoothing torch weights
    each term by its own class; we weight the image.
    """
    log_p = functional.log_softmax(_wide(logits), dim=1)
    losses = -log_p.gather(1, labels[:, None])[:, 0]
    if label_smoothing:  # otherwise a class that has been ruled out, log p = -inf, would give nan
        losses = (1 - label_smoothing) * losses - label_smoothing * log_p.mean(1)
    weights = torch.ones_like(losses)
    if class_weights is not None:
        weights = weights * class_weights[labels].to(losses)
    if sample_weights is not None:
        weights = weights * sample_weights.to(losses)
    return (weights * losses).sum() / weights.sum()


def arcface_logits(cosines: torch.Tensor, labels: torch.Tensor, *, margin: float, scale: float) -> torch.Tensor:
    """(N, C) float cosines, (N,) int64 labels -> (N, C) float logits: the angle theta of the label is made wider.

    The margin, 0 to pi / 2 in radians, is added to theta; the scale, above 0, is a factor on all cosines.

    Source: Deng et al., ArcFace, 2018, arXiv 1801.07698, equation 3. Differs: where theta + margin passes pi, the
    cosine would rise again; as in the authors' code it falls on as cos(theta) - margin * sin(margin).
    """
    cosines = _wide(cosines)
    target = _with_margin(cosines.gather(1, labels[:, None]), margin)
    return cosines.scatter(1, labels[:, None], target) * scale


def curricular_logits(
    cosines: torch.Tensor, labels: torch.Tensor, *, margin: float, scale: float, t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """ArcFace's logits, with the classes that beat the label's weighed by how far training has come.

    Arguments as of `arcface_logits`; and t, () float, the running mean of the labels' cosines, 0 at the start. Returned
    with the (N, C) float logits is the new t, without gradient and in t's own type, for the caller to keep. The logits
    use the new one, as the authors' code does.

    Source: Huang et al., CurricularFace, 2020, arXiv 2004.00288, section 3. Differs: past pi as in `arcface_logits`.
    """
    cosines = _wide(cosines)
    bare = cosines.gather(1, labels[:, None])
    t = t.lerp(bare.detach().mean().to(t), _CURRICULAR_MOMENTUM)
    target = _with_margin(bare, margin)
    modulated = torch.where(cosines > target, cosines * (t.to(cosines) + cosines), cosines)
    return modulated.scatter(1, labels[:, None], target) * scale, t


def batch_hard_triplet(embeddings: torch.Tensor, labels: torch.Tensor, *, margin: float) -> torch.Tensor:
    """(N, D) float embeddings, (N,) int64 labels -> () float: each image against its farthest like and nearest unlike.

    The unlike one shall be farther by the margin, 0 or more, in Euclidean distance. The mean is over the anchors that
    have both kinds; without any it is 0, which still has a graph.

    Source: Hermans et al., In Defense of the Triplet Loss, 2017, arXiv 1703.07737, equation 5. Differs: the mean.
    """
    embeddings = _wide(embeddings)
    same = labels[:, None] == labels
    has_both = (same.sum(1) > 1) & ~same.all(1)
    with torch.no_grad():
        # By differences: the faster x^2 + y^2 - 2xy cancels where embeddings are close.
        distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
        positive = distances.masked_fill(~same, -math.inf).argmax(1)
        negative = distances.masked_fill(same, math.inf).argmin(1)
    # Measured again, only for the chosen: (N, D) instead of (N, N, D) in the graph, and a gradient of 0 at distance 0.
    positive_distance = torch.linalg.vector_norm(embeddings - embeddings[positive], dim=1)
    negative_distance = torch.linalg.vector_norm(embeddings - embeddings[negative], dim=1)
    losses = functional.relu(margin + positive_distance - negative_distance)
    return (losses * has_both).sum() / has_both.sum().clamp(min=1)


def kl_distillation(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """(N, C) float logits of each -> () float: T^2 * KL(teacher || student), mean over images.

    The teacher's may be log-probabilities, which is the same here; they get no gradient. T, above 0, divides both.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531, section 2.
    """
    student = functional.log_softmax(_wide(student_logits) / temperature, dim=1)
    # Not as logarithms: of a class that the teacher rules out, 0 * log 0 is 0 only in this form.
    teacher = functional.softmax(_wide(teacher_logits).detach() / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher.to(student), reduction="batchmean")


def symmetric_kl(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(N, C) float logits of two answers to the same pictures -> () float: mean of (KL(p || q) + KL(q || p)) / 2.

    Source: Wu et al., R-Drop, 2021, arXiv 2106.14448, equation 2; there it is dropout that makes the two differ.
    """
    log_p, log_q = (functional.log_softmax(_wide(each), dim=1) for each in (logits, others))
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean() / 2


def group_weights(groups: torch.Tensor) -> torch.Tensor:
    """(N,) int64 groups -> (N,) float32 weights that make the groups of a batch equal, for `cross_entropy`.

    They are max_j o_j / o_i, where o are the groups' shares of the batch and i is the image's own.

    Source: BiaslessNAS, 2024, arXiv 2407.13896. Differs: the paper prints argmax for max; `cross_entropy` divides by
    the sum of weights.
    """
    counts = torch.bincount(groups)
    return counts.max() / counts[groups]


class Objective(nn.Module):
    """The losses of a configuration, with CurricularFace's running `t` as its one state."""

    t: torch.Tensor
    class_weights: torch.Tensor

    def __init__(self, config: TrainConfig, *, classes: Sequence[str]) -> None:
        """Prepares the constants; `classes` are in the order of the logits.

        Raises:
          EdgeError: class weights for other classes than the data's.
        """
        super().__init__()
        self._loss, self._distill, self._model = config.loss, config.distill, config.model
        items = config.loss.class_weights
        given = numbers_by_class(items, list(classes), name="class_weights") if items else dict.fromkeys(classes, 1.0)
        weights = torch.tensor([given[name] for name in classes], dtype=torch.float32)
        self.register_buffer("t", torch.zeros(()))
        self.register_buffer("class_weights", weights, persistent=False)

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
        loss, scale = self._loss, self._model.head_scale if self._model.head == "cosine" else 1.0
        output = head.classify(features)
        parts = {"hard": self._hard(output.logits, targets, groups, progress)}
        if turned is not None:
            others = head.classify(turned).logits
            parts["hard"] = (parts["hard"] + self._hard(others, targets, groups, progress)) / 2
            parts["turn"] = symmetric_kl(output.logits * scale, others * scale)
        total = parts["hard"]
        if teacher is not None:
            student = output.logits if output.distill is None else output.distill
            parts["distill"] = kl_distillation(student * scale, teacher, temperature=self._distill.temperature)
            total = self._distill.hard_weight * total + self._distill.distill_weight * parts["distill"]
        if loss.triplet_weight:
            parts["triplet"] = batch_hard_triplet(features, targets, margin=loss.triplet_margin)
            total = total + loss.triplet_weight * parts["triplet"]
        if "turn" in parts:
            total = total + loss.turn_weight * parts["turn"]
        return {"total": total, **parts}

    def _hard(
        self, logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """The labels' part, of logits or cosines."""
        loss, scale = self._loss, self._model.head_scale
        if self._model.head == "cosine":
            margin = loss.margin * min(1.0, progress / loss.margin_warmup) if loss.margin_warmup else loss.margin
            if loss.margin_type == "curricular":
                logits, t = curricular_logits(logits, targets, margin=margin, scale=scale, t=self.t)
                self.t.copy_(t)
            elif loss.margin_type == "arcface":
                logits = arcface_logits(logits, targets, margin=margin, scale=scale)
            else:
                logits = logits * scale
        return cross_entropy(
            logits,
            targets,
            class_weights=self.class_weights if loss.class_weights else None,
            sample_weights=group_weights(groups) if loss.group_weights else None,
            label_smoothing=loss.label_smoothing,
        )


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _with_margin(cosine: torch.Tensor, margin: float) -> torch.Tensor:
    """cos(theta + margin) of a cosine."""
    # The product, not 1 - cos^2, keeps all digits near 1; at 1 the root's derivative is infinite.
    sine = torch.sqrt(((1 - cosine) * (1 + cosine)).clamp(min=torch.finfo(cosine.dtype).tiny))
    wider = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > math.cos(math.pi - margin), wider, cosine - margin * math.sin(margin))
