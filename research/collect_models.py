"""Evidence from predictions of model files: of a data set they never saw, or of a form of a model by folds.

`collect_runs` does so for training runs, and checks that nothing was trained on what it is measured on. Of a model file
the caller has to know that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.dataset import as_text, classes_of, index
from bench.results.join import class_order, join
from edge.errors import EdgeError
from edge.predictions import read

from . import evidence
from .evidence import Evidence, RunRecord


def collect(
    root: Path, files: Sequence[Path], *, configuration: str, seed: int, folder: Path, label_column: str,
    group_column: str = "group", force: bool,
) -> Evidence:
    """Joins predictions files of different images, and adds them to a folder of evidence.

    Args:
      root: The data set.
      files: Of `edge-infer --probs`, each with its meta; the first is of fold 0.
      configuration: What the tables call them.
      seed: That the models were trained with.
      folder: Of the evidence.
      label_column: The manifest's class column.
      group_column: The manifest's group column.
      force: Whether to replace the same configuration and seed.

    Raises:
      EdgeError: predictions for no image of the data set, or of classes that do not have its labels;
        an image without probabilities or in two files, or files of other classes or without a meta.
    """
    samples = [as_text(sample) for sample in index(root, label_column=label_column, group_column=group_column)]
    order = {sample.path: number for number, sample in enumerate(samples)}
    found, records, classes = {}, [], None
    for fold, file in enumerate(files):
        predictions = read(file)
        if "model_sha256" not in predictions.meta or "classes" not in predictions.meta:
            raise EdgeError(f"{file}: does not tell its model, expected its .meta.json beside it")
        pairs = join(samples, predictions.rows, subset=True)
        known = class_order(predictions.meta, classes_of(samples), pairs)
        if classes not in (None, known):
            raise EdgeError(f"{file}: got the classes {', '.join(known)}, expected those of {files[0]}")
        classes = known
        for _, row in pairs:
            if row.path in found:
                raise EdgeError(f"{file}: has {row.path}, which another file has too, expected it once")
            found[row.path] = fold, row
        records.append(RunRecord(fold, len(pairs), checkpoint_sha256=str(predictions.meta["model_sha256"])))
    paths = sorted(found, key=order.__getitem__)
    added = Evidence(
        configuration=configuration, seed=seed, data=root.resolve().name, label_column=label_column,
        group_column=group_column, classes=classes or [], command="edge-infer --probs", config=None, offsets=None,
        runs=records, paths=paths,
        folds=np.array([found[path][0] for path in paths], np.int64),
        ppm=evidence.ppm_of_predictions([found[path][1] for path in paths]),
    )
    evidence.write(folder, samples, added, force=force)
    return added
