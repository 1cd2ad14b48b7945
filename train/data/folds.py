"""Grouped, stratified folds: no cluster is ever cut, and every class x group cell is spread evenly.

Cutting clusters is the commonest flaw of published results on such data: with two photos of one lesion on both
sides of a split, accuracy measures memory. The folds are a file, so that every run can name the ones it used.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.dataset import DatasetError, Sample

_COLUMNS = ["path", "cluster", "fold"]


def make_folds(samples: Sequence[Sample], *, num_folds: int = 5, seed: int = 0) -> dict[str, int]:
    """Assigns every cluster to a fold: path of each sample -> fold, 0 to num_folds - 1.

    Greedy: large clusters first, those of one size in an order by the seed. Each goes where it raises the chi-square
    distance from equal shares of every class x group cell the least, then to the fold with the fewest images.

    Raises:
      DatasetError: fewer clusters than folds.
      ValueError: fewer than 2 folds.
    """
    if num_folds < 2:
        raise ValueError(f"folds: got {num_folds}, expected at least 2")
    cells = {cell: i for i, cell in enumerate(sorted({(s.label, s.group) for s in samples}))}
    share = np.zeros(len(cells))
    clusters: dict[str, list[int]] = defaultdict(list)  # the cells of its images
    for sample in samples:
        cell = cells[sample.label, sample.group]
        share[cell] += 1 / num_folds
        clusters[sample.cluster].append(cell)
    if len(clusters) < num_folds:
        raise DatasetError(f"got {len(clusters)} clusters for {num_folds} folds, expected at least one each")
    names = sorted(clusters)
    np.random.default_rng(seed).shuffle(names)
    names.sort(key=lambda name: -len(clusters[name]))
    counts = np.zeros((num_folds, len(cells)))
    fold_of: dict[str, int] = {}
    for name in names:
        added = np.bincount(clusters[name], minlength=len(cells)).astype(float)
        distance = ((2 * counts * added + added**2) / share).sum(axis=1)
        fold = int(np.lexsort((counts.sum(axis=1), distance.round(9)))[0])
        counts[fold] += added
        fold_of[name] = fold
    return {sample.path: fold_of[sample.cluster] for sample in samples}


def encode_folds(samples: Sequence[Sample], fold_of: Mapping[str, int]) -> str:
    """The folds file: CSV with the columns path, cluster, fold, in the order of the samples."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((sample.path, sample.cluster, fold_of[sample.path]) for sample in samples)
    return text.getvalue()


def read_folds(path: Path, samples: Sequence[Sample]) -> tuple[dict[str, int], str]:
    """Reads a folds file: path of each sample -> fold, and the file's SHA-256; it may cut clusters.

    Raises:
      DatasetError: unreadable, of another form, or for other samples.
    """
    try:
        content = path.read_bytes()
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))  # Excel's mark
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: no valid CSV: {error}") from error
    if not rows or rows[0] != _COLUMNS:
        got = ",".join(rows[0]) if rows else "none"
        raise DatasetError(f"{path}: got columns {got}, expected {','.join(_COLUMNS)}")
    fold_of: dict[str, int] = {}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != 3 or not (row[2].isascii() and row[2].isdigit()):
            raise DatasetError(f"{path}: row {line}: got {','.join(row)[:80]!r}, expected path,cluster,fold")
        if row[0] in fold_of:
            raise DatasetError(f"{path}: row {line}: {row[0]} is there twice, expected once")
        fold_of[row[0]] = int(row[2])
    present = {sample.path for sample in samples}
    if absent := [name for name in fold_of if name not in present]:
        raise DatasetError(f"{path}: {len(absent)} paths are not in the data set, e.g. {absent[0]}")
    if unassigned := [sample.path for sample in samples if sample.path not in fold_of]:
        raise DatasetError(f"{path}: {len(unassigned)} samples have no fold, e.g. {unassigned[0]}")
    return fold_of, hashlib.sha256(content).hexdigest()
