"""What is minimised, as functions of logits or embeddings and labels.

Everything is computed in float32, or in float64 where the arguments have it, also under autocast. Means are taken
over the images that count, so that no weight and no batch size moves the learning rate.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

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
    """Cross-entropy with the usual weights.

    Args:
      logits: (N, C) float.
      labels: (N,) int64. Classes.
      class_weights: (C,) float, 0 or more. Weight of an image by its label.
      label_smoothing: In [0, 1). Share of the target that is spread over all C classes.
      sample_weights: (N,) float, 0 or more. Weight of an image, on top of its label's.

    Returns:
      () float. Mean weighted by both weights: sum of weight times loss over sum of weights.

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
    """Logits whose angle to the label's class is wider by a margin.

    Args:
      cosines: (N, C) float in [-1, 1]. Of the angles theta between features and classes.
      labels: (N,) int64. Classes.
      margin: Radians, in [0, pi / 2]. Added to theta of the label; beyond pi see `Differs`.
      scale: Above 0. Factor on all cosines.

    Returns:
      (N, C) float. For `cross_entropy`.

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

    Args:
      cosines: (N, C) float in [-1, 1].
      labels: (N,) int64. Classes.
      margin: Radians, in [0, pi / 2].
      scale: Above 0.
      t: () float. Running mean of the labels' cosines; 0 at the start, kept by the caller.

    Returns:
      (N, C) float logits for `cross_entropy`, and the new t, without gradient and in t's own type. The logits use the
      new one, as the authors' code does.

    Source: Huang et al., CurricularFace, 2020, arXiv 2004.00288, section 3. Differs: past pi as in `arcface_logits`.
    """
    cosines = _wide(cosines)
    bare = cosines.gather(1, labels[:, None])
    t = t.lerp(bare.detach().mean().to(t), _CURRICULAR_MOMENTUM)
    target = _with_margin(bare, margin)
    modulated = torch.where(cosines > target, cosines * (t.to(cosines) + cosines), cosines)
    return modulated.scatter(1, labels[:, None], target) * scale, t


def batch_hard_triplet(embeddings: torch.Tensor, labels: torch.Tensor, *, margin: float) -> torch.Tensor:
    """Every image against its farthest of the same class and its nearest of another.

    Args:
      embeddings: (N, D) float. Not normalised.
      labels: (N,) int64. Classes.
      margin: 0 or more. How much farther the negative shall be, in Euclidean distance.

    Returns:
      () float. Mean over the anchors that have a positive and a negative; without any 0, which still has a graph.

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
    # Measured again for the chosen alone: (N, D) instead of (N, N, D) in the graph, and a gradient of 0 at distance 0.
    positive_distance = torch.linalg.vector_norm(embeddings - embeddings[positive], dim=1)
    negative_distance = torch.linalg.vector_norm(embeddings - embeddings[negative], dim=1)
    losses = functional.relu(margin + positive_distance - negative_distance)
    return (losses * has_both).sum() / has_both.sum().clamp(min=1)


def kl_distillation(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Divergence of the student's softened distribution from the teacher's.

    Args:
      student_logits: (N, C) float.
      teacher_logits: (N, C) float. Logits or, which is the same here, log-probabilities. Gets no gradient.
      temperature: Above 0. Divides both.

    Returns:
      () float. T^2 * KL(teacher || student), mean over images.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531, section 2.
    """
    student = functional.log_softmax(_wide(student_logits) / temperature, dim=1)
    # Not as logarithms: of a class that the teacher rules out, 0 * log 0 is 0 only in this form.
    teacher = functional.softmax(_wide(teacher_logits).detach() / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher.to(student), reduction="batchmean")


def symmetric_kl(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """How far two answers to the same pictures are apart.

    Args:
      logits: (N, C) float.
      others: (N, C) float. Both get a gradient.

    Returns:
      () float. Mean over images of (KL(p || q) + KL(q || p)) / 2.

    Source: Wu et al., R-Drop, 2021, arXiv 2106.14448, equation 2; there it is dropout that makes the two differ.
    """
    log_p, log_q = (functional.log_softmax(_wide(each), dim=1) for each in (logits, others))
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean() / 2


def group_weights(groups: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Weights that make the groups of a batch equal, for `cross_entropy`.

    Args:
      groups: (N,) int64 in [0, G). Group of each image.
      num_groups: G.

    Returns:
      (N,) float32, 1 or more. max_j o_j / o_i, where o are the groups' shares of the batch and i is the image's own.

    Source: BiaslessNAS, 2024, arXiv 2407.13896. Differs: the paper prints argmax for max; `cross_entropy` divides by
    the sum of weights.
    """
    counts = functional.one_hot(groups, num_groups).sum(0)
    return counts.max() / counts[groups]


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _with_margin(cosine: torch.Tensor, margin: float) -> torch.Tensor:
    """cos(theta + margin) of a cosine."""
    # The product, not 1 - cos^2, keeps all digits near 1; at 1 the root's derivative is infinite.
    sine = torch.sqrt(((1 - cosine) * (1 + cosine)).clamp(min=torch.finfo(cosine.dtype).tiny))
    wider = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > math.cos(math.pi - margin), wider, cosine - margin * math.sin(margin))
