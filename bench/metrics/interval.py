"""How sure a number is.

A proportion gets Wilson's interval, with as many samples as its clusters are worth. Everything else gets the interval
of a bootstrap (`bench.metrics.paired`). And because a measured gap between groups is never 0, not even for a perfectly
fair classifier, a gap is held against what such a classifier would show on as many images.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import contest, fairness
from .counts import ratio

if TYPE_CHECKING:
    from .evaluation import Frame, Observations

CONFIDENCE = 0.95
DRAWS = 2000

_TAILS = ((1 - CONFIDENCE) / 2, 1 - (1 - CONFIDENCE) / 2)
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def wilson(successes: float, n: float) -> tuple[float, float] | None:
    """(low, high) of a proportion, each 0 to 1, None when `n` is 0; without the trouble at 0 and 1 of +- 2 sigma.

    Takes the samples as independent: where several are of one patient, pass what `effective_n` gives for `n`, and the
    proportion of it for `successes`.

    Raises:
      ValueError: fewer successes than 0, or more than `n`.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes of n: got {successes} of {n}, expected 0 <= successes <= n")
    if n == 0:
        return None
    p = successes / n
    centre = (p + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z / (1 + _Z * _Z / n) * math.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n))
    # At the ends the formula gives exactly 0 and 1; in floating point it misses them by 1e-17.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def effective_n(is_right: np.ndarray, clusters: np.ndarray) -> float:
    """How many independent samples say as much about a proportion as these do: n / design effect, at most n.

    Photos of one patient repeat each other. The design effect is the variance of the proportion with clusters as the
    units, divided by the variance with independent samples. Where all or none are right it cannot be seen, and each
    cluster counts once. `is_right` is (n,) bool, `clusters` (n,) integer.

    Source: Kish, Survey sampling, 1965; used with Wilson's interval by Dean and Pagano, Evaluating confidence interval
    methods for binomial proportions in clustered surveys, 2015.
    """
    n = len(is_right)
    _, cluster, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    num_clusters = len(sizes)
    if num_clusters == n:
        return float(n)
    p = is_right.mean()
    if num_clusters == 1 or p in (0, 1):
        return float(num_clusters)
    residuals = np.bincount(cluster, is_right, num_clusters) - p * sizes
    variance = num_clusters / (num_clusters - 1) * (residuals**2).sum() / n**2
    return float(min(n, p * (1 - p) / variance)) if variance else float(n)


def bootstrap_interval(
    value: float, draws: np.ndarray, *, lowest: float = -math.inf, highest: float = math.inf
) -> tuple[float, float] | None:
    """Percentile interval of a bootstrap, shifted by its bias.

    A gap between groups is larger in resampled data than in the data, as it is larger in the data than in truth,
    because noise only ever adds to it: the plain percentile interval of a gap lies too high and misses the truth most
    of the time. The shift, by the mean of the draws minus the value, is 0 for a mean or an accuracy.

    Args:
      value: The metric on the data.
      draws: (B,) float. The metric on each resampled data set, NaN where it is not defined.
      lowest, highest: Ends of what is possible.

    Returns:
      (low, high) with low <= value <= high; None when the value, or more than 5 % of the draws, are not defined.

    Source: Efron and Tibshirani, An introduction to the bootstrap, 1993, chapters 10 (bias) and 13 (percentiles).
    Differs: shifted once by the bias, not mirrored (the "basic" interval); in simulation the shift covers a planted
    gap nearest to the nominal rate.
    """
    defined = draws[~np.isnan(draws)]
    if math.isnan(value) or len(defined) < 0.95 * len(draws) or not len(defined):
        return None
    bias = float(defined.mean()) - value
    low, high = (float(end) - bias for end in np.quantile(defined, _TAILS))
    return max(lowest, min(low, value)), min(highest, max(high, value))


# The null of perfect fairness


def spread(draws: np.ndarray, n: int) -> dict[str, float]:
    """Mean and central 95 % of a distribution, as a metric of `n` images."""
    low, high = np.quantile(draws, _TAILS).tolist()
    return {"value": float(draws.mean()), "low": low, "high": high, "n": n}


def p_value(value: float, null: np.ndarray) -> float:
    """Probability of at least `value` under the null (B,): (1 + #{draws >= value}) / (B + 1), never 0.

    More means less fair.

    Source: Davison and Hinkley, Bootstrap methods and their application, 1997, equation 4.11.
    """
    return float(1 + (null >= value - 1e-12).sum()) / (len(null) + 1)


class Null(NamedTuple):
    """What perfectly fair classifiers would show on as many images."""

    report: dict[str, Any]
    """By null, `equal_accuracy` and `equal_recall`: SPD, fairness and gap they give, p-values of the measured ones."""
    fair: dict[str, tuple[float, float]]
    """Of metrics that compare accuracies or recalls: the fair value, and the p-value against their null."""


def null_of(data: Observations, frame: Frame, values: dict[str, np.ndarray]) -> Null | None:
    """The two nulls of fairness, where only noise sets the groups apart; None where the SPD is not defined.

    `equal_accuracy` gives every group the pooled accuracy. `equal_recall` gives every group the pooled recall of each
    class: groups that have more of the difficult classes then fare worse with a classifier that treats all alike. In
    both an image counts as much as it is worth (`effective_n`).
    """
    measured = {name: float(value) for name, value in values.items() if value.ndim == 0}
    if np.isnan(measured["score.spd"]):
        return None
    support = np.rint(frame.support * _worth(data, frame)[:, None]).astype(np.int64)
    support = np.maximum(support, frame.support > 0)  # no cell is rounded away
    sizes, compared = support.sum(-1), np.isin(data.group, frame.compared)
    hits = np.bincount(data.y_true[compared & data.is_right], minlength=len(data.classes))
    recalls = np.nan_to_num(ratio(hits, frame.support.sum(0)))

    def drawn(images: np.ndarray, p: np.ndarray) -> np.ndarray:  # (B, ...) correct predictions
        rng = np.random.default_rng(frame.setting.seed)
        return rng.binomial(images, p, (frame.setting.draws, *images.shape))

    equal_accuracy, equal_recall = drawn(sizes, data.is_right[compared].mean()), drawn(support, recalls)
    acc, tpr = ratio(equal_accuracy, sizes), np.where(frame.cells, ratio(equal_recall, support), np.nan)
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
        ("u_l1", fairness.u_l1(acc, accuracy=ratio(equal_accuracy.sum(-1), sizes.sum())), 0.0),
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
