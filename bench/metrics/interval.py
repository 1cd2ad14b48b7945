"""How sure a number is.

A proportion gets Wilson's interval, with as many samples as its clusters are worth. Everything else gets the interval
of a bootstrap (`bench.metrics.paired`). And because a measured gap between groups is never 0, not even for a perfectly
fair classifier, a gap is held against what such a classifier would show on as many images.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
DRAWS = 2000

_TAILS = ((1 - CONFIDENCE) / 2, 1 - (1 - CONFIDENCE) / 2)
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def wilson(successes: float, n: float) -> tuple[float, float] | None:
    """Interval of a proportion, without the trouble at 0 and 1 that value +- 2 sigma has.

    Takes the samples as independent: where several are of one patient, pass what `effective_n` gives for `n`, and the
    proportion of it for `successes`.

    Returns:
      (low, high), each 0 to 1; None when `n` is 0.

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
    cluster counts once.

    Args:
      is_right: (n,) bool.
      clusters: (n,) integer. Cluster of each sample.

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


def images_needed(p: float, half_width: float) -> int:
    """Independent samples for an interval of a proportion `p` +- `half_width`: z^2 p (1 - p) / half_width^2."""
    return math.ceil(_Z**2 * p * (1 - p) / half_width**2)


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
      lowest: Least possible value.
      highest: Largest possible value.

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


def spread(draws: np.ndarray, n: int) -> dict[str, float]:
    """Mean and central 95 % of a distribution, as a metric of `n` images."""
    low, high = np.quantile(draws, _TAILS).tolist()
    return {"value": float(draws.mean()), "low": low, "high": high, "n": n}


def fair_hits(support: np.ndarray, recalls: np.ndarray, *, num_draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(B, G, C) correct predictions of classifiers that are perfectly fair: only noise sets the groups apart.

    Args:
      support: (G, C) integer. Images, or what they are worth (`effective_n`), of each group and class.
      recalls: (C,) float, 0 to 1. True accuracy on each class, the same in every group. With one "class" for all
        images it is the null of equal accuracy; with the classes apart that of equal recall, where groups may still
        differ by their mix of classes.
      num_draws: B.
      seed: Of the draws.
    """
    return np.random.default_rng(seed).binomial(support, recalls, (num_draws, *support.shape))


def p_value(value: float, null: np.ndarray) -> float:
    """Probability of at least `value` under the null (B,): (1 + #{draws >= value}) / (B + 1), never 0.

    More means less fair.

    Source: Davison and Hinkley, Bootstrap methods and their application, 1997, equation 4.11.
    """
    return float(1 + (null >= value - 1e-12).sum()) / (len(null) + 1)
