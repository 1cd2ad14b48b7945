"""Better results from finished runs, without training: a last layer fitted anew, class offsets.

Each writes a run folder, or a file, of its own that says what it came from, and is measured on the same held-out
images as the run it came from.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench.dataset import DatasetError, Sample, classes_of, index
from bench.marks import cluster_mark
from edge.outputs import write_output
from edge.preprocess import Preprocess

from . import checkpoint as checkpoints
from .bias import read_bias
from .checkpoint import OFFSETS, Checkpoint, CheckpointError
from .config import TrainConfig
from .data import ImageSet, load_images, scale_tensor
from .heldout import embed
from .leaks import mark_leaky
from .marks import OverlapError, check_disjoint
from .network import build
from .posthoc import refit_last_layer
from .run import METRICS, PREDICTIONS, write_json, write_metrics

HELD_OUT = "heldout.txt"

_RUN_FILES = (
    "LEAKY.txt", HELD_OUT, "search.txt", "config.json", "log.csv", "log.jsonl", PREDICTIONS, METRICS, checkpoints.NAME,
)
"""What a run may consist of; what the one before left there goes."""


def refit(root: Path, run: Path, out: Path, *, label_column: str, group_column: str = "group", balance: bool) -> None:
    """Fits the last layer anew on the images that the body was trained on, body unchanged.

    The labels need not be those of the run: features that were learned on many fine classes may tell few coarse ones
    better than features learned on the coarse.

    Args:
      root: The data set.
      run: A finished run.
      out: Folder of the new run.
      label_column: The manifest's class column; its classes are the new run's.
      group_column: The manifest's group column.
      balance: Whether all classes and groups count alike, or all images.

    Source: Kirichenko et al., Last layer re-training is sufficient for robustness to spurious correlations, 2022,
    arXiv 2204.02937. Differs: on the images that the body was trained on, since there are no others to spare.

    Raises:
      CheckpointError: no run there.
      DatasetError: the data set has none of the images it was trained on.
    """
    state = checkpoints.load(run)
    config = TrainConfig.from_dict(state.config)
    preprocess = Preprocess.from_json(state.preprocess)
    samples = index(root, label_column=label_column, group_column=group_column)
    seen = _loaded(root, _seen(samples, state), preprocess)
    classes = list(classes_of(samples))
    if absent := sorted({*classes} - {sample.label for sample in seen.samples}):
        raise DatasetError(f"{run}: was trained on no image of {absent[0]}, expected some of each class")
    model = build(config.model, len(state.classes))
    model.load_state_dict(state.weights)
    features = embed(model, seen.pixels, scale=scale_tensor(preprocess))
    groups = sorted({sample.group for sample in seen.samples})
    weight, bias = refit_last_layer(
        features.double().numpy(),
        np.array([classes.index(sample.label) for sample in seen.samples]),
        np.array([groups.index(sample.group) for sample in seen.samples]),
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
    _write(out, derived, run, root, samples, leaky=[run.name] if state.leaky else [])


def shift(root: Path, run: Path, bias: Path, out: Path, *, label_column: str, group_column: str = "group") -> None:
    """Adds class offsets to the last layer; its temperature and its figures are measured anew.

    Args:
      root: The data set.
      run: A finished run.
      bias: A file of `class_bias`, fitted on other folds than the run holds out, whose figures it would flatter.
      out: Folder of the new run.
      label_column: The manifest's class column.
      group_column: The manifest's group column.

    Raises:
      BiasError: a file that is none of `bias.class_bias`.
      CheckpointError: no such run, offsets of other classes, a cosine head, or a run that has offsets already.
      OverlapError: the offsets were fitted on the fold that the run holds out, or on folds of another file.
    """
    state, found = checkpoints.load(run), read_bias(bias)
    if found.classes != state.classes:
        got, expected = ", ".join(found.classes), ", ".join(state.classes)
        raise CheckpointError(f"{bias}: offsets of {got}, expected those of {expected}")
    if TrainConfig.from_dict(state.config).model.head != "linear":
        raise CheckpointError(
            f"{run}: has cosines for logits, which use multiplies by the length of the feature: no offset fits all; "
            "expected a linear head (edge-train refit makes one)"
        )
    if OFFSETS in state.sources:
        raise CheckpointError(f"{run}: has class offsets already, expected the run that they were added to")
    is_same_file = found.folds_sha256 == [str(state.folds_sha256)]
    if state.hold_out is not None and (state.hold_out in found.folds or not is_same_file):
        got = ", ".join(map(str, found.folds)) + ("" if is_same_file else " of another folds file")
        raise OverlapError(
            f"{bias}: fitted on the held-out images of folds {got}; {run} holds out {state.hold_out}: "
            "expected offsets of the other folds' runs alone"
        )
    weights = {**state.weights}
    weights["head.fc.bias"] = weights["head.fc.bias"] + torch.tensor(found.offsets).to(weights["head.fc.bias"])
    derived = replace(
        state,
        result=weights,
        sources={**state.sources, OFFSETS: found.sha256},
        recipe=f"{state.recipe} with class offsets ({found.objective}, {found.form})",
    )
    leaky = [name for name, is_leaky in ((run.name, state.leaky), (bias.name, found.is_leaky)) if is_leaky]
    _write(out, derived, run, root, index(root, label_column=label_column, group_column=group_column), leaky=leaky)


def _named(path: Path, samples: Sequence[Sample]) -> list[Sample]:
    """The samples that a run's list names.

    Raises:
      CheckpointError: it is no list of names.
      DatasetError: some are not there; without them a figure would be of others than the run's own.
    """
    try:
        names = {*path.read_text(encoding="utf-8").splitlines()} if path.exists() else set()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: is no UTF-8, expected the list that edge-train fit wrote") from error
    found = [sample for sample in samples if sample.path in names]
    if absent := names - {sample.path for sample in found}:
        raise DatasetError(f"{path}: {len(absent)} of {len(names)} images are not in the data set, e.g. {min(absent)}")
    return found


def _loaded(root: Path, samples: Sequence[Sample], preprocess: Preprocess) -> ImageSet:
    """All of these images.

    Raises:
      DatasetError: one cannot be read.
    """
    images = load_images(root, samples, preprocess, quiet=True)
    for path, reason in images.unusable.items():
        raise DatasetError(f"{root / path}: {reason}, expected a picture that can be read, as {len(samples)} others")
    return images


def _seen(samples: Sequence[Sample], state: Checkpoint) -> list[Sample]:
    """What a run was trained on, in an order that has all classes early."""
    known = {*state.clusters}
    seen = [sample for sample in samples if cluster_mark(sample.cluster) in known]
    if not seen:
        raise DatasetError("has none of the images that the run was trained on, expected its own data set")
    return [seen[i] for i in np.random.default_rng(0).permutation(len(seen))]


def _write(
    out: Path, state: Checkpoint, origin: Path, root: Path, samples: Sequence[Sample], *, leaky: Sequence[str]
) -> None:
    """The new run, measured on what the old one held out; marked where one that it came from is.

    It is made beside its place and moved there: a run is there whole or not at all.

    Raises:
      FileExistsError: it would replace the run that it comes of, or a file.
      OverlapError: the old run's list of held-out images names some that it was trained on.
      DatasetError: such an image is not there or cannot be read, or is of another class.
    """
    if out.exists() and (not out.is_dir() or out.resolve() == origin.resolve()):
        raise FileExistsError(errno.EEXIST, "is a file, or the run that it comes of: expected another folder", str(out))
    held_out = _named(origin / HELD_OUT, samples)
    if unknown := sorted({sample.label for sample in held_out} - {*state.classes}):
        expected = f"expected one of {', '.join(state.classes)} (see --label)"
        raise DatasetError(f"{origin / HELD_OUT}: got an image of the class {unknown[0]!r}, {expected}")
    if not leaky:
        check_disjoint(state.clusters + state.pictures, held_out, root, name=str(origin))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=out) as folder:
        new = Path(folder)
        if leaky:
            state = mark_leaky(state, [f"comes of the leaky run {name}" for name in leaky], new)
        with contextlib.suppress(FileNotFoundError):
            write_output(new / HELD_OUT, (origin / HELD_OUT).read_bytes())
        mark = {"leaky": True} if leaky else {}
        write_json(new / "config.json", {"recipe": state.recipe, **mark, **state.config})
        checkpoints.save(replace(state, metrics=None), new / checkpoints.NAME)
        if held_out:
            images = _loaded(root, held_out, Preprocess.from_json(state.preprocess))
            write_metrics(new, images.samples, images.pixels)
        for name in _RUN_FILES:  # the checkpoint last: with it the run is there
            if (new / name).exists():
                os.replace(new / name, out / name)
            else:
                (out / name).unlink(missing_ok=True)
