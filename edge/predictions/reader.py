"""Reading a predictions file back, and holding what it claims against its columns."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import PredictionsError
from .rows import SCHEMA, UNCERTAIN, Prediction, json_object, json_rows, meta_path, parse_rows, read_meta

_BOM = b"\xef\xbb\xbf"
_PROB = "prob_"
_ROUNDING = 1e-5  # rows have six decimals
_SUM_TOLERANCE = 1e-3
_CHUNK = 10_000


@dataclass(frozen=True)
class Predictions:
    """A predictions file read back."""

    meta: dict[str, Any]
    """What the file says of itself; empty for a CSV whose NAME.meta.json is missing."""
    rows: list[Prediction]
    """One per image, in the order of the file. `probabilities` only when the file has every prob_<class>: in the order
    of the classes in `meta`, otherwise of the columns."""


def read(path: str | os.PathLike[str]) -> Predictions:
    """Reads a CSV or JSONL predictions file: JSONL when its first character is "{", behind any byte order mark.

    Raises:
      PredictionsError: no such file, empty, not a predictions file, a damaged row (with its number), an end in the
        middle of a row, columns prob_<class> of other classes than the meta has, or a row whose label or confidence is
        not what its probabilities say.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            is_jsonl = file.read(4).removeprefix(_BOM).startswith(b"{")
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.read() not in (b"", b"\n"):
                raise PredictionsError(f"{path}: ends in the middle of its last row (an interrupted run or copy?)")
            file.seek(0)
            return _read_jsonl(path, file) if is_jsonl else _read_csv(path, file)
    except OSError as error:
        raise PredictionsError(f"{path}: cannot be read: {error.strerror}") from error


def _read_jsonl(path: Path, file: IO[bytes]) -> Predictions:
    meta = json_object(next(file), f"{path}: line 1")
    if meta.get("schema") != SCHEMA:
        raise PredictionsError(f"{path}: got schema {meta.get('schema')!r}, expected {SCHEMA!r}")
    objects = [json_object(line, f"{path}: row {n}") for n, line in enumerate(file, 1)]
    columns = list(objects[0]) if objects else []
    return _checked(path, meta, columns, json_rows(str(path), columns, objects))


def _read_csv(path: Path, file: IO[bytes]) -> Predictions:
    with io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="") as text:
        reader = csv.reader(text)
        try:
            columns = next(reader, [])
        except csv.Error as problem:
            raise PredictionsError(f"{path}: header: {problem}") from problem
        missing = [name for name in ("path", "label", "label_index", "status") if name not in columns]
        if missing:
            got = ",".join(columns)[:80]
            raise PredictionsError(f"{path}: not a predictions file: no column {', '.join(missing)}; got {got!r}")
        meta = read_meta(meta_path(path)) if meta_path(path).exists() else {}
        return _checked(path, meta, columns, reader)


def _checked(path: Path, meta: dict[str, Any], columns: Sequence[str], rows: Iterator[list[str]]) -> Predictions:
    where = str(path)
    if twice := [name for i, name in enumerate(columns) if name in columns[:i]]:
        raise PredictionsError(f"{where}: got the column {twice[0]} twice, expected each once")
    classes = [name.removeprefix(_PROB) for name in columns if name.startswith(_PROB)]
    known = meta.get("classes")
    if classes and isinstance(known, list):
        if missing := [name for name in known if name not in classes]:
            raise PredictionsError(f"{where}: no column {_PROB}{missing[0]}, but its metadata have the class")
        if strange := [name for name in classes if name not in known]:
            raise PredictionsError(f"{where}: got the column {_PROB}{strange[0]}, but its metadata have no such class")
        classes = known
    predictions = list(parse_rows(where, columns, rows, classes))
    least = meta.get("min_confidence")
    for n in range(0, len(predictions), _CHUNK):
        problem = _problem(predictions[n : n + _CHUNK], classes, least if isinstance(least, int | float) else None)
        if problem is not None:
            row, text = problem
            raise PredictionsError(f"{where}: row {n + row + 1}: {predictions[n + row].path}: {text}")
    return Predictions(meta, predictions)


def _problem(rows: Sequence[Prediction], classes: Sequence[str], least: float | None) -> tuple[int, str] | None:
    """The first row whose label or confidence is not what its probabilities and the decision rule say, and why.

    The label is the class with the largest probability, which is the confidence, or "uncertain" below `least`.
    """
    import numpy as np

    for i, row in enumerate(rows) if least is not None else ():
        if row.status != "ok" or row.confidence is None or least is None:
            continue
        if (row.label == UNCERTAIN) != (row.confidence < least) and abs(row.confidence - least) > _ROUNDING:
            return i, f"got {row.label} with confidence {row.confidence}, but its metadata have min_confidence {least}"
    judged = [(i, row) for i, row in enumerate(rows) if row.status == "ok" and row.probabilities is not None]
    if not judged:
        return None
    probabilities = np.array([row.probabilities for _, row in judged])
    place = {name: i for i, name in enumerate(classes)}
    best = probabilities.argmax(1)
    largest = probabilities.max(1)
    labels = np.array([place.get(row.label, top) for (_, row), top in zip(judged, best.tolist(), strict=True)])
    confidence = np.array([np.nan if row.confidence is None else row.confidence for _, row in judged])
    sums = probabilities.sum(1, dtype=np.float64)
    is_wrong = (
        ~(abs(sums - 1) <= _SUM_TOLERANCE)
        | (probabilities[np.arange(len(judged)), labels] < largest - _ROUNDING)
        | (abs(confidence - largest) > _ROUNDING)
    )
    for k in np.flatnonzero(is_wrong)[:1].tolist():
        i, row = judged[k]
        if not abs(sums[k] - 1) <= _SUM_TOLERANCE:
            return i, f"its probabilities sum to {sums[k]:.4g}, expected 1"
        if row.confidence is None or abs(row.confidence - largest[k]) <= _ROUNDING:
            return i, f"got label {row.label}, but {_PROB}{classes[best[k]]} is the largest"
        return i, f"got confidence {row.confidence}, but the largest probability is {largest[k]:.6f}"
    return None
