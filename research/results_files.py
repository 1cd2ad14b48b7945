"""Results files, as `edge-bench score` writes them, of evidence: `edge-bench report` makes a page of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.results import build, document
from edge.predictions import Prediction

from .evidence import Evidence
from .panel import Panel
from .protocol import Folder


def collected_results(folder: Folder) -> Iterator[tuple[str, dict[str, Any]]]:
    """The results of every configuration and seed.

    Probabilities are as collected: temperatures of the other folds are not applied, which moves no answer.

    Yields:
      A name, "2-NAME_seed0" ("02-" of ten and more) for the second in the protocol's order, so that files sorted by
      name, as a page has them, are in that order too; and its results.

    Raises:
      EdgeError: the data has a class that the model does not know, or that is masked; no such reference group.
    """
    panel, width = Panel(folder), len(str(len(folder.configurations)))
    for number, seeds in enumerate(folder.configurations.values(), start=1):
        for evidence in seeds:
            yield f"{number:0{width}}-{evidence.stem}", _results(folder, panel, evidence)


def _results(folder: Folder, panel: Panel, evidence: Evidence) -> dict[str, Any]:
    sample_of = {sample.path: sample for sample in folder.samples}
    classes, p = panel.classes(evidence), panel.masked(evidence)
    p = p / np.maximum(p.sum(1, keepdims=True), np.finfo(np.float64).tiny)
    pairs = []
    for path, row in zip(evidence.paths, p, strict=True):
        answer = int(row.argmax())
        pairs.append((sample_of[path], Prediction(
            path, classes[answer], answer, float(row[answer]), probabilities=row
        )))
    return {
        "schema": document.SCHEMA,
        "data": {
            "name": evidence.data,
            "label_column": evidence.label_column,
            "group_column": evidence.group_column,
            "split": None,
            "samples": len(folder.samples),
            "left_out": len(folder.samples) - len(pairs),
        },
        "predictions": {},
        "errors": {"policy": "wrong", "images": 0},
        **build.metrics(pairs, classes, panel.setting),
        "gates": [],
    }
