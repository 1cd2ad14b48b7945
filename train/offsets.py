"""Class offsets judged honestly: on each fold those fitted on the predictions of the other folds.

From evidence to evidence: neither the data set nor a checkpoint is needed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bench import evidence
from bench.dataset import Sample, index
from bench.evidence import Evidence, EvidenceError
from bench.protocol import Protocol, read_protocol
from bench.score import PROFILES, reference_group

from .posthoc import Objective, fit_class_bias

SUFFIX = "+offsets"


def with_offsets(folder: Path, configuration: str, *, objective: Objective) -> list[Evidence]:
    """For every seed of `configuration` the same predictions with offsets, as `configuration`+offsets.

    Args:
      folder: Its protocol says which group is the reference, and which are left out of the fit.
      configuration: Whose predictions are used.
      objective: What the offsets are to raise. They tune it.

    Raises:
      EvidenceError: no such configuration, or one of a single fold.
    """
    samples, protocol = index(folder, has_files=False), read_protocol(folder)
    stems = sorted(file.stem for file in folder.glob(f"{configuration}_seed*.json"))
    if not stems:
        raise EvidenceError(f"{folder}: no evidence of {configuration}, expected some of edge-train collect")
    return [_with_offsets(evidence.read(folder, stem), samples, protocol, objective) for stem in stems]


def _with_offsets(base: Evidence, samples: list[Sample], protocol: Protocol, objective: Objective) -> Evidence:
    if len(base.runs) < 2:
        raise EvidenceError(f"{base.stem}: got one fold, expected two at least: offsets are fitted on the others")
    sample_of = {sample.path: sample for sample in samples}
    chosen = [sample_of[path] for path in base.paths]
    groups = sorted({sample.group for sample in samples} - {*protocol.exclude})
    reference = reference_group(
        (sample.group for sample in samples),
        profile=PROFILES["esfair2023"], wanted=protocol.reference, excluded=protocol.exclude,
    )
    x = np.log(np.maximum(base.probabilities, 1e-12))
    compared = np.array([sample.group in groups for sample in chosen])
    fitted = [sample for sample in chosen if sample.group in groups]
    clusters = {name: number for number, name in enumerate(sorted({sample.cluster for sample in fitted}))}
    try:
        found = fit_class_bias(
            x[compared],
            np.array([base.classes.index(sample.label) for sample in fitted]),
            np.array([groups.index(sample.group) for sample in fitted]),
            np.array([clusters[sample.cluster] for sample in fitted]),
            reference_group=groups.index(reference),
            objective=objective,
            folds=base.folds[compared],
        )
    except ValueError as error:  # a label that the model does not know, or no image of the reference
        raise EvidenceError(f"{base.stem}: no offsets can be fitted: {error}") from error
    x = x + np.stack([found.by_fold[fold] for fold in base.folds.tolist()])
    p = np.exp(x - x.max(1, keepdims=True))
    by_fold = {str(fold): [round(float(value), 6) for value in bias] for fold, bias in found.by_fold.items()}
    return replace(
        base,
        configuration=base.configuration + SUFFIX,
        command=f"edge-train offsets FOLDER {base.configuration} --objective {objective}",
        offsets={"objective": objective, "by_fold": by_fold},
        runs=[replace(run, temperature=None) for run in base.runs],  # fitted on other logits
        ppm=evidence.to_ppm(p / p.sum(1, keepdims=True), x.argmax(1)),
    )
