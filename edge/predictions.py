"""A prediction, and the form of a predictions file: its columns, its rows, reading it back.

One row per image in input order, header always there. What changes the rows (model, preprocessing, classes,
columns, limits, versions) is the file's meta: the first line of JSONL, or NAME.meta.json beside a CSV.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import DecodeError, PredictionsError

if TYPE_CHECKING:
    import numpy as np

SCHEMA = "edge-predictions/1"
FORMATS = ("csv", "jsonl", "esfair")
UNCERTAIN = "uncertain"
UNCERTAIN_INDEX = -1
TOTALS = ("outside_profile",)
"""Keys of the meta that tell of all rows together. A JSONL's meta has none: it stands before the rows."""
_BOM = b"\xef\xbb\xbf"

_PLAIN = ("path", "label", "label_index", "confidence", "status", "error", "width", "height")
_TIMING = ("decode_ms", "infer_ms")


@dataclass(slots=True)  # not frozen, which takes four times as long to make: there are a million of them
class Prediction:
    """What the classifier says of one image, or why it says nothing."""

    path: str
    """The source as given; "<bytes>", "<image>" or "<array>" for what is no path."""
    label: str = ""
    """Name of the most probable class, "uncertain" below the confidence asked for, "" on error."""
    label_index: int | None = None
    """Index of `label` in the model's classes, -1 for "uncertain", None on error."""
    confidence: float | None = None
    """Probability of the most probable class, 0 to 1; None on error."""
    status: str = "ok"
    """"ok" or "error"."""
    error: str = ""
    """One line saying why there is no label; "" when there is one."""
    width: int | None = None
    """Stored width in pixels, before EXIF rotation; None when the header could not be read."""
    height: int | None = None
    """Stored height in pixels, before EXIF rotation; None when the header could not be read."""
    decode_ms: float | None = None
    """Wall time of reading, decoding and resizing this image."""
    infer_ms: float | None = None
    """Wall time of its batch's network run, divided by the images in the batch."""
    probabilities: np.ndarray | None = None
    """(C,) float32 in the order of the model's classes; None on error, and when read from a file without them."""
    resize_ms: float | None = None
    """The part of `decode_ms` after the decoder: resizing, rotating, padding. Not a column of the file."""

    @classmethod
    def failed(cls, error: DecodeError) -> Prediction:
        """The row of an image that cannot be used."""
        return cls(error.path, status="error", error=error.reason, width=error.width, height=error.height)


@dataclass(frozen=True)
class Layout:
    """Which columns a predictions file has."""

    classes: tuple[str, ...]
    format: str = "csv"
    topk: int = 1
    """How many classes are named; columns top2_label, top2_confidence, ... from the second on."""
    probs: bool = False
    """Whether the probability of every class is a column prob_<class>."""
    timing: bool = True
    """Whether decode_ms and infer_ms are columns. Without them equal runs give equal bytes."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names in order."""
        top = [f"top{k}_{what}" for k in range(2, self.topk + 1) for what in ("label", "confidence")]
        probs = [f"prob_{name}" for name in self.classes] if self.probs else []
        return (*_PLAIN, *(_TIMING if self.timing else ()), *top, *probs)

    def record(self, prediction: Prediction) -> dict[str, object]:
        """Column -> JSON-ready value, None where there is none."""
        values: dict[str, object] = {name: getattr(prediction, name) for name in (*_PLAIN, *_TIMING)}
        values["confidence"] = _rounded(prediction.confidence, 6)
        values["decode_ms"], values["infer_ms"] = _rounded(prediction.decode_ms, 3), _rounded(prediction.infer_ms, 3)
        probabilities = prediction.probabilities
        if probabilities is not None:
            order = (-probabilities).argsort(kind="stable")
            for k in range(2, self.topk + 1):
                values[f"top{k}_label"] = self.classes[order[k - 1]]
                values[f"top{k}_confidence"] = _rounded(float(probabilities[order[k - 1]]), 6)
            for name, probability in zip(self.classes, probabilities, strict=True):
                values[f"prob_{name}"] = _rounded(float(probability), 6)
        return {name: values.get(name) for name in self.columns}

    def encode(self, prediction: Prediction) -> bytes:
        """One row of the file, with its line end."""
        if self.format == "esfair":
            index = UNCERTAIN_INDEX if prediction.label_index is None else prediction.label_index
            return f"{esfair_path(prediction.path)} {index}\n".encode()
        record = self.record(prediction)
        if self.format == "jsonl":
            return (json.dumps(record, ensure_ascii=False) + "\n").encode()
        return _csv_line([_csv_text(name, value) for name, value in record.items()])

    def header(self, meta: dict[str, object]) -> bytes:
        """What stands before the first row."""
        if self.format == "jsonl":
            return (json.dumps(meta, ensure_ascii=False) + "\n").encode()
        return _csv_line(list(self.columns)) if self.format == "csv" else b""


def path_text(path: str) -> str:
    r"""A path as text for files and messages: bytes of a name that are no UTF-8 become \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def esfair_path(name: str) -> str:
    """A name as the one-line form of the 2023 winners can hold it."""
    return name.replace("\n", r"\x0a").replace("\r", r"\x0d")


def meta_path(path: Path) -> Path:
    """Where the meta of a CSV or esfair file lies: beside it, as predictions.csv.meta.json."""
    return path.with_name(path.name + ".meta.json")


@dataclass(frozen=True)
class Predictions:
    """A predictions file read back."""

    meta: dict[str, Any]
    """What the file says of itself; empty for a CSV whose NAME.meta.json is missing."""
    rows: list[Prediction]
    """One per image, in the order of the file; `probabilities` only when the file has every prob_<class>."""


def read(path: str | os.PathLike[str]) -> Predictions:
    """Reads a CSV or JSONL predictions file.

    Args:
      path: The file; JSONL when its first character is "{". A byte order mark, which Excel writes, is left out.

    Raises:
      PredictionsError: no such file, empty, not a predictions file, a damaged row (with its number), or an end in the
        middle of a row.
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
    rows = ([_as_text(path, n, name, values.get(name)) for name in columns] for n, values in enumerate(objects, 1))
    return Predictions(meta, list(_predictions(path, columns, rows)))


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
        return Predictions(meta, list(_predictions(path, columns, reader)))


def _as_text(path: Path, row: int, column: str, value: object) -> str:
    """A JSON value as a CSV has it. What must be a name may not be something else that happens to have a text."""
    if column in ("path", "label", "status", "error") and not isinstance(value, str | None):
        raise PredictionsError(f"{path}: row {row}: {column}: got {repr(value)[:40]}, expected a text")
    return "" if value is None else str(value)


def _predictions(path: Path, columns: list[str], rows: Iterable[list[str]]) -> Iterator[Prediction]:
    """Rows of text -> predictions. A million of them should not take ten seconds."""
    place = {column: i for i, column in enumerate(columns)}
    nothing = len(columns)  # index of a "" put behind every row
    name, intern = place.get("path", nothing), sys.intern
    label, index, status = place.get("label", nothing), place.get("label_index", nothing), place.get("status", nothing)
    error, confidence = place.get("error", nothing), place.get("confidence", nothing)
    width, height = place.get("width", nothing), place.get("height", nothing)
    decode_ms, infer_ms = place.get("decode_ms", nothing), place.get("infer_ms", nothing)
    probs = [i for column, i in place.items() if column.startswith("prob_")]
    n = 0
    try:
        for n, row in enumerate(rows, 1):
            if len(row) != nothing:
                raise ValueError(f"got {len(row)} fields, expected {nothing}")
            if not (name < nothing and row[name]):
                raise ValueError("has no path")
            row.append("")
            yield Prediction(
                row[name],
                intern(row[label]),  # a handful of classes: each name is held once
                int(row[index]) if row[index] else None,
                float(row[confidence]) if row[confidence] else None,
                intern(row[status]),
                row[error],
                int(row[width]) if row[width] else None,
                int(row[height]) if row[height] else None,
                float(row[decode_ms]) if row[decode_ms] else None,
                float(row[infer_ms]) if row[infer_ms] else None,
                _probabilities([row[i] for i in probs]) if probs and row[probs[0]] else None,
            )
    except csv.Error as problem:
        raise PredictionsError(f"{path}: row {n + 1}: {problem}") from problem  # of the row that did not come
    except (ValueError, TypeError, OverflowError) as problem:
        raise PredictionsError(f"{path}: row {n}: {str(problem)[:200]}") from problem


def _probabilities(values: list[str]) -> np.ndarray:
    import numpy as np

    return np.array(values, np.float32)


def records(file: IO[bytes]) -> Iterator[bytes]:
    """Complete records of a file: lines, joined while inside a quoted CSV field. An unfinished last one is left out."""
    pending = b""
    for line in file:
        pending += line
        if pending.count(b'"') % 2 == 0 and line.endswith(b"\n") or pending.startswith(b"{") and line.endswith(b"\n"):
            yield pending
            pending = b""


def csv_fields(record: bytes) -> list[str]:
    """The fields of one CSV record."""
    return next(csv.reader(io.StringIO(record.decode("utf-8", "replace"), newline="")), [])


def _csv_line(fields: list[str]) -> bytes:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(fields)  # so that it quotes fields with either character
    return line.getvalue().removesuffix("\r\n").encode() + b"\n"


def _csv_text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if name in _TIMING else f"{value:.6f}"
    return str(value)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def json_object(record: bytes, where: str) -> dict[str, Any]:
    """One JSON object, or a PredictionsError that says where."""
    try:
        values = json.loads(record)
    except (ValueError, RecursionError) as error:
        raise PredictionsError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise PredictionsError(f"{where}: got {type(values).__name__}, expected a JSON object")
    return values


def read_meta(path: Path) -> dict[str, Any]:
    """The meta beside a CSV, or a PredictionsError."""
    try:
        return json_object(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise PredictionsError(f"{path}: missing: the rows beside it cannot be matched to a model") from error
