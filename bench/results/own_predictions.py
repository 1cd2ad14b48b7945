"""Predictions of any program: `path,label` beside a data set, or `y_true,y_pred` with the labels in the file.

Files of edge-infer are read by `edge.predictions.read`, which is stricter: they say what they are.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge.errors import PredictionsError
from edge.predictions import UNCERTAIN, UNCERTAIN_INDEX, Prediction, Predictions, meta_path

from ..dataset import GROUP_COLUMN, MAX_GROUPS, NOT_STATED, ONE_GROUP, Sample, classes_of, csv_rows

EDGE, LABELS, TABLE = "edge", "path,label", "y_true,y_pred"
"""The forms: of edge-infer, with a column `path` and one `label`, with columns `y_true` and `y_pred`."""

_PROB = "prob_"


def form_of(path: Path) -> str:
    """The form of a predictions file by its header; no file, an empty one and JSONL are left to the reader of `EDGE`.

    Raises:
      PredictionsError: another separator than a comma, another encoding, a header of no form.
    """
    try:
        with open(path, "rb") as file:
            start = file.readline(1 << 16)
    except OSError:
        return EDGE
    if b"\0" in start:
        raise PredictionsError(f"{path}: got a zero byte in its first line (UTF-16?), expected UTF-8 text")
    header = start.decode("utf-8-sig", "replace").strip()
    columns = next(csv.reader([header]), [])
    found = {*columns}
    for separator, name in ((";", "';'"), ("\t", "tabs")):
        if {"path", "y_true", "y_pred"} & {*header.split(separator)} - found:
            raise PredictionsError(f"{path}: its fields are separated by {name}, expected commas")
    if {"y_true", "y_pred"} & found:
        return TABLE
    if not header or header.startswith("{") or meta_path(path).exists():
        return EDGE
    if not {"path", "label"} <= found:
        got, expected = ", ".join(columns)[:80], f"those of edge-infer, {LABELS}, or {TABLE}"
        raise PredictionsError(f"{path}: not a predictions file: got the columns {got}, expected {expected}")
    return EDGE if {"label_index", "status"} <= found else LABELS


@dataclass(frozen=True)
class Table:
    """A file of the form `TABLE`."""

    samples: list[Sample]
    predictions: Predictions
    groups: dict[str, dict[str, str]]
    """By further column the group of every sample, by its path."""
    remarks: list[str]
    """One line for each thing a person should know."""


def read_labels(path: Path, samples: Sequence[Sample]) -> tuple[Predictions, list[str]]:
    """Reads the form `LABELS`; an empty label, and `uncertain`, is no answer. Also returns remarks, one line each.

    Args:
      path: A CSV with the columns `path` and `label`, and perhaps `prob_<class>` for every class.
      samples: The whole data set: its classes are the labels that may be, its paths those that may be predicted.

    Raises:
      PredictionsError: no such file, no CSV, a path that is no picture of the data or is there twice, another label;
        rows are counted from 1, under the header.
    """
    file = _File.read(path, ("path", "label"))
    classes = classes_of([*samples, *(Sample("", name, "", "") for name in file.probabilities)])
    paths = {sample.path for sample in samples}
    first_row: dict[str, int] = {}
    rows = []
    for number, row in file.rows():
        name, label = file.get(row, "path"), file.get(row, "label")
        if name not in paths:
            base = re.split(r"[/\\]", name)[-1]
            near = [path for path in paths if path.rpartition("/")[2] == base]
            hint = f" (is it {near[0]}?)" if len(near) == 1 else ""
            raise file.error(number, f"got path {name}, which is no picture of the data{hint}")
        if (first := first_row.setdefault(name, number)) != number:
            raise file.error(number, f"{name} was in row {first} already, expected each path once")
        rows.append(file.prediction(number, row, name, label, classes, "label"))
    if not rows:
        raise PredictionsError(f"{path}: has no rows under its header, expected one for each picture")
    return Predictions({"columns": file.columns, "classes": [*classes]}, rows), file.remarks(("path", "label"))


def read_table(path: Path, group_columns: Sequence[str]) -> Table:
    """Reads the form `TABLE`; an empty `y_pred` is no answer.

    Args:
      path: A CSV with the columns `y_true` and `y_pred`, and perhaps `path`, `group`, `cluster` and `prob_<class>`.
      group_columns: The columns of groups, the first to be scored by; none: `group`, if there is one.

    Raises:
      PredictionsError: no such file, no CSV, no such column, an empty `y_true`, a path twice, numbers in one and
        names in the other; rows are counted from 1, under the header.
    """
    file = _File.read(path, ("y_true", "y_pred", *group_columns))
    rows = list(file.rows())
    if not rows:
        raise PredictionsError(f"{path}: has no rows under its header, expected one for each picture")
    truth, answers = ([_label(file.get(row, name)) for _, row in rows] for name in ("y_true", "y_pred"))
    for (number, _), label in zip(rows, truth, strict=True):
        if not label:
            raise file.error(number, "y_true is empty, expected the true class")
    known, never = {*truth, *file.probabilities}, Counter(answer for answer in answers if answer)
    if len({all(map(_is_number, names)) for names in ({*truth}, {*never}) if names}) == 2:
        got = f"got y_pred {_names(never)} and y_true {_names(Counter(truth))}"
        raise PredictionsError(f"{path}: {got}, expected numbers in both or names in both")
    classes = _ordered({*known, *never})
    column, *further = group_columns or [GROUP_COLUMN]
    samples, predictions = [], []
    first_row: dict[str, int] = {}
    for (number, row), label, answer in zip(rows, truth, answers, strict=True):
        name = file.get(row, "path") or f"row {number}"
        if (first := first_row.setdefault(name, number)) != number:
            raise file.error(number, f"{name} was in row {first} already, expected each path once")
        group = _group(file.get(row, column)) if column in file.place else ONE_GROUP
        samples.append(Sample(name, label, group, file.get(row, "cluster") or name))
        predictions.append(file.prediction(number, row, name, answer, classes, "y_pred"))
    groups = {
        other: {sample.path: _group(file.get(row, other)) for sample, (_, row) in zip(samples, rows, strict=True)}
        for other in (column, *further) if other in file.place
    }
    for other, group_of in groups.items():
        if (num_groups := len({*group_of.values()})) > MAX_GROUPS:
            got = f"got {num_groups} different values in the column {other}"
            raise PredictionsError(f"{path}: {got}, expected at most {MAX_GROUPS} groups")
    if not group_columns and {sample.group for sample in samples} == {NOT_STATED}:  # a column that nobody filled in
        samples = [replace(sample, group=ONE_GROUP) for sample in samples]
    remarks = file.remarks(("y_true", "y_pred", "path", "cluster", column, *further))
    if strange := Counter({name: n for name, n in never.items() if name not in known}):
        remarks.append(f"y_true never has {_names(strange)}, which y_pred has in {strange.total()} rows")
    meta = {"columns": file.columns, "classes": classes}
    return Table(samples, Predictions(meta, predictions), {name: groups[name] for name in further}, remarks)


@dataclass(frozen=True)
class _File:
    """A CSV in memory."""

    path: Path
    columns: list[str]
    place: dict[str, int]
    lines: list[list[str]]

    @classmethod
    def read(cls, path: Path, needed: Sequence[str]) -> _File:
        lines = [*csv_rows(path, PredictionsError)]
        columns = lines[0] if lines else []
        if missing := [name for name in dict.fromkeys(needed) if name not in columns]:
            raise PredictionsError(f"{path}: no column {', '.join(missing)}; got {', '.join(columns)}")
        if twice := [name for name, count in Counter(columns).items() if name and count > 1]:
            raise PredictionsError(f"{path}: the column {twice[0]} is there twice, expected each once")
        return cls(path, columns, {name: i for i, name in enumerate(columns)}, lines[1:])

    @property
    def probabilities(self) -> list[str]:
        """Names of the classes that have a column of probabilities."""
        return [name.removeprefix(_PROB) for name in self.columns if name.startswith(_PROB)]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Each row with its number; blank lines are none."""
        for number, row in enumerate(self.lines, start=1):
            if row:
                if len(row) != len(self.columns):
                    raise self.error(number, f"got {len(row)} fields, expected {len(self.columns)}")
                yield number, row

    def get(self, row: Sequence[str], column: str) -> str:
        """A field, "" where there is no such column."""
        return row[self.place[column]] if column in self.place else ""

    def error(self, number: int, text: str) -> PredictionsError:
        return PredictionsError(f"{self.path}: row {number}: {text}")

    def prediction(
        self, number: int, row: Sequence[str], name: str, label: str, classes: Sequence[str], column: str
    ) -> Prediction:
        """The answer of a row."""
        if not label or self.get(row, "status") == "error":
            return Prediction(name, status="error", error="no answer")
        if label == UNCERTAIN and label not in classes:
            return Prediction(name, UNCERTAIN, UNCERTAIN_INDEX)
        if label not in classes:
            near = [known for known in classes if known.strip().lower() == _label(label.strip().lower())]
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise self.error(number, f"got {column} {label!r}, no class of the data ({', '.join(classes)}){hint}")
        return Prediction(name, label, classes.index(label), probabilities=self._shares(number, row, classes))

    def _shares(self, number: int, row: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
        if not self.probabilities:
            return None
        if lacking := [name for name in classes if _PROB + name not in self.place]:
            raise PredictionsError(f"{self.path}: no column {_PROB}{lacking[0]}, expected one for each class")
        fields = [self.get(row, _PROB + name) for name in classes]
        try:
            values = np.array(list(map(float, fields)), np.float32)
        except ValueError:
            values = np.array([np.nan])
        if not ((values >= 0) & (values <= 1)).all() or abs(values.sum() - 1) > 0.05:
            raise self.error(number, f"got the probabilities {', '.join(fields)}, expected numbers that add to 1")
        return values

    def remarks(self, used: Sequence[str]) -> list[str]:
        known = (*used, "status", *(name for name in self.columns if name.startswith(_PROB)))
        unread = [name for name in self.columns if name and name not in known]
        return [f"columns that are not read: {', '.join(unread)}"] if unread else []


def _label(text: str) -> str:
    """A label; 1 and 1.0 are the same: pandas makes floats of integers where one is missing."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text)


def _group(text: str) -> str:
    return text if text.strip() else NOT_STATED


def _ordered(names: set[str]) -> list[str]:
    """Numbers by their value, names as in a data set."""
    if all(map(_is_number, names)):
        return sorted(names, key=int)
    return [*classes_of(Sample("", name, "", "") for name in names)]


def _is_number(label: str) -> bool:
    return re.fullmatch(r"-?\d{1,18}", label) is not None


def _names(counted: Counter[str]) -> str:
    names = [name for name, _ in counted.most_common(6)]
    return ", ".join(names) + (", ..." if len(counted) > 6 else "")
