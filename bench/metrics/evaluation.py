"""The scored samples as numbers, and every metric of them with its interval.

The bootstrap runs the function that computes the metrics themselves, on arrays of counts of many resampled data sets.
A gap between groups is held against the null of a perfectly fair classifier (`bench.metrics.interval`): where that
would show as much by chance (p >= 0.05), the fair value belongs to the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import contest, fairness
from .counts import NO_ANSWER, accuracies, accuracy, balanced_accuracy, hits, macro_f1
from .interval import CONFIDENCE, DRAWS, Null, bootstrap_interval, effective_n, wilson

Metric = dict[str, Any]
"""{value, low, high, n} as in a results file: None for what is not defined."""

_RANGES = {
    "score.fairness": (-np.inf, 1.0),  # from 0 where the profile has a floor
    "score.total_of_two_thirds": (-np.inf, 2 / 3),
    "fairness.u_l1": (0.0, np.inf),
    "fairness.spd_accuracy.by_group": (-1.0, 1.0),
    "fairness.gap_from_mix": (-1.0, 1.0),
}
"""Least and largest possible value where they are not 0 and 1."""


@dataclass(frozen=True)
class Setting:
    """What a result is computed with, besides the predictions."""

    profile: contest.Profile
    reference: str
    """Group that SPD compares against."""
    excluded: tuple[str, ...] = ()
    """Groups left out of parity metrics, besides `dataset.NOT_STATED`; their images count in every accuracy."""
    malignant: tuple[str, ...] = ()
    """Classes that must not be missed; none: no sensitivity."""
    draws: int = DRAWS
    """Of the bootstrap and of the null."""
    seed: int = 0
    """Of the bootstrap, of the null, and of the shuffles of a profile that drops images."""


@dataclass(frozen=True)
class Observations:
    """The samples as numbers, each array (N,) int64."""

    classes: list[str]
    groups: list[str]
    """Sorted; the reference is there even where none of its images is scored."""
    y_true: np.ndarray
    y_pred: np.ndarray
    """-1 for no answer."""
    group: np.ndarray
    """Index into `groups`."""
    cluster: np.ndarray
    """0 to M - 1."""

    @classmethod
    def of(
        cls, labels: Sequence[str], answers: Sequence[str | None], groups: Sequence[str], clusters: Sequence[str],
        *, classes: list[str], reference: str,
    ) -> Observations:
        """From parallel sequences of names; an answer of None is no answer."""
        names = sorted({*groups, reference})
        index: dict[str | None, int] = {name: i for i, name in enumerate(classes)} | {None: NO_ANSWER}
        group_index = {name: i for i, name in enumerate(names)}
        cluster_index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
        columns = (
            [index[label] for label in labels],
            [index[answer] for answer in answers],
            [group_index[name] for name in groups],
            [cluster_index[name] for name in clusters],
        )
        return cls(classes, names, *(np.array(column, np.int64) for column in columns))

    @cached_property
    def is_right(self) -> np.ndarray:
        """(N,) bool."""
        return np.asarray(self.y_true == self.y_pred)

    @cached_property
    def cells(self) -> np.ndarray:
        """(N,) int64. Index of each sample's cell in the flattened `counts`."""
        num_classes = len(self.classes)
        answer = np.where(self.y_pred == NO_ANSWER, num_classes, self.y_pred)
        return np.asarray((self.group * num_classes + self.y_true) * (num_classes + 1) + answer)

    @cached_property
    def counts(self) -> np.ndarray:
        """(G, C, C + 1) int64. See `bench.metrics.counts`."""
        shape = (len(self.groups), len(self.classes), len(self.classes) + 1)
        return np.bincount(self.cells, minlength=int(np.prod(shape))).astype(np.int64).reshape(shape)

    def rate(self, is_right: np.ndarray, chosen: np.ndarray | slice = slice(None)) -> Metric:
        """A proportion with Wilson's interval: is_right (N,) bool, of the chosen (N,) bool."""
        right, cluster = is_right[chosen], self.cluster[chosen]
        n, successes = len(right), int(right.sum())
        worth = n if self.has_single_clusters else effective_n(right, cluster)
        interval = wilson(successes if worth == n else successes / n * worth, worth)
        return as_metric(successes / n if n else np.nan, interval, n)

    @property
    def num_clusters(self) -> int:
        """M."""
        return int(self.cluster.max(initial=-1)) + 1

    @property
    def has_single_clusters(self) -> bool:
        """Whether every cluster is one image."""
        return self.num_clusters == len(self.cluster)


class Frame:
    """Every metric that has no interval of its own, on the observed counts or on those of a bootstrap.

    One function for both, so that an interval is of the very number it stands beside.
    """

    def __init__(self, observed: np.ndarray, groups: Sequence[str], setting: Setting) -> None:
        """Fixes what must be the same in every draw: which groups are compared, and which cells count."""
        self.setting = setting
        self.excluded = contest.left_out(groups, setting.excluded)
        self.compared = [i for i, name in enumerate(groups) if name not in self.excluded]
        self.names = [groups[i] for i in self.compared]
        self.reference = groups.index(setting.reference)
        self.support = observed.sum(-1)[self.compared]  # (compared, C)
        self.cells = self.support >= fairness.MIN_CELL
        self.sizes = observed.sum((-2, -1))  # (G,)
        self.has_large_groups = bool((self.sizes[self.compared] >= fairness.MIN_CELL).all())
        self._rng = np.random.default_rng(setting.seed)

    def parts_of_data(self, data: Observations) -> contest.Parts:
        """The contest's parts of the data itself; a profile that drops images shuffles each group by the seed.

        Raises:
          EdgeError: a compared group too small for the profile.
        """
        profile = self.setting.profile
        contest.check_sizes(self.sizes[self.compared].tolist(), self.names, profile)
        rng = np.random.default_rng(self.setting.seed)
        right = [data.is_right[data.group == index] for index in range(len(data.groups))]
        orders = [rng.permutation(len(group)) for group in right]
        return self._parts(contest.kept_hits(right, orders, profile), self.sizes)

    def _parts(self, kept_hits: np.ndarray, sizes: np.ndarray) -> contest.Parts:
        """Of (..., G) hits among the images that the profile scores of (..., G) images."""
        profile, scored = self.setting.profile, contest.scored_sizes(sizes, self.setting.profile)
        return contest.parts(kept_hits, scored, reference=self.reference, compared=self.compared, profile=profile)

    def parities(self, counts: np.ndarray, names: Collection[str] | None = None) -> dict[str, fairness.Parity]:
        """The parity metrics of the compared groups; `names`: these, default: all."""
        reference = self.compared.index(self.reference)
        return fairness.parity(counts[..., self.compared, :, :], reference=reference, cells=self.cells, names=names)

    def statistics(
        self, counts: np.ndarray, parts: contest.Parts | None = None, names: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Name -> (...), or (..., G) of all groups or of those compared.

        Args:
          counts: (..., G, C, C + 1) integer. Of the data, or of draws.
          parts: The contest's; default: those of draws, where a profile that drops images drops anew for each.
          names: These, and what they are made of; default: all, which on many draws takes its time.
        """
        if parts is None:
            right, sizes = hits(counts).sum(-1), counts.sum((-2, -1))
            parts = self._parts(contest.drawn_hits(right, sizes, self.setting.profile, self._rng), sizes)
        own, pooled = parts, counts.sum(-3)
        metrics: dict[str, Callable[[], np.ndarray]] = {
            "accuracy": lambda: accuracy(counts),
            "by_group.accuracy": lambda: accuracies(counts),
            "balanced_accuracy": lambda: balanced_accuracy(pooled),
            "macro_f1": lambda: macro_f1(pooled),
            "by_group.balanced_accuracy": lambda: balanced_accuracy(counts),
            "by_group.macro_f1": lambda: macro_f1(counts),
            "score.accuracy": lambda: own.accuracy,
            "score.spd": lambda: own.spd,
            "score.fairness": lambda: own.fairness,
            "score.total_of_two_thirds": lambda: own.two_thirds,
        }
        found = {name: metric() for name, metric in metrics.items() if names is None or name in names}
        wanted = None if names is None else {name.split(".")[1] for name in names if name.startswith("fairness.")}
        if wanted is not None and "gap_from_mix" in wanted:
            wanted |= {"gap", "gap_mix_adjusted"}
        for name, parity in self.parities(counts, wanted).items():
            found |= {f"fairness.{name}": parity.overall, f"fairness.{name}.by_group": parity.by_group}
        if wanted is None or "gap_from_mix" in wanted:
            found["fairness.gap_from_mix"] = found["fairness.gap"] - found["fairness.gap_mix_adjusted"]
        return found


class Intervals:
    """Metrics as they stand in a results file."""

    def __init__(
        self, frame: Frame, values: dict[str, np.ndarray], draws: dict[str, np.ndarray], null: Null | None
    ) -> None:
        """Takes name -> (...) the metrics of the data, and name -> (B, ...) those of resampled data sets."""
        self._frame, self._values, self._draws = frame, values, draws
        self._fair = {} if null is None else null.fair

    def metric(self, name: str) -> Metric:
        """A metric by its name in `Frame.statistics`; no interval where it compares a group of a few images."""
        frame = self._frame
        sizes = contest.scored_sizes(frame.sizes, frame.setting.profile) if name.startswith("score.") else frame.sizes
        if name.startswith("fairness.") or name in ("score.spd", "score.fairness"):
            sizes = sizes[frame.compared]
        n = int(sizes.sum())
        is_known = n >= fairness.MIN_CELL and (frame.has_large_groups or not is_parity(name))
        metric = self._metric(name, self._values[name], self._draws[name], n, is_known=is_known)
        fair, p = self._fair.get(name, (0.0, 0.0))
        if metric["low"] is not None and p >= 1 - CONFIDENCE:
            metric |= {"low": min(metric["low"], fair), "high": max(metric["high"], fair)}
        return metric

    def of_group(self, name: str, group: int) -> Metric:
        """One group of a metric that has one value per group, by the group's index in the data."""
        frame = self._frame
        position = group if name.startswith("by_group.") else frame.compared.index(group)
        needed = [group, frame.reference] if name == "fairness.spd_accuracy.by_group" else [group]
        is_known = bool((frame.sizes[needed] >= fairness.MIN_CELL).all())
        value, draws = self._values[name][position], self._draws[name][:, position]
        return self._metric(name, value, draws, int(frame.sizes[group]), is_known=is_known)

    def by_group(self, name: str) -> dict[str, Metric]:
        """All compared groups of a metric that has one value per group."""
        frame = self._frame
        return {text: self.of_group(name, group) for text, group in zip(frame.names, frame.compared, strict=True)}

    def _metric(self, name: str, value: np.ndarray, draws: np.ndarray, n: int, *, is_known: bool) -> Metric:
        if not is_known:  # a few images hardly differ from draw to draw
            return as_metric(float(value), None, n)
        lowest, highest = _RANGES.get(name, (0.0, 1.0))
        if name == "score.fairness" and self._frame.setting.profile.has_floor:
            lowest = 0.0
        return as_metric(float(value), bootstrap_interval(float(value), draws, lowest=lowest, highest=highest), n)


def is_parity(name: str) -> bool:
    """Whether a metric, by its name in `Frame.statistics`, compares groups."""
    return name.startswith(("fairness.", "score.")) and name != "score.accuracy"


def as_metric(value: float, interval: tuple[float, float] | None, n: int) -> Metric:
    """A value, NaN where it is not defined, and its interval, as they stand in a results file."""
    low, high = interval or (None, None)
    return {"value": None if np.isnan(value) else value, "low": low, "high": high, "n": n}
