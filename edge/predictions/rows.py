"""A prediction, and the form of a predictions file: its columns and its rows.

One row per image in input order, header always there. What changes the rows (model, preprocessing, classes,
columns, limits, versions) is the file's meta: the first line of JSONL, or NAME.meta.json beside a CSV.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import DecodeError, PredictionsError

if TYPE_CHECKING:
    import numpy as np

SCHEMA = "edge-predictions/1"
UNCERTAIN, UNCERTAIN_INDEX = "uncertain", -1
TOTALS = ("outside_profile",)
"""Keys of the meta that describe all rows together. A JSONL's meta has none: it stands before the rows."""

_PLAIN = ("path", "label", "label_index", "confidence", "status", "error", "width", "height")
_TIMING = ("decode_ms", "infer_ms")
_FIELDS = (*_PLAIN, *_TIMING)

_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_LIKE_ESCAPE = re.compile(r"\\(?=x[0-9a-f]{2})")


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
    height: int | None = None
    """Stored size in pixels, before EXIF rotation; None when the header could not be read."""
    decode_ms: float | None = None
    """Wall time of reading, decoding and resizing this image."""
    infer_ms: float | None = None
    """Wall time of its batch's network run, divided by the images in the batch."""
    probabilities: np.ndarray | None = None
    """(C,) float32 in the order of the model's classes; None on error, and when read from a file without them."""
    resize_ms: float | None = None
    """The part of `decode_ms` after the decoder: resizing, rotating, padding. Not a column of the file."""
    stamp: tuple[int, int] | None = field(default=None, compare=False)
    """(bytes, time of change in ns) of the image file before it was read. Not a column of the file."""

    @classmethod
    def failed(cls, error: DecodeError) -> Prediction:
        """The row of an image that cannot be used."""
        return cls(error.path, status="error", error=error.reason, width=error.width, height=error.height)


@dataclass(frozen=True)
class Layout:
    """Form and columns of a predictions file."""

    classes: tuple[str, ...]
    format: str = "csv"
    """"csv", "jsonl", or "esfair": the lines "PATH INDEX" of the contest's winners of 2023."""
    topk: int = 1
    """How many classes are named; columns top2_label, top2_confidence, ... from the second on."""
    probs: bool = False
    """Whether the probability of every class is a column prob_<class>."""
    timing: bool = True
    """Whether decode_ms and infer_ms are columns. Without them equal runs give equal bytes."""

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Column names in order."""
        if self.format == "esfair":
            return "path", "label_index"
        top = [f"top{k}_{what}" for k in range(2, self.topk + 1) for what in ("label", "confidence")]
        probs = [f"prob_{name}" for name in self.classes] if self.probs else []
        return (*_PLAIN, *(_TIMING if self.timing else ()), *top, *probs)

    def header(self, meta: dict[str, object]) -> bytes:
        """What stands before the first row."""
        if self.format == "jsonl":
            return _json_line(meta)
        return _csv_line(self.columns) if self.format == "csv" else b""

    def encode(self, prediction: Prediction) -> bytes:
        """One row of the file, with its line end."""
        if self.format == "esfair":
            index = UNCERTAIN_INDEX if prediction.label_index is None else prediction.label_index
            return f"{self.written_path(prediction.path)} {index}\n".encode()
        values: dict[str, object] = {name: getattr(prediction, name) for name in _FIELDS}
        probabilities = prediction.probabilities
        if probabilities is not None:
            order = (-probabilities).argsort(kind="stable")
            for k in range(2, self.topk + 1):
                values[f"top{k}_label"] = self.classes[order[k - 1]]
                values[f"top{k}_confidence"] = float(probabilities[order[k - 1]])
            for name, probability in zip(self.classes, probabilities, strict=True):
                values[f"prob_{name}"] = float(probability)
        row = {name: values.get(name) for name in self.columns}
        if self.format == "csv":
            return _csv_line([_csv_text(name, value) for name, value in row.items()])
        return _json_line({k: round(v, _digits(k)) if isinstance(v, float) else v for k, v in row.items()})

    def written_path(self, path: str) -> str:
        """A path as the file has it: a line of esfair cannot hold a line end."""
        return path.replace("\n", r"\x0a").replace("\r", r"\x0d") if self.format == "esfair" else path

    def parse(self, records: Iterable[bytes], where: str) -> Iterator[Prediction]:
        """The inverse of `encode` for the complete rows of a file: path, label, status and what else the form has.

        Raises:
          PredictionsError: a damaged row, with `where` and its number.
        """
        if self.format == "csv":
            text = (record.decode("utf-8", "replace") for record in records)
            return parse_rows(where, self.columns, csv.reader(text))
        if self.format == "jsonl":
            objects = (json_object(record, f"{where}: row {n}") for n, record in enumerate(records, 1))
            return parse_rows(where, _FIELDS, json_rows(where, _FIELDS, objects))
        return self._parse_esfair(records, where)

    def _parse_esfair(self, records: Iterable[bytes], where: str) -> Iterator[Prediction]:
        labels = {str(i): label for i, label in enumerate(self.classes)}
        for n, record in enumerate(records, 1):
            path, _, index = record.decode("utf-8", "replace").rstrip("\r\n").rpartition(" ")
            if index == str(UNCERTAIN_INDEX):
                yield Prediction(path, status="error")
            elif index in labels:
                yield Prediction(path, labels[index], int(index))
            else:
                message = f"got the index {index[:20]!r}, expected -1 to {len(labels) - 1}"
                raise PredictionsError(f"{where}: row {n}: {message}")


def path_text(path: str) -> str:
    r"""A path as text for files and messages: bytes of a name that are no UTF-8 become \xNN.

    A backslash of the name becomes \x5c where what follows would make it look so; `from_path_text` gives the path back.
    """
    if "\\x" in path:
        path = _LIKE_ESCAPE.sub(r"\\x5c", path)
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def from_path_text(text: str) -> str:
    """The path that `path_text` has written so."""
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), os.fsencode(text)))


def stamp_of(photo: str | os.PathLike[str]) -> tuple[int, int] | None:
    """(bytes, time of change in ns) of a file; None where it cannot be asked."""
    try:
        status = os.stat(photo)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def meta_path(path: Path) -> Path:
    """Where the meta of a CSV or esfair file lies: beside it, as predictions.csv.meta.json."""
    return path.with_name(path.name + ".meta.json")


def json_rows(where: str, columns: Sequence[str], objects: Iterable[dict[str, Any]]) -> Iterator[list[str]]:
    """JSON objects as the rows of a CSV. A name may not be something else that happens to have a text."""
    names = [name for name in columns if name in ("path", "label", "status", "error")]
    for n, values in enumerate(objects, 1):
        for name in names:
            if not isinstance(value := values.get(name), str | None):
                raise PredictionsError(f"{where}: row {n}: {name}: got {repr(value)[:40]}, expected a text")
        yield ["" if (value := values.get(name)) is None else str(value) for name in columns]


def parse_rows(
    where: str, columns: Sequence[str], rows: Iterable[list[str]], classes: Sequence[str] = ()
) -> Iterator[Prediction]:
    """Rows of text -> predictions, with the probabilities of `classes`. A million should not take ten seconds.

    Raises:
      PredictionsError: a damaged row, with `where` and its number.
    """
    import numpy as np

    place = {column: i for i, column in enumerate(columns)}
    nothing = len(columns)  # index of a "" put behind every row
    path, label, index, confidence, status, error, width, height, decode_ms, infer_ms = (
        place.get(name, nothing) for name in _FIELDS
    )
    probs = [place[f"prob_{name}"] for name in classes]
    intern = sys.intern  # a handful of classes: each name is held once
    n = 0
    try:
        for n, row in enumerate(rows, 1):
            if len(row) != nothing:
                raise ValueError(f"got {len(row)} fields, expected {nothing}")
            row.append("")
            if not row[path]:
                raise ValueError("has no path")
            yield Prediction(
                row[path],
                intern(row[label]),
                int(row[index]) if row[index] else None,
                float(row[confidence]) if row[confidence] else None,
                intern(row[status]),
                row[error],
                _pixels(row[width]) if row[width] else None,
                _pixels(row[height]) if row[height] else None,
                float(row[decode_ms]) if row[decode_ms] else None,
                float(row[infer_ms]) if row[infer_ms] else None,
                np.array([row[i] for i in probs], np.float32) if probs and row[probs[0]] else None,
            )
    except csv.Error as problem:
        raise PredictionsError(f"{where}: row {n + 1}: {problem}") from problem  # of the row that did not come
    except (ValueError, TypeError, OverflowError) as problem:
        raise PredictionsError(f"{where}: row {n}: {str(problem)[:200]}") from problem


@lru_cache  # cameras have few sizes: a million rows are read a fifth faster
def _pixels(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text)):
        raise ValueError(f"got a side of {text[:20]!r}, expected pixels")
    return int(text)


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
    return next(csv.reader([record.decode("utf-8", "replace")]), [])


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


def _json_line(values: dict[str, object]) -> bytes:
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()


def _csv_line(fields: Sequence[str]) -> bytes:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(fields)  # so that it quotes fields with either character
    return line.getvalue().removesuffix("\r\n").encode() + b"\n"


def _csv_text(column: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.{_digits(column)}f}"
    return "" if value is None else str(value)


def _digits(column: str) -> int:
    return 3 if column in _TIMING else 6
