"""A model's answers to pictures and to their changed copies, made one picture at a time and kept nowhere.

A picture is decoded at full size and changed; each copy becomes a photo file in memory, and the runtime reads that file
as it reads any other: scaled decoding and resizing are a part of what is measured. Nothing is drawn by order or thread,
so equal pictures get equal answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edge.classifier import Classifier
from edge.device import memory_mb, usable_cores
from edge.errors import DecodeError, ModelError
from edge.memory_gate import MemoryGate, plan_memory
from edge.photo.decode import PixelLimits, decode

from ..dataset import Sample
from .changes import Change

_BATCH_SIZE = 8
_LIMITS = PixelLimits(full=PixelLimits().any)
"""A change needs every pixel, also of a JPEG so large that the runtime would refuse it but for decoding it smaller."""


def ask(
    classifier: Classifier, root: Path, samples: Iterable[Sample], changes: Sequence[Change], *,
    workers: int | None = None,
) -> Iterator[np.ndarray | DecodeError]:
    """Asks a model about pictures and their changed copies.

    Args:
      classifier: The model.
      root: Folder of the data set.
      samples: Consumed as needed: at most two per worker are ahead of what is taken from here.
      changes: What is done to each picture.
      workers: Threads that each decode, change, encode and run. None: the usable cores.

    Yields:
      Per picture, in order, (1 + K, C) float32 probabilities, of the file itself and of its K changed copies; or why
      the file cannot be used.

    Raises:
      ModelError: the network cannot run, or gives logits that are not finite.
    """
    num_workers = workers or usable_cores()
    available_mb = memory_mb().get("MemAvailable")
    plan = plan_memory(num_workers, available_bytes=None if available_mb is None else available_mb * 1_000_000)
    gate = MemoryGate(plan.gate_bytes)
    pending: deque[Future[np.ndarray | DecodeError]] = deque()
    executor = ThreadPoolExecutor(num_workers)
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
            image = preprocess.upright(decoded.image, decoded.orientation)
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
