"""What perfectly fair classifiers would show on as many images: noise sets groups apart, too."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import contest, fairness
from .counts import ratio
from .evaluation import Frame, Null, Observations
from .interval import effective_n, fair_hits, p_value, spread


def null_of(data: Observations, frame: Frame, values: dict[str, np.ndarray]) -> Null | None:
    """The two nulls of fairness; None where the SPD is not defined.

    `equal_accuracy` gives every group the pooled accuracy. `equal_recall` gives every group the pooled recall of each
    class: groups that have more of the difficult classes then fare worse with a classifier that treats all alike.
    """
    measured = {name: float(value) for name, value in values.items() if value.ndim == 0}
    if np.isnan(measured["score.spd"]):
        return None
    support = np.rint(frame.support * _worth(data, frame)[:, None]).astype(np.int64)
    support = np.maximum(support, frame.support > 0)  # no cell is rounded away
    sizes, compared = support.sum(-1), np.isin(data.group, frame.compared)
    hits = np.bincount(data.y_true[compared & data.is_right], minlength=len(data.classes))
    recalls = np.nan_to_num(ratio(hits, frame.support.sum(0)))
    pooled = np.array([data.is_right[compared].mean()])
    draws = {"num_draws": frame.setting.draws, "seed": frame.setting.seed}
    equal_accuracy, equal_recall = fair_hits(sizes[:, None], pooled, **draws), fair_hits(support, recalls, **draws)
    acc, tpr = ratio(equal_accuracy.sum(-1), sizes), np.where(frame.cells, ratio(equal_recall, support), np.nan)
    report = {
        "equal_accuracy": _report(acc, measured, frame),
        "equal_recall": _report(ratio(equal_recall.sum(-1), sizes), measured, frame),
    }
    p_spd = report["equal_accuracy"]["p_value"]
    # A fair total, and a fair worst group, are as high as the accuracy may be.
    best_total = ((data.rate(data.is_right)["high"] or 1.0) + 1) / 3
    best_group = data.rate(data.is_right, compared)["high"] or 1.0
    fair = {
        "score.spd": (0.0, p_spd),
        "score.fairness": (1.0, p_spd),
        "score.total_of_two_thirds": (best_total, p_spd),
        "fairness.spd_accuracy": (0.0, p_spd),
    }
    for name, parity, fair_value in (
        ("worst_group", fairness.worst_group(acc), best_group),
        ("u_l1", fairness.u_l1(acc, accuracy=ratio(equal_accuracy.sum((-2, -1)), sizes.sum())), 0.0),
        ("gap", fairness.gap(acc), 0.0),
        ("pqd", fairness.pqd(acc), 1.0),
        ("gap_mix_adjusted", fairness.gap_mix_adjusted(equal_recall, support, cells=frame.cells), 0.0),
        ("eom", fairness.mean_ratio(tpr), 1.0),
        ("equal_opportunity", fairness.equal_opportunity(tpr), 0.0),
    ):
        sign = -1 if fair_value else 1  # of accuracies and ratios the smaller is the less fair
        fair[f"fairness.{name}"] = fair_value, p_value(sign * measured[f"fairness.{name}"], sign * parity.overall)
    return Null(report, fair)


def _report(acc: np.ndarray, measured: dict[str, float], frame: Frame) -> dict[str, Any]:
    """What a results file says of the (B, compared) accuracies under a null."""
    spd = fairness.spd_accuracy(acc, reference=frame.compared.index(frame.reference)).overall
    gap, num_images = fairness.gap(acc).overall, int(frame.sizes[frame.compared].sum())
    return {
        "spd_accuracy": spread(spd, num_images),
        "fairness": spread(contest.fairness_score(spd, has_floor=frame.setting.profile.has_floor), num_images),
        "spd_above_chance": float(measured["score.spd"] - spd.mean()),
        "p_value": p_value(measured["score.spd"], spd),
        "gap": spread(gap, num_images),
        "gap_p_value": p_value(measured["fairness.gap"], gap),
    }


def _worth(data: Observations, frame: Frame) -> np.ndarray:
    """(compared,) float, 0 to 1: independent scored images per image of each compared group."""
    scored = contest.scored_sizes(frame.sizes, frame.setting.profile)
    worth = []
    for group in frame.compared:
        chosen = data.group == group
        n = int(frame.sizes[group])
        worth.append(effective_n(data.is_right[chosen], data.cluster[chosen]) / n * scored[group] / n if n else 0.0)
    return np.array(worth)
