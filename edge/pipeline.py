"""Many images through one classifier: every core busy, results in order, memory bounded.

Each worker owns a buffer of B images. It takes the next image, decodes it straight into its buffer and, when the
buffer is full, runs the one shared session (one thread inside) on it. No stage waits for another: a worker is
either decoding or inferring, so long photos and short ones balance by themselves.

Results leave through a reorder window. A worker may run at most `window` images ahead of the consumer, so nothing
grows with the number of images; a worker that reaches the end of the window first runs what it holds, otherwise
the image the consumer waits for could sit in a half-full buffer for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from .decode import Admit, PixelLimits, Source, describe
from .device import usable_cores
from .errors import DecodeError
from .predictions import Prediction, UNCERTAIN, UNCERTAIN_INDEX
from .preprocess import Loaded

if TYPE_CHECKING:
    from .classifier import Classifier

FREE_BYTES = 16 << 20
"""Decodes that need less than this pass the memory gate: a 24-megapixel baseline JPEG at 1/8 needs 1.5 MB."""

GATE_BYTES = 160 << 20
"""What larger decodes may hold together. One that needs more than all of it is decoded alone."""


def run(
    classifier: Classifier,
    sources: Iterable[Source],
    *,
    workers: int | None = None,
    batch_size: int = 4,
    limits: PixelLimits = PixelLimits(),
    min_confidence: float = 0.0,
) -> Iterator[Prediction]:
    """Classifies `sources`; arguments and results as in `Classifier.predict`.

    Closing the iterator, or an exception in the consumer (Ctrl-C), stops the workers within one batch.

    Raises:
      ValueError: `workers` or `batch_size` below 1.
      Exception: whatever a worker raised that is not a DecodeError; the run ends.
    """
    num_workers = usable_cores() if workers is None else workers
    if num_workers < 1 or batch_size < 1:
        raise ValueError(f"got {num_workers} workers, batch size {batch_size}; expected at least 1 of each")
    return _Run(classifier, sources, num_workers, batch_size, limits, min_confidence).results()


class MemoryGate:
    """Admits large images while their bytes together stay below a limit; one is always admitted."""

    def __init__(self, limit_bytes: int = GATE_BYTES) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._freed = threading.Condition()

    @contextmanager
    def image(self) -> Iterator[Admit]:
        """A context for one image: yields the function that waits for its bytes, and gives them back at the end."""
        held = 0

        def admit(num_bytes: int) -> None:
            nonlocal held
            if num_bytes < FREE_BYTES:
                return
            with self._freed:
                self._freed.wait_for(lambda: self._used == 0 or self._used + num_bytes <= self._limit)
                self._used += num_bytes
                held = num_bytes

        try:
            yield admit
        finally:
            if held:
                with self._freed:
                    self._used -= held
                    self._freed.notify_all()


class _Run:
    """The state that workers and consumer share; everything below `_changed` is guarded by it."""

    def __init__(
        self,
        classifier: Classifier,
        sources: Iterable[Source],
        num_workers: int,
        batch_size: int,
        limits: PixelLimits,
        min_confidence: float,
    ) -> None:
        self._classifier = classifier
        self._batch_size = batch_size
        self._limits = limits
        self._min_confidence = min_confidence
        self._gate = MemoryGate()
        self._window = 2 * num_workers * max(batch_size, 4)
        self._threads = [
            threading.Thread(target=self._work, name=f"edge-worker-{i}", daemon=True) for i in range(num_workers)
        ]
        self._changed = threading.Condition()
        self._sources: Iterator[Source] = iter(sources)
        self._taken = 0
        self._emitted = 0
        self._finished: dict[int, Prediction] = {}
        self._is_over = False  # no source left, or the run was stopped
        self._failure: BaseException | None = None

    def results(self) -> Iterator[Prediction]:
        for thread in self._threads:
            thread.start()
        try:
            while (prediction := self._next_result()) is not None:
                yield prediction
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()
            for thread in self._threads:
                thread.join()

    def _next_result(self) -> Prediction | None:
        with self._changed:
            while self._emitted not in self._finished:
                if self._failure is not None:
                    raise self._failure
                if self._is_over and self._emitted == self._taken:
                    return None
                self._changed.wait()
            prediction = self._finished.pop(self._emitted)
            self._emitted += 1
            self._changed.notify_all()
            return prediction

    def _work(self) -> None:
        try:
            self._decode_and_run()
        except BaseException as error:  # handed to the consumer: a thread must not die in silence
            with self._changed:
                self._failure = self._failure or error
                self._is_over = True
                self._changed.notify_all()

    def _decode_and_run(self) -> None:
        side = self._classifier.preprocess.size_px
        buffer = np.empty((self._batch_size, side, side, 3), np.uint8)
        held: list[tuple[int, str, Loaded]] = []
        while True:
            task = self._take(may_wait=not held)
            if task is not None:
                index, source = task
                try:
                    with self._gate.image() as admit:
                        loaded = self._classifier.preprocess.load(
                            source, out=buffer[len(held)], limits=self._limits, admit=admit
                        )
                except DecodeError as error:
                    self._publish({index: Prediction.failed(error)})
                else:
                    held.append((index, describe(source), loaded))
            if held and (task is None or len(held) == self._batch_size):
                self._publish(self._infer(buffer[: len(held)], held))
                held = []
            elif task is None:
                return

    def _take(self, *, may_wait: bool) -> tuple[int, Source] | None:
        """The next image; None at the end, or, unless `may_wait`, at the end of the window."""
        with self._changed:
            while may_wait and not self._is_over and self._taken >= self._emitted + self._window:
                self._changed.wait()
            if self._is_over or self._taken >= self._emitted + self._window:
                return None
            try:
                source = next(self._sources)
            except StopIteration:
                self._is_over = True
                self._changed.notify_all()
                return None
            self._taken += 1
            return self._taken - 1, source

    def _infer(self, batch: np.ndarray, held: list[tuple[int, str, Loaded]]) -> dict[int, Prediction]:
        start = perf_counter()
        logits = self._classifier.logits(batch)
        infer_ms = 1e3 * (perf_counter() - start) / len(held)
        probabilities = self._classifier.probabilities(logits)
        return {
            index: self._prediction(name, loaded, infer_ms, row)
            for (index, name, loaded), row in zip(held, probabilities, strict=True)
        }

    def _prediction(self, name: str, loaded: Loaded, infer_ms: float, probabilities: np.ndarray) -> Prediction:
        if not np.isfinite(probabilities).all():
            error = DecodeError(name, "the model gave no finite logits", width=loaded.width, height=loaded.height)
            return Prediction.failed(error)
        best = int(probabilities.argmax())
        confidence = float(probabilities[best])
        is_certain = confidence >= self._min_confidence
        return Prediction(
            path=name,
            label=self._classifier.classes[best] if is_certain else UNCERTAIN,
            label_index=best if is_certain else UNCERTAIN_INDEX,
            confidence=confidence,
            width=loaded.width,
            height=loaded.height,
            decode_ms=loaded.decode_ms + loaded.resize_ms,
            resize_ms=loaded.resize_ms,
            infer_ms=infer_ms,
            probabilities=probabilities,
        )

    def _publish(self, predictions: dict[int, Prediction]) -> None:
        with self._changed:
            self._finished.update(predictions)
            self._changed.notify_all()
