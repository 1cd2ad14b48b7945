"""Class offsets judged honestly: on each fold those fitted on the predictions of the other folds.

From evidence to evidence: neither the data set nor a checkpoint is needed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bench import evidence
from bench.dataset import NOT_STATED, Sample, index
from bench.evidence import Evidence, EvidenceError
from bench.protocol import Protocol, read_protocol
from bench.score import PROFILES, reference_group

from .posthoc import Form, Objective, fit_class_bias
from .temperature import fit_temperature

SUFFIXES: dict[Form, str] = {"classes": "+offsets", "prior": "+prior"}


def with_offsets(folder: Path, configuration: str, *, objective: Objective, form: Form) -> list[Evidence]:
    """For every seed of `configuration` the same predictions with offsets, as `configuration` with a suffix.

    Args:
      folder: Its protocol says which group is the reference, and which are left out of the fit.
      configuration: Whose predictions are used.
      objective: What the offsets are to raise. They tune it.
      form: An offset for each class, or one number times the log share of the classes.

    Raises:
      EvidenceError: no such configuration, or one of a single fold.
    """
    samples, protocol = index(folder, has_files=False), read_protocol(folder)
    stems = sorted(file.stem for file in folder.glob(f"{configuration}_seed*.json"))
    if not stems:
        raise EvidenceError(f"{folder}: no evidence of {configuration}, expected some of edge-train collect")
    return [_with_offsets(evidence.read(folder, stem), samples, protocol, objective, form) for stem in stems]


def _with_offsets(
    base: Evidence, samples: list[Sample], protocol: Protocol, objective: Objective, form: Form
) -> Evidence:
    if len(base.runs) < 2:
        raise EvidenceError(f"{base.stem}: got one fold, expected two at least: offsets are fitted on the others")
    sample_of = {sample.path: sample for sample in samples}
    chosen = [sample_of[path] for path in base.paths]
    groups = sorted({sample.group for sample in samples} - {*protocol.exclude, NOT_STATED})
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
            form=form,
            folds=base.folds[compared],
        )
    except ValueError as error:  # a label that the model does not know, or no image of the reference
        raise EvidenceError(f"{base.stem}: no offsets can be fitted: {error}") from error
    x = x + np.stack([found.by_fold[fold] for fold in base.folds.tolist()])
    p = np.exp(x - x.max(1, keepdims=True))
    labels = np.array([base.classes.index(sample.label) for sample in chosen])

    def temperature_of(fold: int) -> float:
        return fit_temperature(x[base.folds == fold], labels[base.folds == fold])

    by_fold = {str(fold): [round(float(value), 6) for value in bias] for fold, bias in found.by_fold.items()}
    return replace(
        base,
        configuration=base.configuration + SUFFIXES[form],
        command=f"edge-train offsets FOLDER {base.configuration} --objective {objective} --form {form}",
        offsets={"objective": objective, "form": form, "by_fold": by_fold},
        runs=[replace(run, temperature=round(temperature_of(run.fold), 6)) for run in base.runs],
        ppm=evidence.to_ppm(p / p.sum(1, keepdims=True), x.argmax(1)),
    )
