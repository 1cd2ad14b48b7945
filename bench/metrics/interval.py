"""How sure a number is.

Three tools. A proportion gets Wilson's interval, with as many samples as its clusters are worth. Everything else gets
a bootstrap over clusters, stratified by group. And because a measured gap between groups is never 0, not even for a
perfectly fair classifier, a gap is held against what such a classifier would show on as many images.

The bootstrap is done on counts. Clusters that look alike (same images per group, class and prediction) are drawn
together by one multinomial, which is the same distribution as drawing them one by one: a million single images cost no
more than ten thousand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
DRAWS = 2000

_CHUNK = 1 << 22  # numbers held at once by a bootstrap: 32 MB
_DRAWN = 1 << 18  # clusters drawn at once: more than the caches hold is slower


def wilson(successes: float, n: float, *, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Interval of a proportion, without the trouble at 0 and 1 that value +- 2 sigma has.

    Takes the samples as independent: where several are of one patient, pass what `effective_n` gives for `n`, and the
    proportion of it for `successes`.

    Args:
      successes: 0 to `n`.
      n: Number of samples, not negative.
      confidence: Probability that the interval covers the true proportion, above 0 and below 1.

    Returns:
      (low, high), each 0 to 1; None when `n` is 0.

    Raises:
      ValueError: an argument out of range.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes of n: got {successes} of {n}, expected 0 <= successes <= n")
    z = _z(confidence)
    if n == 0:
        return None
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the formula gives exactly 0 and 1; in floating point it misses them by 1e-17.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


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


def images_needed(p: float, half_width: float, *, confidence: float = CONFIDENCE) -> int:
    """Independent samples for an interval of `p` +- `half_width`: z^2 p (1 - p) / half_width^2.

    Args:
      p: 0 to 1. Expected proportion.
      half_width: Above 0.
      confidence: As for `wilson`.
    """
    return math.ceil(_z(confidence) ** 2 * p * (1 - p) / half_width**2)


@dataclass(frozen=True)
class Bootstrap:
    """Data sets as they could have been: clusters drawn with replacement, each group as many as it has.

    A cluster that spans groups is drawn whole, with those of the group that most of its images are in.
    """

    cells: np.ndarray
    """(K,) integer, increasing. The cells that occur."""
    strata: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    """Per group: which of the K cells it has (k,), how many clusters look alike (P,), and what they hold (P, k)."""

    @classmethod
    def of(cls, cells: np.ndarray, *, clusters: np.ndarray, sensitive_features: np.ndarray) -> Bootstrap:
        """From one row per image.

        Args:
          cells: (N,) integer. The cell of each image: whatever the metrics count, with the group as a part of it.
          clusters: (N,) integer, 0 to M - 1. Cluster of each image.
          sensitive_features: (N,) integer, 0 to G - 1. Group of each image.
        """
        occurring, cell = np.unique(cells, return_inverse=True)
        num_clusters = int(clusters.max()) + 1 if len(clusters) else 0
        num_groups = int(sensitive_features.max()) + 1 if len(clusters) else 0
        shares = np.bincount(clusters * num_groups + sensitive_features, minlength=num_clusters * num_groups)
        stratum = shares.reshape(num_clusters, num_groups).argmax(-1) if num_groups else np.zeros(0, np.int64)
        # Two clusters look alike when the sums of one random number per cell agree: 64 bits, so a million clusters
        # are confused with a probability of 1e-7.
        marks = np.random.default_rng(0).integers(0, 1 << 64, len(occurring), np.uint64)
        order = np.argsort(clusters, kind="stable")
        starts = np.searchsorted(clusters[order], np.arange(num_clusters))
        looks = np.add.reduceat(marks[cell[order]], starts) if num_clusters else marks
        strata = []
        for group in range(num_groups):
            members = np.flatnonzero(stratum == group)
            if not len(members):
                continue
            _, first, alike = np.unique(looks[members], return_index=True, return_counts=True)
            row_of = np.full(num_clusters, -1)
            row_of[members[first]] = np.arange(len(first))
            row = row_of[clusters]
            used, column = np.unique(cell[row >= 0], return_inverse=True)
            holds = np.zeros((len(first), len(used)), np.float32)  # exact up to 16,777,216 images of a kind
            np.add.at(holds, (row[row >= 0], column), 1)
            strata.append((used, alike, holds))
        return cls(occurring, strata)

    def draw(self, num_draws: int = DRAWS, *, seed: int = 0, width: int = 0) -> Iterator[np.ndarray]:
        """Yields (b, K) float64 counts of the cells, in chunks that make up (num_draws, K).

        Args:
          num_draws: B.
          seed: Of all draws; the chunks do not depend on what is done with them.
          width: Numbers that the caller makes of one draw, if more than K; it makes the chunks smaller.
        """
        rng = np.random.default_rng(seed)
        largest = max([width, len(self.cells), *(len(alike) for _, alike, _ in self.strata), 1])
        chunk = max(1, _CHUNK // largest)
        for start in range(0, num_draws, chunk):
            counts = np.zeros((min(chunk, num_draws - start), len(self.cells)))
            for used, alike, holds in self.strata:
                counts[:, used] += _times_drawn(rng, alike, len(counts)) @ holds
            yield counts


def bootstrap_interval(
    value: float, draws: np.ndarray, *, lowest: float = -math.inf, highest: float = math.inf,
    confidence: float = CONFIDENCE,
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
      confidence: As for `wilson`.

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
    tail = (1 - confidence) / 2
    low, high = (float(end) - bias for end in np.quantile(defined, (tail, 1 - tail)))
    return max(lowest, min(low, value)), min(highest, max(high, value))


def fair_hits(support: np.ndarray, recalls: np.ndarray, *, num_draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(B, G, C) correct predictions of classifiers that are perfectly fair: noise alone sets the groups apart.

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
    """Probability of at least `value` under the null: (1 + #{draws >= value}) / (B + 1), never 0.

    Args:
      value: The metric on the data; more means less fair.
      null: (B,) float. The metric under the null.

    Source: Davison and Hinkley, Bootstrap methods and their application, 1997, equation 4.11.
    """
    return float(1 + (null >= value - 1e-12).sum()) / (len(null) + 1)


def _times_drawn(rng: np.random.Generator, alike: np.ndarray, num_draws: int) -> np.ndarray:
    """(num_draws, P) float32: how often each kind of cluster is drawn when as many are drawn as there are."""
    num_clusters = int(alike.sum())
    # The multinomial costs about 20 times more per kind than drawing one cluster does.
    if 20 * len(alike) < num_clusters:
        return rng.multinomial(num_clusters, alike / num_clusters, num_draws).astype(np.float32)
    kind = np.repeat(np.arange(len(alike)), alike)
    times = np.empty((num_draws, len(alike)), np.float32)
    step = max(1, _DRAWN // num_clusters)
    for start in range(0, num_draws, step):
        rows = times[start : start + step]
        drawn = kind[rng.integers(0, num_clusters, (len(rows), num_clusters))]
        drawn += np.arange(len(rows))[:, None] * len(alike)
        rows[:] = np.bincount(drawn.ravel(), minlength=rows.size).reshape(rows.shape)
    return times


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: got {confidence}, expected more than 0 and less than 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)
