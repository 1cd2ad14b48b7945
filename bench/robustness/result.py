"""A model and a data set -> a results file (`edge-bench/1`) of how its answers stand changes.

The file is that of `edge-bench score` for the pictures as they are, so that it can be reported and compared as any,
with one key more, `robustness`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge.classifier import Classifier
from edge.device import memory_mb, usable_cores, versions
from edge.errors import DecodeError, ModelError
from edge.memory_gate import MemoryGate, plan_memory
from edge.photo.decode import PixelLimits, decode
from edge.predictions import Prediction
from edge.progress import Progress

from .. import dataset, provenance
from ..dataset import DatasetError, Sample
from ..metrics import contest
from ..metrics.counts import NO_ANSWER
from ..metrics.evaluation import Frame, Observations, Setting
from ..metrics.fairness import MIN_CELL
from ..metrics.interval import DRAWS
from ..results import build, document
from ..results.join import class_order
from .changes import Change
from .measure import measure

_BATCH_SIZE = 8
_LIMITS = PixelLimits(full=PixelLimits().any)
"""A change needs every pixel, also of a JPEG so large that the runtime would refuse it but for decoding it smaller."""


def robustness(
    classifier: Classifier, root: Path, changes: Sequence[Change], *, subset: Sequence[str] | None = None,
    label_column: str = "class", group_column: str = "group", allow_seen: bool = False, workers: int | None = None,
    draws: int = DRAWS, quiet: bool = True,
) -> dict[str, Any]:
    """Asks a model about pictures and their changed copies, and measures what the changes cost; JSON-ready.

    `subset` has the paths of the pictures, default: all; `allow_seen` takes also those that the model was trained on;
    `draws` are of the bootstrap.

    Raises:
      DatasetError: no data set, a subset that is not of it, fewer pictures than say anything, none that can be used,
        or pictures that the model was trained on.
      EdgeError: a class that the model does not know.
      ModelError: the model cannot run.
    """
    everything = dataset.index(root, label_column=label_column, group_column=group_column)
    chosen = everything if subset is None else dataset.choose(everything, subset)
    if len(chosen) < MIN_CELL:
        raise DatasetError(f"{root}: got {len(chosen)} images, expected at least {MIN_CELL}: fewer give no interval")
    classes = class_order({"classes": list(classifier.classes)}, dataset.classes_of(chosen), [])
    known = provenance.seen_samples(classifier.path, classifier.metadata, chosen, everything, root)
    seen = None if known is None else len(known)
    if seen and not allow_seen:
        raise DatasetError(
            f"{classifier.path}: was trained on {seen} of the {len(chosen)} images, or on others of their clusters, "
            "expected none; --held-out RUN/heldout.txt takes those held out, --allow-seen takes these all the same"
        )
    samples = [dataset.as_text(sample) for sample in chosen]
    setting = _setting(samples, everything, draws)  # before the work: it refuses groups that cannot be compared
    found: list[np.ndarray | DecodeError] = []
    with closing(Progress(len(chosen), quiet=quiet)) as progress:
        for one in ask(classifier, root, chosen, changes, workers=workers):
            found.append(one)
            progress.update(len(found))
    pairs = [(sample, _prediction(sample, one, classes)) for sample, one in zip(samples, found, strict=True)]
    errors = [prediction for _, prediction in pairs if prediction.status == "error"]
    if len(errors) == len(pairs):
        raise DatasetError(f"none of {len(pairs)} images can be used, first {errors[0].path}: {errors[0].error}")
    result = {
        "schema": document.SCHEMA,
        "data": {
            "name": root.resolve().name,
            "label_column": label_column,
            "group_column": group_column,
            "split": None,
            "samples": len(everything),
            "left_out": len(everything) - len(chosen),
        },
        "predictions": {
            "model_sha256": classifier.sha256,
            "model": classifier.description,
            "preprocess": asdict(classifier.preprocess),
            "temperature": classifier.temperature,
            "classes": classes,
            "versions": versions(),
        },
        "errors": {"policy": "wrong", "images": len(errors)},
        **build.metrics(pairs, classes, setting),
    }
    columns = (result["samples"][name] for name in build.OBSERVED)
    data = Observations.of(*columns, classes=classes, reference=setting.reference)
    labels = np.full((len(found), 1 + len(changes)), NO_ANSWER, np.int64)
    confidences = np.full(labels.shape, np.nan, np.float32)
    for i, one in enumerate(found):
        if not isinstance(one, DecodeError):
            labels[i], confidences[i] = one.argmax(-1), one.max(-1)
    frame = Frame(data.counts, data.groups, setting)
    result["robustness"] = {
        "model": classifier.path.name,
        "seen": seen,
        **measure(labels, confidences, changes, data, frame),
        "samples": {change.name: labels[:, k].tolist() for k, change in enumerate(changes, start=1)},
        "remarks": list(_remarks(classifier.path, seen, errors, data, frame)),
    }
    return result


def ask(
    classifier: Classifier, root: Path, samples: Iterable[Sample], changes: Sequence[Change], *,
    workers: int | None = None,
) -> Iterator[np.ndarray | DecodeError]:
    """Asks a model about pictures of a data set and their changed copies.

    A picture is decoded at full size and changed; each copy becomes a photo file in memory, and the runtime reads that
    file as it reads any other: scaled decoding and resizing are a part of what is measured. Equal pictures get equal
    answers. `samples` are consumed as needed, at most two per worker (default: one worker per usable core) ahead of
    what is taken from here.

    Yields:
      Per picture, in order, (1 + K, C) float32 probabilities, of the file itself and of its K changed copies; or why
      the file cannot be used.

    Raises:
      ModelError: the network cannot run, or gives logits that are not finite.
    """
    num_workers = workers or usable_cores()
    available_mb = memory_mb().get("MemAvailable")
    plan = plan_memory(num_workers, available_bytes=None if available_mb is None else available_mb * 1_000_000)
    gate, executor = MemoryGate(plan.gate_bytes), ThreadPoolExecutor(num_workers)
    pending: deque[Future[np.ndarray | DecodeError]] = deque()
    try:
        for sample in samples:
            pending.append(executor.submit(_ask_of_one, classifier, root / sample.path, changes, gate))
            if len(pending) > 2 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _ask_of_one(
    classifier: Classifier, path: Path, changes: Sequence[Change], gate: MemoryGate
) -> np.ndarray | DecodeError:
    preprocess = classifier.preprocess
    pixels = np.empty((1 + len(changes), preprocess.size_px, preprocess.size_px, 3), np.uint8)
    try:
        with gate.image() as admit:  # held until the last change: each makes a copy
            decoded = decode(path, limits=_LIMITS, admit=admit)
            image = preprocess.upright(decoded.in_srgb(decoded.image), decoded.orientation)
            preprocess.load(path, out=pixels[0])
            for change, out in zip(changes, pixels[1:], strict=True):
                preprocess.load(change.file_of(image), out=out)
    except DecodeError as error:
        return error
    batches = [pixels[start : start + _BATCH_SIZE] for start in range(0, len(pixels), _BATCH_SIZE)]
    logits = np.concatenate([classifier.logits(batch) for batch in batches])
    if not np.isfinite(logits).all():
        raise ModelError(f"{classifier.path}: gives logits that are not finite, for {path} or a change of it")
    return classifier.probabilities(logits)


def _prediction(sample: Sample, found: np.ndarray | DecodeError, classes: Sequence[str]) -> Prediction:
    """The answer to the file as it is, of (1 + K, C) probabilities."""
    if isinstance(found, DecodeError):
        return Prediction(sample.path, status="error", error=found.reason, width=found.width, height=found.height)
    best = int(found[0].argmax())
    return Prediction(sample.path, classes[best], best, float(found[0, best]), probabilities=found[0])


def _setting(samples: Sequence[Sample], everything: Sequence[Sample], draws: int) -> Setting:
    """What is compared: the groups that have enough images, where any has."""
    sizes = Counter(sample.group for sample in samples if sample.group != dataset.NOT_STATED)
    small = tuple(sorted(name for name, size in sizes.items() if size < MIN_CELL))
    excluded = small if len(small) < len(sizes) else ()
    profile = contest.PROFILES[contest.DEFAULT]
    reference = contest.reference_group((sample.group for sample in samples), profile=profile, excluded=excluded)
    return Setting(profile, reference, excluded, malignant=dataset.malignant_classes(everything), draws=draws)


def _remarks(
    model: Path, seen: int | None, errors: Sequence[Prediction], data: Observations, frame: Frame
) -> Iterator[str]:
    if seen is None:
        yield f"{model.name}: which images it was trained on is not known; that it never saw these is not checked"
    elif seen:
        what = f"{seen} of these images, or on others of their clusters"
        yield f"{model.name}: was trained on {what}: the figures flatter it"
    if errors:
        yield f"{len(errors)} images cannot be used: wrong in every row, first {errors[0].path}: {errors[0].error}"
    for name in frame.setting.excluded:
        yield f"group {name} has {frame.sizes[data.groups.index(name)]} images, under {MIN_CELL}: not in worst group"
    if len(frame.compared) < 2:
        yield "fewer than two groups to compare: no worst group"
