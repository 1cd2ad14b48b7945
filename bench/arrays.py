"""Accuracy, fairness and the contest's score of labels in arrays: the Python interface of `edge-bench score`.

    from bench import evaluate

    report = evaluate(y_true, y_pred, sensitive_features=skin_tone, cluster=patient)
    print(report)                       # a table with intervals; in a notebook too
    report.overall["accuracy"], report.intervals["accuracy"], report.by_group["V-VI"]["accuracy"]

The arguments are those of fairlearn and scikit-learn: arrays, lists or columns of pandas, one entry an image. The
figures are those of `edge-bench score` on the same images, to the last bit.
"""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from edge.predictions import Prediction

from .dataset import MALIGNANT, NOT_STATED, ONE_GROUP, Sample, plain_name
from .metrics import contest
from .metrics.evaluation import Frame, Observations, Setting
from .metrics.interval import DRAWS
from .results import build
from .results import compare as comparison
from .results import text
from .results.document import SCHEMA

_OF_SCORE = ("spd", "fairness", "total_of_two_thirds")
_OF_FAIRNESS = ("worst_group", "gap", "pqd", "dpm", "eom", "u_l1", "equal_opportunity", "equalized_odds")
_OF_GROUP = ("accuracy", "balanced_accuracy", "macro_f1")


@dataclass(frozen=True, repr=False)
class _Found:
    """What was found."""

    result: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The results file (`edge-bench/1`), ready for `json.dump`."""
        return self.result

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


class Evaluation(_Found):
    """What `evaluate` found; printed, it is the table of `edge-bench score`."""

    def __repr__(self) -> str:
        return "\n".join(text.table(self.result))

    @property
    def overall(self) -> dict[str, float | None]:
        """Metric -> value, 0 to 1; None where it is not defined."""
        return {name: metric["value"] for name, metric in self._metrics().items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """Metric -> the ends of its 95 % interval; None where there is none."""
        return {name: _ends(metric) for name, metric in self._metrics().items()}

    @property
    def by_group(self) -> dict[str, dict[str, float | None]]:
        """Group -> accuracy, balanced accuracy and macro F1 of its images."""
        return {
            group: {name: metrics[name]["value"] for name in _OF_GROUP}
            for group, metrics in self.result["by_group"].items()
        }

    @property
    def warnings(self) -> list[str]:
        """What a reader should know before believing a gap, one line each."""
        return list(self.result["warnings"])

    def _metrics(self) -> dict[str, dict[str, Any]]:
        parts = ((self.result, _OF_GROUP), (self.result["score"], _OF_SCORE), (self.result["fairness"], _OF_FAIRNESS))
        return {name: part[name] for part, names in parts for name in names}


class Comparison(_Found):
    """What `compare` found; printed, it is the table of `edge-bench compare`."""

    def __repr__(self) -> str:
        return "\n".join([*comparison.table(self.result), comparison.conclusion(self.result)])

    @property
    def differences(self) -> dict[str, float | None]:
        """Metric -> B minus A."""
        return {name: entry["difference"]["value"] for name, entry in self.result["metrics"].items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """Metric -> the ends of the paired 95 % interval of the difference; None where there is none."""
        return {name: _ends(entry["difference"]) for name, entry in self.result["metrics"].items()}

    @property
    def verdicts(self) -> dict[str, str]:
        """Metric -> "B better", "B worse", "no difference shown", or why nothing can be said."""
        return {name: entry["verdict"] for name, entry in self.result["metrics"].items()}


class ContestScore(NamedTuple):
    """The contest's score and its thirds, each 0 to 1; None where it is not defined."""

    accuracy: float
    fairness: float | None
    latency: float | None
    total: float | None


def evaluate(
    y_true: Any, y_pred: Any, *, sensitive_features: Any = None, cluster: Any = None, y_prob: Any = None,
    classes: Sequence[Any] | None = None, malignant: Collection[Any] | None = None, profile: str = contest.DEFAULT,
    reference: str | None = None, draws: int = DRAWS, seed: int = 0,
) -> Evaluation:
    """Measures predictions: accuracy, every parity metric, the contest's parts, with 95 % intervals.

    Args:
      y_true: (N,) labels, text or integers.
      y_pred: (N,) predicted labels; None or NaN for no answer, which counts as wrong.
      sensitive_features: (N,) group of each image, whose accuracies are compared; None or NaN: not stated. Without
        it nothing is compared.
      cluster: (N,) patient or lesion of each image: intervals are over clusters. Default: each image its own.
      y_prob: (N, C) probabilities in the order of `classes`: adds the calibration.
      classes: The C labels in the order of `y_prob`. Default: all labels, sorted.
      malignant: The labels that must not be missed, for sensitivity and specificity. Default: those with the name of
        a malignant disease.
      profile: Reading of the contest's rules, a key of `bench.metrics.contest.PROFILES`.
      reference: Group that the contest's SPD compares against. Default: the contest's own, else the smallest.
      draws, seed: Of the bootstrap.

    Raises:
      ValueError: arrays of different lengths, no images, a label that is not in `classes`, an unknown profile.
      EdgeError: a reference that is no group.
    """
    columns = _columns(y_true, y_pred, sensitive_features, cluster, classes)
    if malignant is None:
        known = tuple(name for name in columns.classes if plain_name(name) in MALIGNANT)
    else:
        known = tuple(str(name) for name in malignant if str(name) in columns.classes)
    setting = _setting(columns, profile, reference, malignant=known, draws=draws, seed=seed)
    rows: Sequence[np.ndarray | None] = [None] * len(columns.labels)
    if y_prob is not None:
        rows = list(_probabilities(y_prob, columns))
    pairs = []
    for i, (label, answer, group, own, row) in enumerate(zip(*columns[:4], rows, strict=True)):
        index = None if answer is None else columns.classes.index(answer)
        status = "error" if answer is None else "ok"
        prediction = Prediction(str(i), answer or "", index, status=status, probabilities=row)
        pairs.append((Sample(str(i), label, group, own), prediction))
    names = {"name": "arrays", "label_column": "y_true", "group_column": "sensitive_features", "split": None}
    return Evaluation({
        "schema": SCHEMA,
        "data": {**names, "samples": len(pairs), "left_out": 0},
        "predictions": {"classes": columns.classes},
        "errors": {"policy": "wrong", "images": columns.answers.count(None)},
        **build.metrics(pairs, columns.classes, setting),
        "groupings": {},
        "gates": [],
    })


def contest_score(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, seconds_per_100: float | None = None,
    profile: str = contest.DEFAULT, reference: str | None = None, seed: int = 0,
) -> ContestScore:
    """The contest's score: (accuracy + fairness + latency) / 3. Without intervals, so in no time.

    Args:
      y_true, y_pred, sensitive_features, profile, reference: As `evaluate` takes them.
      seconds_per_100: Latency of 100 images on the contest's board; None: no latency and no total.
      seed: Of the shuffles of a profile that drops images.

    Raises:
      ValueError: as `evaluate`, or a latency that is not a number from 0.
      EdgeError: a reference that is no group, or a group too small for the profile.
    """
    if seconds_per_100 is not None and not 0 <= seconds_per_100 < math.inf:
        raise ValueError(f"seconds_per_100: got {seconds_per_100}, expected a number from 0")
    columns = _columns(y_true, y_pred, sensitive_features, None, None)
    setting = _setting(columns, profile, reference, seed=seed)
    data = Observations.of(*columns[:4], classes=columns.classes, reference=setting.reference)
    parts = Frame(data.counts, data.groups, setting).parts_of_data(data)
    accuracy, fairness = float(parts.accuracy), None if np.isnan(parts.fairness) else float(parts.fairness)
    latency = None if seconds_per_100 is None else contest.latency_score(seconds_per_100)
    total = None if fairness is None or latency is None else (accuracy + fairness + latency) / 3
    return ContestScore(accuracy, fairness, latency, total)


def compare(a: Evaluation, b: Evaluation, *, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """B minus A on the same images, metric by metric, with paired intervals.

    Raises:
      EdgeError: other images, labels, groups, clusters or another profile.
    """
    return Comparison(comparison.compare(a.result, b.result, draws=draws, seed=seed))


class _Columns(NamedTuple):
    """The arrays as texts, and the classes."""

    labels: list[str]
    answers: list[str | None]
    groups: list[str]
    clusters: list[str]
    classes: list[str]


def _columns(
    y_true: Any, y_pred: Any, sensitive_features: Any, cluster: Any, classes: Sequence[Any] | None
) -> _Columns:
    truth, answers = _texts(y_true, "y_true"), _texts(y_pred, "y_pred")
    n = len(truth)
    if not n:
        raise ValueError("y_true: got no image, expected at least one")
    labels = [label for label in truth if label is not None]
    if len(labels) < n:
        raise ValueError(f"y_true: got no label at position {truth.index(None)}, expected one for each image")
    groups = [ONE_GROUP] * n if sensitive_features is None else _texts(sensitive_features, "sensitive_features")
    clusters = list(map(str, range(n))) if cluster is None else _texts(cluster, "cluster")
    for name, column in (("y_pred", answers), ("sensitive_features", groups), ("cluster", clusters)):
        if len(column) != n:
            raise ValueError(f"{name}: got {len(column)} entries, expected {n}, as y_true has")
    found = {*labels, *(answer for answer in answers if answer is not None)}
    known = _in_order(found) if classes is None else [str(name) for name in classes]
    if unknown := sorted(found - {*known}):
        raise ValueError(f"got the label {unknown[0]!r}, expected one of classes: {', '.join(known)}")
    return _Columns(
        labels,
        answers,
        [NOT_STATED if group is None else group for group in groups],
        [f"image {i}" if own is None else own for i, own in enumerate(clusters)],  # unknown: a cluster of its own
        known,
    )


def _texts(column: Any, name: str) -> list[str | None]:
    """The entries of an array, list or pandas column as text; None for what is missing."""
    values = np.asarray(column, dtype=object)
    if values.ndim != 1:
        raise ValueError(f"{name}: got shape {values.shape}, expected (N,)")
    return [_text(value) for value in values.tolist()]


def _text(value: Any) -> str | None:
    """1, 1.0 and numpy's 1 are the same label: pandas makes floats of integers where one is missing."""
    # None, NaN, and pandas' NA and NaT, neither of which equals itself.
    if value is None or str(value) in ("<NA>", "NaT") or bool(value != value):
        return None
    return str(int(value)) if isinstance(value, (float, np.floating)) and value == int(value) else str(value)


def _in_order(names: Collection[str]) -> list[str]:
    """Sorted; integers by their value."""
    are_integers = all(name.lstrip("-").isdecimal() for name in names)
    return sorted(names, key=int) if are_integers else sorted(names)


def _probabilities(y_prob: Any, columns: _Columns) -> np.ndarray:
    values = np.asarray(y_prob, dtype=np.float32)
    expected = (len(columns.labels), len(columns.classes))
    if values.shape != expected:
        raise ValueError(f"y_prob: got shape {values.shape}, expected {expected}, a column for each of the classes")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("y_prob: got a value outside 0 to 1, expected probabilities")
    return values


def _setting(columns: _Columns, profile: str, reference: str | None, **further: Any) -> Setting:
    if profile not in contest.PROFILES:
        raise ValueError(f"profile: got {profile!r}, expected one of {', '.join(contest.PROFILES)}")
    own = contest.PROFILES[profile]
    return Setting(own, contest.reference_group(columns.groups, profile=own, wanted=reference), **further)


def _ends(metric: dict[str, Any]) -> tuple[float, float] | None:
    return None if metric["low"] is None else (metric["low"], metric["high"])
