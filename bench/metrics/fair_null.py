"""What perfectly fair classifiers would show on as many images: noise alone sets groups apart, too."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import contest, fairness
from .counts import ratio
from .evaluation import Frame, Metric, Null, Observations
from .interval import CONFIDENCE, effective_n, fair_hits, p_value


def null_of(data: Observations, frame: Frame, values: dict[str, np.ndarray]) -> Null | None:
    """The two nulls of fairness; None where the SPD is not defined.

    `equal_accuracy` gives every group the pooled accuracy. `equal_recall` gives every group the pooled recall of each
    class: groups that have more of the difficult classes then fare worse with a classifier that treats all alike.
    """
    setting, profile = frame.setting, frame.setting.profile
    if np.isnan(values["score.spd"]):
        return None
    is_right = data.is_right
    support = np.rint(frame.support * _worth(data, frame, is_right)[:, None]).astype(np.int64)
    support = np.maximum(support, frame.support > 0)  # no cell is rounded away
    compared = np.isin(data.group, frame.compared)
    hits = np.bincount(data.y_true[compared & is_right], minlength=len(data.classes))
    recalls = np.nan_to_num(ratio(hits, frame.support.sum(0)))
    sizes = support.sum(-1)
    equal_accuracy = fair_hits(
        sizes[:, None], np.array([is_right[compared].mean()]), num_draws=setting.draws, seed=setting.seed
    )
    equal_recall = fair_hits(support, recalls, num_draws=setting.draws, seed=setting.seed)
    reference = frame.compared.index(frame.reference)
    num_images = int(frame.sizes[frame.compared].sum())
    report: dict[str, Any] = {}
    for name, drawn in (("equal_accuracy", equal_accuracy), ("equal_recall", equal_recall)):
        acc = ratio(drawn.sum(-1), sizes)  # (B, compared)
        spd, gap = fairness.spd_accuracy(acc, reference=reference).overall, fairness.gap(acc).overall
        report[name] = {
            "spd_accuracy": _spread(spd, num_images),
            "fairness": _spread(contest.fairness_score(spd, has_floor=profile.has_floor), num_images),
            "spd_above_chance": float(values["score.spd"] - spd.mean()),
            "p_value": p_value(float(values["score.spd"]), spd),
            "gap": _spread(gap, num_images),
            "gap_p_value": p_value(float(values["fairness.gap"]), gap),
        }
    acc_g = ratio(equal_accuracy.sum(-1), sizes)  # (B, compared)
    found = np.where(frame.cells, ratio(equal_recall, support), np.nan)  # (B, compared, C)
    nulls = {
        "fairness.u_l1": fairness.u_l1(acc_g, accuracy=ratio(equal_accuracy.sum((-2, -1)), sizes.sum())),
        "fairness.gap": fairness.gap(acc_g),
        "fairness.pqd": fairness.pqd(acc_g),
        "fairness.gap_mix_adjusted": fairness.gap_mix_adjusted(equal_recall, support, cells=frame.cells),
        "fairness.eom": fairness.eom(found),
        "fairness.equal_opportunity": fairness.equal_opportunity(found),
    }
    p_spd = report["equal_accuracy"]["p_value"]
    # A fair total, and a fair worst group, are as high as the accuracy may be.
    best_total = ((data.rate(is_right)["high"] or 1.0) + 1) / 3
    best_group = data.rate(is_right, compared)["high"] or 1.0
    p_worst = p_value(-float(values["fairness.worst_group"]), -fairness.worst_group(acc_g).overall)
    fair = {
        "score.spd": (0.0, p_spd),
        "score.fairness": (1.0, p_spd),
        "score.total_of_two_thirds": (best_total, p_spd),
        "fairness.spd_accuracy": (0.0, p_spd),
        "fairness.worst_group": (best_group, p_worst),
    }
    for name, parity in nulls.items():
        is_ratio = name in ("fairness.pqd", "fairness.eom")
        sign = -1 if is_ratio else 1  # of two ratios the smaller is the less fair
        fair[name] = (float(is_ratio), p_value(sign * float(values[name]), sign * parity.overall))
    return Null(report, fair)


def _worth(data: Observations, frame: Frame, is_right: np.ndarray) -> np.ndarray:
    """(compared,) float, 0 to 1: independent scored images per image of each compared group."""
    scored = contest.scored_sizes(frame.sizes, frame.setting.profile)
    worth = []
    for group in frame.compared:
        chosen = data.group == group
        n = int(frame.sizes[group])
        whole = n if data.has_single_clusters else effective_n(is_right[chosen], data.cluster[chosen])
        worth.append(whole / n * scored[group] / n if n else 0.0)
    return np.array(worth)


def _spread(draws: np.ndarray, n: int) -> Metric:
    """Mean and central 95 % of a null distribution."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, (tail, 1 - tail)).tolist()
    return {"value": float(draws.mean()), "low": low, "high": high, "n": n}
