"""A model of either kind, a file or a checkpoint, ready to be asked about images, and what it must not be asked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench.dataset import Sample, choose
from bench.provenance import cluster_mark, cluster_marks, seen_samples, trained_on
from edge.classifier import Classifier
from edge.device import usable_cores
from edge.errors import DecodeError, EdgeError, ModelError
from edge.photo.preprocess import Preprocess
from edge.predictions import path_text
from train import checkpoint
from train.data.feeder import scale_tensor
from train.networks.head import to_linear

_BATCH_SIZE = 16


class Pair(NamedTuple):
    """Two forms of one model, and the images to ask them about."""

    a: Path
    """A model file (.onnx), else a run folder or a checkpoint."""
    b: Path | None
    """The same; None: A, with every photo decoded at full size."""
    subset: Sequence[str] | None
    """Paths of the images, as the data set has them; None: all."""


@dataclass(frozen=True)
class Runner:
    """A model of either kind, ready to be asked."""

    path: Path
    kind: str
    """"onnx", "checkpoint" or "full decode"."""
    sha256: str
    """Of the file."""
    classes: tuple[str, ...]
    preprocess: Preprocess
    temperature: float | None
    """None for a checkpoint, which takes that of the model file beside it."""
    logits: Callable[[np.ndarray], np.ndarray]
    """(N, S, S, 3) uint8 RGB -> (N, C) float32; may be called from several threads at once."""
    metadata: Mapping[str, str]
    """Of a model file; a checkpoint has none."""
    marks: frozenset[str] | None = None
    """Of all that a checkpoint was trained on (`bench.provenance`); None of a leaky one, and of a model file."""


def open_model(path: Path) -> Runner:
    """Loads a model of either kind; raises ModelError or CheckpointError.

    A checkpoint answers by the layer its head folds into, as its export does: of a cosine head that is the trained
    head's answer with other probabilities.
    """
    if path.suffix == ".onnx":
        model = Classifier.load(path)
        known = model.sha256, model.classes, model.preprocess, model.temperature, model.logits
        return Runner(path, "onnx", *known, model.metadata)
    network, preprocess, classes, state = checkpoint.load_model(path)
    linear, scale = to_linear(network.head), scale_tensor(preprocess)
    torch.set_num_threads(1)  # one worker per core asks

    @torch.no_grad()
    def logits(batch: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).float() * scale
        return np.asarray(linear(network.embed(images)).numpy())

    file = path / checkpoint.NAME if path.is_dir() else path
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    marks = None if state.leaky else frozenset(state.clusters)
    return Runner(path, "checkpoint", sha256, classes, preprocess, None, logits, {}, marks)


def open_pair(pair: Pair) -> tuple[Runner, Runner]:
    """Both models of a pair, as `open_model`."""
    a = open_model(pair.a)
    if pair.b is not None:
        return a, open_model(pair.b)
    return a, replace(a, kind="full decode", preprocess=replace(a.preprocess, draft_factor=0))


def choose_images(everything: Sequence[Sample], pairs: Sequence[Pair]) -> list[list[Sample]]:
    """The images of each pair, in the order of the data set."""
    chosen = [list(everything) if pair.subset is None else choose(everything, pair.subset) for pair in pairs]
    counts = Counter(path_text(sample.path) for part in chosen for sample in part)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise EdgeError(f"{len(twice)} images are in two subsets, first {min(twice)}, expected each in one")
    return chosen


def remarks_on_leaks(
    runner: Runner, other: Runner, samples: Sequence[Sample], everything: Sequence[Sample], root: Path, *,
    allow_leak: bool,
) -> Iterator[str]:
    """What is to be said of a model that was, or may have been, trained on images it is asked about."""
    seen = None
    if runner.marks is not None:
        seen = [sample for sample in samples if cluster_mark(sample.cluster) in runner.marks]
    elif runner.metadata:
        beside = [other.marks or ()]
        seen = seen_samples(runner.path, runner.metadata, samples, everything, root, candidates=beside)
    if seen is None:
        what = "does not say what it was trained on"
        if trained_on(runner.metadata) is not None:
            what = "was trained on another part of some data than any known here"
        yield f"{runner.path.name}: {what}; that it never saw these images is not checked"
    elif seen:
        known, asked = len(cluster_marks(seen)), len(cluster_marks(samples))
        text = f"{runner.path}: was trained on {known} of the {asked} clusters asked about"
        if not allow_leak:
            hint = "--held-out RUN/heldout.txt takes those held out, --allow-seen takes these all the same"
            raise EdgeError(f"{text}, expected none; {hint}")
        yield f"{text}: the figures flatter it"


def ask_both(
    root: Path, runners: tuple[Runner, Runner], samples: Sequence[Sample], classes: Sequence[str]
) -> Iterator[tuple[list[str | None], np.ndarray]]:
    """Per batch why each image cannot be used, None if it can, and (2, n, C) logits, 0 where it cannot."""
    pixels_of = [replace(runner.preprocess, scale=1.0) for runner in runners]
    orders = [[runner.classes.index(name) for name in classes] for runner in runners]

    def ask(batch: Sequence[Sample]) -> tuple[list[str | None], np.ndarray]:
        reasons: list[str | None] = []
        pictures: list[list[np.ndarray]] = []
        for sample in batch:
            try:
                first = pixels_of[0](str(root / sample.path))
                same = pixels_of[1] == pixels_of[0]
                pictures.append([first, first if same else pixels_of[1](str(root / sample.path))])
                reasons.append(None)
            except DecodeError as error:
                reasons.append(error.reason)
        logits = np.zeros((2, len(batch), len(classes)), np.float32)
        usable = [reason is None for reason in reasons]
        for runner, images, order, own in zip(runners, zip(*pictures, strict=True), orders, logits, strict=False):
            own[usable] = runner.logits(np.stack(images))[:, order]  # not at all where there are no pictures
            if not np.isfinite(own).all():
                raise ModelError(f"{runner.path}: gives logits that are not finite, near {batch[0].path}")
        return reasons, logits

    batches = [samples[start : start + _BATCH_SIZE] for start in range(0, len(samples), _BATCH_SIZE)]
    with ThreadPoolExecutor(usable_cores()) as executor:
        yield from executor.map(ask, batches)
