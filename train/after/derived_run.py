"""Runs made from finished ones without training: a new last layer, or a prior correction of the old one.

A new run is measured anew on what the old one held out, and marked where one that it comes of is leaky.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.dataset import DatasetError, Sample, as_text, classes_of, index
from bench.provenance import cluster_mark
from bench.results.join import Pairs, join
from edge.output_files import only_writer, write_output
from edge.photo.preprocess import Preprocess
from edge.predictions import read

from .. import checkpoint as checkpoints
from ..checkpoint import OFFSETS, Checkpoint, CheckpointError, load_model
from ..config import TrainConfig
from ..data.feeder import scale_tensor
from ..data.folds import make_folds
from ..data.images import load_all
from ..leakage.checks import LEAKY, LeakError, check_disjoint, mark_leaky
from ..loop.run import METRICS, PREDICTIONS, write_json, write_metrics
from .held_out import embed
from .last_layer import refit_last_layer
from .prior_correction import fit_prior

HELD_OUT = "heldout.txt"
PRIOR = "prior.json"

RUN_FILES = (
    LEAKY, HELD_OUT, "search.txt", "config.json", "log.csv", "log.jsonl", PRIOR, PREDICTIONS, METRICS, checkpoints.NAME,
)
"""What a run may consist of; what the one before left there goes."""


def refit(root: Path, run: Path, out: Path, *, label_column: str, group_column: str, balance: bool) -> None:
    """Writes the run `out`: `run` with a last layer fitted anew on the images that it was trained on.

    The labels need not be those of the run: features that were learned on many fine classes may separate few coarse
    ones better than features learned on the coarse. Balanced, all classes and groups count alike, else all images.

    Source: Kirichenko et al., Last layer re-training is sufficient for robustness to spurious correlations, 2022,
    arXiv 2204.02937. Differs: on the images that the body was trained on, since there are no others to spare.

    Raises:
      CheckpointError: no run there.
      DatasetError: the data set has none of the images it was trained on, or none of a class.
    """
    model, preprocess, _, state = load_model(run)
    config = TrainConfig.from_dict(state.config)
    samples, known = index(root, label_column=label_column, group_column=group_column), {*state.clusters}
    seen = [sample for sample in samples if cluster_mark(sample.cluster) in known]
    if not seen:
        raise DatasetError("has none of the images that the run was trained on, expected its own data set")
    seen = [seen[i] for i in np.random.default_rng(0).permutation(len(seen))]  # which has all classes early
    classes, groups = list(classes_of(samples)), sorted({sample.group for sample in seen})
    images = load_all(root, seen, preprocess)
    if absent := sorted({*classes} - {sample.label for sample in seen}):
        raise DatasetError(f"{run}: was trained on no image of {absent[0]}, expected some of each class")
    weight, bias = refit_last_layer(
        embed(model, images.pixels, scale=scale_tensor(preprocess)).double().numpy(),
        np.array([classes.index(sample.label) for sample in seen]),
        np.array([groups.index(sample.group) for sample in seen]),
        num_classes=len(classes),
        seed=config.optim.seed,
        balance=balance,
    )
    weights = {name: tensor for name, tensor in state.weights.items() if not name.startswith("head.")}
    weights |= {"head.fc.weight": torch.from_numpy(weight).float(), "head.fc.bias": torch.from_numpy(bias).float()}
    plain = {"head": "linear", "neck": False, "distill_head": False, "dropout": 0.0, "margin_type": "none"}
    derived = replace(
        state,
        config=config.changed(**plain).to_dict(),
        result=weights,
        classes=classes,
        sources={name: value for name, value in state.sources.items() if name != OFFSETS},
        recipe=f"refit (--label {label_column} --balance {'cells' if balance else 'none'}) of {state.recipe}",
    )
    _write(out, derived, run, root, samples, leaky=[run.name] if state.leaky else [], more={})


def correct(
    root: Path, run: Path, others: Sequence[Path], out: Path, *, label_column: str, group_column: str
) -> dict[str, Any]:
    """Writes the run `out`: `run` with a prior correction, fitted on what runs of other folds predict of theirs.

    Returns:
      What prior.json in the new folder says: `tau`, the `offsets` of the `classes`, the accuracy `before` and `after`
      (nested: on no cluster that the number was fitted on), and what it was fitted on.

    Raises:
      CheckpointError: no finished run, other classes, a cosine head, or a run that is corrected already.
      DatasetError: an image held out by two runs, or of a class that they do not know, or too few images to fit.
      LeakError: one of the others predicts what `run` is measured on, and would flatter its figures.
    """
    state, states = checkpoints.load(run), [checkpoints.load(other) for other in others]
    if TrainConfig.from_dict(state.config).model.head != "linear":
        text = "has cosines for logits, which use multiplies by the length of the feature: no offset fits all"
        raise CheckpointError(f"{run}: {text}; expected a linear head (edge-train refit makes one)")
    if OFFSETS in state.sources:
        raise CheckpointError(f"{run}: has a prior correction already, expected the run that it was added to")
    for other, its in zip(others, states, strict=True):
        is_same_file = its.folds_sha256 == state.folds_sha256
        if state.hold_out is not None and (its.hold_out == state.hold_out or not is_same_file):
            got = f"fold {its.hold_out}" + ("" if is_same_file else " of another folds file")
            expected = f"{run} holds out {state.hold_out}: expected only runs of the other folds"
            raise LeakError(f"{other}: predicts the held-out images of {got}; {expected}")
    samples = index(root, label_column=label_column, group_column=group_column)
    parts = held_out_pairs([as_text(sample) for sample in samples], others, states, classes=state.classes)
    pairs = [pair for part in parts for pair in part]
    chosen = [sample for sample, _ in pairs]
    _check_labels(chosen, state.classes, where=others[0])
    fold_of = make_folds(chosen)
    found = fit_prior(
        np.log(np.maximum(np.array([prediction.probabilities for _, prediction in pairs], np.float64), 1e-12)),
        np.array([state.classes.index(sample.label) for sample in chosen]),
        np.array([fold_of[sample.path] for sample in chosen]),
    )
    leaky = [path.name for path, one in zip((run, *others), (state, *states), strict=True) if one.leaky]
    record = {
        "classes": state.classes,
        "tau": found.tau,
        "offsets": [round(float(value), 6) for value in found.offsets],
        "before": round(found.before, 6),
        "after": round(found.after, 6),
        "images": len(pairs),
        "folds": [one.hold_out for one in states],
        "folds_sha256": sorted({str(one.folds_sha256) for one in states}),
        "note": "fitted on out-of-fold predictions to raise the accuracy; `after` is nested",
        **({"leaky": True} if leaky else {}),
    }
    text = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
    bias = state.weights["head.fc.bias"]
    derived = replace(
        state,
        result={**state.weights, "head.fc.bias": bias + torch.tensor(record["offsets"]).to(bias)},
        sources={**state.sources, OFFSETS: hashlib.sha256(text.encode()).hexdigest()},
        recipe=f"{state.recipe} with a prior correction (tau {found.tau:g})",
    )
    _write(out, derived, run, root, samples, leaky=leaky, more={PRIOR: text})
    return record


def held_out_pairs(
    samples: Sequence[Sample], runs: Sequence[Path], states: Sequence[Checkpoint], *, classes: list[str]
) -> list[Pairs]:
    """For each run the images that it held out, with its predictions.

    Raises:
      CheckpointError: a run without held-out predictions, or of other classes.
      DatasetError: an image held out by two runs.
      EdgeError: predictions for an image that the data set does not have.
    """
    parts: list[Pairs] = []
    seen = set[str]()
    for run, state in zip(runs, states, strict=True):
        if state.classes != classes or state.metrics is None or not (run / PREDICTIONS).exists():
            raise CheckpointError(f"{run}: no held-out predictions of {', '.join(classes)}, expected a finished run's")
        pairs = join(samples, read(run / PREDICTIONS).rows, subset=True)
        paths = {sample.path for sample, _ in pairs}
        if twice := seen & paths:
            text = "is held out by two of the runs, expected runs of different folds"
            raise DatasetError(f"{run}: {min(twice)} {text}")
        seen |= paths
        parts.append(pairs)
    return parts


def _write(
    out: Path,
    state: Checkpoint,
    origin: Path,
    root: Path,
    samples: Sequence[Sample],
    *,
    leaky: Sequence[str],
    more: Mapping[str, str],
) -> None:
    """Writes a run and measures it on what `origin` held out; it is there whole or not at all."""
    if out.exists() and (not out.is_dir() or out.resolve() == origin.resolve()):
        raise FileExistsError(errno.EEXIST, "is a file, or the run that it comes of: expected another folder", str(out))
    held_out = _named(origin / HELD_OUT, samples)
    _check_labels(held_out, state.classes, where=origin / HELD_OUT)
    if not leaky:
        check_disjoint(state.clusters + state.pictures, held_out, root, name=str(origin))
    with only_writer(out), tempfile.TemporaryDirectory(prefix=".new-", dir=out) as folder:
        new = Path(folder)
        if leaky:
            state = mark_leaky(state, [f"comes of the leaky run {name}" for name in leaky], new)
        with contextlib.suppress(FileNotFoundError):
            write_output(new / HELD_OUT, (origin / HELD_OUT).read_bytes())
        for name, text in more.items():
            write_output(new / name, text)
        mark = {"leaky": True} if leaky else {}
        write_json(new / "config.json", {"recipe": state.recipe, **mark, **state.config})
        checkpoints.save(replace(state, metrics=None), new / checkpoints.NAME)
        if held_out:
            images = load_all(root, held_out, Preprocess.from_json(state.preprocess))
            write_metrics(new, images.samples, images.pixels)
        for name in RUN_FILES:  # the checkpoint last: with it the run is there
            if (new / name).exists():
                os.replace(new / name, out / name)
            else:
                (out / name).unlink(missing_ok=True)


def _named(path: Path, samples: Sequence[Sample]) -> list[Sample]:
    """The samples that a run's list names; all, or a figure would be of others than the run's own."""
    try:
        names = {*path.read_text(encoding="utf-8").splitlines()} if path.exists() else set()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: is no UTF-8, expected the list that edge-train fit wrote") from error
    found = [sample for sample in samples if sample.path in names]
    if absent := names - {sample.path for sample in found}:
        raise DatasetError(f"{path}: {len(absent)} of {len(names)} images are not in the data set, e.g. {min(absent)}")
    return found


def _check_labels(samples: Iterable[Sample], classes: Sequence[str], *, where: Path) -> None:
    if unknown := sorted({sample.label for sample in samples} - {*classes}):
        expected = f"expected one of {', '.join(classes)} (see --label)"
        raise DatasetError(f"{where}: got an image of the class {unknown[0]!r}, {expected}")
