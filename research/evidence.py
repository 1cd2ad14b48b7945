"""Evidence: predictions and run records small enough to be committed, from which tables are made anew without images.

A folder holds one data set with one choice of labels:

    manifest.csv        path,class,group,cluster[,coarse]: the data set without its images
    NAME_seed0.csv.gz   path,fold,ppm_<class>...: each image as predicted by a network that has not seen it
    NAME_seed0.json     what predicted: the configuration NAME, and a record of each run
    protocol.json       what the tables show (`research.protocol`); the one file written by hand

Probabilities are whole millionths: exactly the six decimals of a predictions file, in half the room.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bench.dataset import MANIFEST, Sample
from bench.results.join import has_answer
from edge.errors import EdgeError
from edge.output_files import check_output, write_output
from edge.predictions import Prediction, json_object

SCHEMA = "edge-evidence/1"

TABLE, RECORD = ".csv.gz", ".json"
"""Ends of the names of its two files."""
_PPM = 1_000_000
_SLACK = 1000  # what rounding a thousand classes can leave; a row cut short leaves more
_KEPT_AS_CSV = ("paths", "folds", "ppm")


@dataclass(frozen=True)
class RunRecord:
    """What made the predictions of one fold, as the run itself records it; None for what it does not."""

    fold: int
    """Held out by this run."""
    images: int
    """Predicted by it."""
    steps: int | None = None
    """Optimizer steps."""
    images_seen: int | None = None
    """Steps times images of a step."""
    seconds: float | None = None
    """Wall time of all epochs."""
    machine: str | None = None
    """Processor and cores, or GPU."""
    pytorch: str | None = None
    """Its version."""
    commit: str | None = None
    """Of this source code, with "+" where files were changed."""
    checkpoint_sha256: str | None = None
    """Of the checkpoint, or the model file, that predicted."""
    folds_sha256: str | None = None
    """Of the folds file."""
    weights_sha256: str | None = None
    """Of the checkpoint or file that it began with; None: random weights."""
    teacher_sha256: str | None = None
    """Of what taught it: `Teacher.sha256`."""
    identity: str | None = None
    """The `teacher_sha256` of a run that only this one would teach."""
    temperature: float | None = None
    """Fitted on this fold, for confidences on others."""


@dataclass(frozen=True)
class Evidence:
    """The predictions of one configuration with one seed."""

    configuration: str
    seed: int
    data: str
    """Name of the data set's folder."""
    label_column: str
    """Column of its manifest that became `class` here."""
    classes: list[str]
    """(C,) names of the model's classes in the order of its logits."""
    command: str
    """What made it; K stands for the fold."""
    config: dict[str, Any] | None
    """All settings of the runs; None for a model file."""
    offsets: dict[str, Any] | None
    """None; earlier versions kept class offsets here, which are no longer read."""
    runs: list[RunRecord]
    """One for each fold, in their order."""
    paths: list[str]
    """(N,) of the manifest, in its order."""
    folds: np.ndarray
    """(N,) int64. The fold that an image was held out with."""
    ppm: np.ndarray
    """(N, C) int64. Probabilities in millionths."""
    group_column: str = "group"
    """Column of the data set's manifest that became `group` here."""

    @property
    def stem(self) -> str:
        """Name of its two files."""
        return f"{self.configuration}_seed{self.seed}"

    @property
    def table(self) -> str:
        """Name of the file of predictions."""
        return f"{self.stem}{TABLE}"

    @property
    def probabilities(self) -> np.ndarray:
        """(N, C) float64."""
        return self.ppm / _PPM


def ppm_of_predictions(rows: Sequence[Prediction]) -> np.ndarray:
    """(N, C) int64 millionths of the predictions.

    Raises:
      EdgeError: a prediction without an answer or without probabilities.
    """
    for row in rows:
        if not has_answer(row) or row.probabilities is None:
            raise EdgeError(f"{row.path}: got no probabilities, expected those of every class (edge-infer --probs)")
    answers = np.array([row.label_index for row in rows])
    return to_ppm(np.stack([np.asarray(row.probabilities, np.float64) for row in rows]), answers)


def to_ppm(probabilities: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """(N, C) float64 and (N,) integer, the most probable class -> (N, C) int64 millionths with the same answer."""
    ppm = np.rint(probabilities * _PPM).astype(np.int64)
    is_tie = ppm.argmax(1) != answers  # in six decimals, where the answer knew more
    ppm[is_tie, answers[is_tie]] += 1
    if (ppm.argmax(1) != answers).any():
        raise EdgeError("got an answer that is not the most probable class, expected no offsets or thresholds")
    return np.asarray(ppm)


def write(folder: Path, samples: Sequence[Sample], evidence: Evidence, *, force: bool) -> None:
    """Adds a configuration to a folder, which gets its manifest with the first.

    Args:
      folder: Made if needed.
      samples: The whole data set.
      evidence: What to add.
      force: Whether to replace the same configuration and seed.

    Raises:
      EdgeError: the folder is of other images, labels, groups or clusters.
      FileExistsError: the configuration and seed are there, and `force` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, record = (folder / f"{evidence.stem}{suffix}" for suffix in (TABLE, RECORD))
    for path in (table, record):
        check_output(path, force=force)
    manifest = _encode_manifest(samples)
    if not (folder / MANIFEST).exists():
        write_output(folder / MANIFEST, manifest)
    elif (folder / MANIFEST).read_text(encoding="utf-8") != manifest:
        text = "is of other images, labels, groups or clusters, expected another folder for this data"
        raise EdgeError(f"{folder / MANIFEST}: {text}")
    columns = ["path", "fold", *(f"ppm_{name}" for name in evidence.classes)]
    rows = zip(evidence.paths, evidence.folds.tolist(), evidence.ppm.tolist(), strict=True)
    text = _csv([columns, *([path, fold, *ppm] for path, fold, ppm in rows)])
    write_output(table, gzip.compress(text.encode(), mtime=0))  # without the time: equal predictions, equal bytes
    names = [field.name for field in fields(Evidence) if field.name not in _KEPT_AS_CSV]
    values = {name: getattr(evidence, name) for name in names}
    values["runs"] = [asdict(run) for run in evidence.runs]
    write_output(record, json.dumps({"schema": SCHEMA, **values}, ensure_ascii=False, indent=1) + "\n")


def read(folder: Path, stem: str) -> Evidence:
    """Reads one configuration with one seed.

    Raises:
      EdgeError: a file is missing or damaged.
    """
    path, table = folder / f"{stem}{RECORD}", folder / f"{stem}{TABLE}"
    record = read_record(path)
    try:
        columns = ["path", "fold", *(f"ppm_{name}" for name in record["classes"])]
        evidence = Evidence(**record, **_read_table(table, columns))
    except (LookupError, TypeError) as error:
        raise EdgeError(f"{path}: damaged: {error}") from error
    if evidence.offsets is not None:
        raise EdgeError(f"{path}: has class offsets, as an earlier version wrote them, expected none")
    if evidence.stem != stem:
        raise EdgeError(f"{path}: is of {evidence.stem}, expected the files to have that name")
    got, expected = Counter(evidence.folds.tolist()), {run.fold: run.images for run in evidence.runs}
    if got != expected:
        raise EdgeError(f"{table}: got images of folds {dict(got)}, expected those of {path.name}, {expected}")
    return evidence


def read_record(path: Path) -> dict[str, Any]:
    """The fields of an `Evidence` that its JSON file holds: all but the predictions, which take far longer to read.

    Raises:
      EdgeError: the file is missing or damaged.
    """
    record = read_json(path)
    if record.pop("schema", None) != SCHEMA:
        raise EdgeError(f"{path}: got another schema, expected {SCHEMA!r}")
    try:
        record["runs"] = [RunRecord(**run) for run in record["runs"]]
    except (LookupError, TypeError) as error:
        raise EdgeError(f"{path}: damaged: {error}") from error
    return record


def _read_table(path: Path, columns: list[str]) -> dict[str, Any]:
    try:
        text = gzip.decompress(path.read_bytes()).decode()
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        if rows[:1] != [columns] or len(rows) < 2:
            got = ",".join(rows[0] if rows else [])[:80]
            raise ValueError(f"got columns {got!r}, expected {','.join(columns)}, and rows")
        for number, row in enumerate(rows[1:], start=1):
            if len(row) != len(columns):
                raise ValueError(f"row {number}: got {len(row)} fields, expected {len(columns)}")
        numbers = np.array([row[1:] for row in rows[1:]]).astype(np.int64)
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError, OverflowError, csv.Error) as error:
        raise EdgeError(f"{path}: damaged: {error}") from error
    except OSError as error:
        raise EdgeError(f"{path}: cannot be read: {error.strerror}") from error
    paths, folds, ppm = [row[0] for row in rows[1:]], numbers[:, 0], numbers[:, 1:]
    if len({*paths}) < len(paths):
        raise EdgeError(f"{path}: has a path twice, expected each once")
    if numbers.min() < 0 or (abs(ppm.sum(1) - _PPM) > _SLACK).any():
        raise EdgeError(f"{path}: got millionths that do not add up to {_PPM}, expected probabilities")
    return {"paths": paths, "folds": folds, "ppm": ppm}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object, or says why not."""
    try:
        return json_object(path.read_bytes(), str(path))
    except OSError as error:
        raise EdgeError(f"{path}: cannot be read: {error.strerror}") from error


def _encode_manifest(samples: Sequence[Sample]) -> str:
    has_coarse = any(sample.coarse for sample in samples)
    columns = ["path", "class", "group", "cluster", *(["coarse"] if has_coarse else [])]
    rows = [[s.path, s.label, s.group, s.cluster, *([s.coarse] if has_coarse else [])] for s in samples]
    return _csv([columns, *rows])


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
