"""Predictions and a data set -> pairs, and everything that shows the two do not belong together.

A million rows are checked by the few kinds of answer they have, and looked at one by one only to name a bad one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from edge.errors import EdgeError
from edge.predictions import UNCERTAIN, UNCERTAIN_INDEX, Prediction

from ..dataset import Sample

Pairs = Sequence[tuple[Sample, Prediction]]


def join(
    samples: Sequence[Sample], rows: Sequence[Prediction], *, subset: bool = False
) -> list[tuple[Sample, Prediction]]:
    """Each sample with its prediction, in the order of the data set.

    Args:
      samples: The data set, each path once.
      rows: The predictions.
      subset: Whether samples without a prediction are left out instead of being an error.

    Raises:
      EdgeError: a path predicted twice, a prediction for no sample, a sample without one, or a row that cannot be:
        another status than ok and error, "ok" without a label and its index, a confidence or probability that is no
        number from 0 to 1.
    """
    by_path = {row.path: row for row in rows}
    if len(by_path) < len(rows):
        twice, _ = Counter(row.path for row in rows).most_common(1)[0]
        raise EdgeError(f"{len(rows) - len(by_path)} predictions are for a path that has one already: {twice}")
    pairs = [(sample, by_path[sample.path]) for sample in samples if sample.path in by_path]
    problems = []
    if len(pairs) < len(rows):
        paths = {sample.path for sample in samples}
        extra = [row.path for row in rows if row.path not in paths]
        problems.append(f"{len(extra)} of {len(rows)} predictions are for no sample of the data set, first {extra[0]}")
    num_missing = len(samples) - len(pairs)
    if num_missing and not (pairs and subset):
        first = next(sample.path for sample in samples if sample.path not in by_path)
        hint = " (--subset leaves them out)" if pairs and not problems else ""
        problems.append(f"{num_missing} of {len(samples)} samples have no prediction, first {first}{hint}")
    if problems:
        raise EdgeError("; ".join(problems))
    kinds = {(row.status, row.label, row.label_index) for row in rows}
    if wrong := {kind: problem for kind in kinds if (problem := _problem(*kind))}:
        row = next(row for row in rows if (row.status, row.label, row.label_index) in wrong)
        raise EdgeError(f"{row.path}: {wrong[row.status, row.label, row.label_index]}")
    for row in rows:
        if row.confidence is not None and not 0 <= row.confidence <= 1:
            raise EdgeError(f"{row.path}: got confidence {row.confidence}, expected 0 to 1")
        if row.probabilities is not None and not ((row.probabilities >= 0) & (row.probabilities <= 1)).all():
            raise EdgeError(f"{row.path}: got probabilities {row.probabilities.tolist()}, expected 0 to 1")
    return pairs


def class_order(meta: dict[str, Any], data_classes: Sequence[str], pairs: Pairs) -> list[str]:
    """The model's classes in its order; from a file that does not name them, those of the data.

    Args:
      meta: What the predictions file says of itself.
      data_classes: Classes of the data.
      pairs: As `join` gives them.

    Raises:
      EdgeError: a class of the data or of a prediction that the model does not know, an index that is not the
        label's, or classes that are no list of different names.
    """
    answers = Counter((row.label, row.label_index) for _, row in pairs if has_answer(row))

    def first(label: str, index: int | None) -> str:
        return next(row.path for _, row in pairs if has_answer(row) and (row.label, row.label_index) == (label, index))

    if "classes" not in meta:
        _check_without_meta(answers, data_classes, first)
        return list(data_classes)
    classes = meta["classes"]
    if not isinstance(classes, list) or not classes or not all(map(_is_name, classes)):
        raise EdgeError(f"the predictions' meta has the classes {repr(classes)[:80]}, expected a list of names")
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise EdgeError(f"the predictions' meta names the class {twice[0]!r} twice, expected each once")
    labels = sorted({label for label, _ in answers})
    for what, names in (("the data set has the class", data_classes), ("a prediction is", labels)):
        if unknown := [name for name in names if name not in classes]:
            raise EdgeError(f"{what} {unknown[0]!r}, but the model knows only {', '.join(classes)} (see --label)")
    for label, index in answers:
        if index != (expected := classes.index(label)):
            raise EdgeError(f"{first(label, index)}: got label_index {index} for {label!r}, expected {expected}")
    return classes


def has_answer(prediction: Prediction) -> bool:
    """False for an image that could not be used, and for a label of "uncertain" (index -1)."""
    return prediction.status == "ok" and prediction.label_index is not None and prediction.label_index >= 0


def _check_without_meta(
    answers: Counter[tuple[str, int | None]], data_classes: Sequence[str], first: Callable[[str, int | None], str]
) -> None:
    """What can be said of labels when nothing names the model's classes: they are the data's, and one index is one."""
    index_of: dict[str, int | None] = {}
    label_of: dict[int | None, str] = {}
    for (label, index), count in answers.most_common():  # of two indices the rarer is the damaged one
        if label not in data_classes:
            raise EdgeError(
                f"{count} predictions are {label!r}, no class of the data ({', '.join(data_classes)}), and the "
                "predictions' .meta.json, which names the model's classes, is missing"
            )
        other = index_of.setdefault(label, index), label_of.setdefault(index, label)
        if other != (index, label):
            raise EdgeError(
                f"{first(label, index)}: got label_index {index} for {label!r}, but other rows have "
                f"{other[0]} for {label!r} and {other[1]!r} for {index}, expected one index for each class"
            )


def _is_name(name: object) -> bool:
    try:
        return isinstance(name, str) and bool(name.encode())
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and no file can hold
        return False


def _problem(status: str, label: str, index: int | None) -> str | None:
    """Why there can be no such row."""
    if status not in ("ok", "error"):
        return f"got status {status!r}, expected ok or error"
    if status == "error" or (label, index) == (UNCERTAIN, UNCERTAIN_INDEX):
        return None
    if not label or label == UNCERTAIN or index is None or index < 0:
        return f"status ok, but got label {label!r} and label_index {index}, expected a class and its index from 0"
    return None
