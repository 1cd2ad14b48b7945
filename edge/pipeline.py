"""Many images through one classifier: every core busy, results in order, memory bounded.

Each worker owns a buffer of B images. It takes the next image, decodes it straight into its buffer and, when the buffer
is full, runs the one shared session (one thread inside) on it. So long photos and short ones balance by themselves.

Results leave through a reorder window. A worker may run at most `window` images ahead of the consumer, so nothing grows
with the number of images; a worker that reaches the end of the window first runs what it holds, otherwise the image the
consumer waits for could sit in a half-full buffer for ever.

Within the window the largest file goes first: a 24-megapixel photo that comes last would leave the other cores idle for
as long as it takes (3 % of 100 contest photos on 4 cores, by simulation; 1 % this way).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from .device import memory_mb, usable_cores
from .errors import DecodeError
from .memory_gate import MemoryGate, MemoryPlan, plan_memory
from .photo.decode import PixelLimits, Source, check_source, describe
from .photo.preprocess import Loaded
from .predictions import UNCERTAIN, UNCERTAIN_INDEX, Prediction, stamp_of

if TYPE_CHECKING:
    from .classifier import Classifier

_END = object()
"""After the last source."""


@dataclass(frozen=True)
class RunOptions:
    """How images are worked through."""

    workers: int | None = None
    """Threads that each decode and run. None: the usable cores."""
    batch_size: int = 4
    """Images per call of the network, at least 1."""
    limits: PixelLimits = PixelLimits()
    """Largest accepted pictures."""
    min_confidence: float = 0.0
    """Below it the label is "uncertain" and its index -1."""
    max_memory_bytes: int | None = None
    """What the process should stay within: fewer workers, fewer large photos at once, and an error row for a photo that
    cannot fit. None: all workers; large photos share at most 160 MB or a quarter of the available memory."""


def run(
    classifier: Classifier, sources: Iterable[Source], options: RunOptions = RunOptions()
) -> Generator[Prediction, None, None]:
    """Classifies `sources`; results as of `Classifier.predict`.

    Closing the iterator, or an exception in the consumer (Ctrl-C), stops the workers within one batch.

    Raises:
      ValueError: `workers` or `batch_size` below 1, or too little memory for one worker.
      Exception: whatever a worker raised that is not a DecodeError; the run ends.
    """
    num_workers = usable_cores() if options.workers is None else options.workers
    if num_workers < 1 or options.batch_size < 1:
        raise ValueError(f"got {num_workers} workers, batch size {options.batch_size}; expected at least 1 of each")
    available_mb = memory_mb().get("MemAvailable")
    available_bytes = None if available_mb is None else available_mb * 1_000_000
    plan = plan_memory(num_workers, max_bytes=options.max_memory_bytes, available_bytes=available_bytes)
    return _Run(classifier, sources, options, plan).results()


class _Run:
    """The state that workers and consumer share; everything below `_changed` is guarded by it."""

    def __init__(
        self, classifier: Classifier, sources: Iterable[Source], options: RunOptions, plan: MemoryPlan
    ) -> None:
        self._classifier, self._options = classifier, options
        self._gate = MemoryGate(plan.gate_bytes, is_strict=plan.is_strict)
        self._window = plan.workers * max(2 * options.batch_size, 16)
        # Each worker holds its own while it is inside the network.
        self._busy = [threading.RLock() for _ in range(plan.workers)]
        self._threads = [self._thread(f"edge-worker-{i}", self._work, busy) for i, busy in enumerate(self._busy)]
        # A Ctrl-C is raised in the consumer's thread, anywhere. `Condition` is Python code and can be left half way,
        # with its lock held for ever or released twice. So the consumer takes the lock itself, which is one step, and
        # waits for nothing but a queue, which is another.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # A list can be read at any moment. Anything else may take its time, or wait for our results, so it gets a
        # thread of its own that nobody waits for.
        self._is_listed = isinstance(sources, list | tuple)
        self._sources: Iterator[Source] = iter(sources)
        self._waiting: list[tuple[int, int, Source]] = []  # heap of (-bytes, index, path) inside the window
        self._finished: dict[int, Prediction] = {}
        self._stamps: dict[int, tuple[int, int] | None] = {}  # of what is in the window
        self._num_read = self._handed_out = self._emitted = 0
        self._is_over = False  # no source left, or the run was stopped
        self._is_stopped = False  # no answer is wanted any more
        self._results: SimpleQueue[Prediction | BaseException | None] = SimpleQueue()
        """In input order; None is the end."""

    def results(self) -> Generator[Prediction, None, None]:
        try:
            for thread in self._threads:
                thread.start()
            if not self._is_listed:
                self._thread("edge-reader", self._read_ahead).start()
            while (result := self._results.get()) is not None:
                if isinstance(result, BaseException):
                    raise result
                with self._lock:
                    self._emitted += 1
                    self._changed.notify_all()
                yield result
        finally:
            self._stop()

    def _stop(self) -> None:
        """Stops the workers and waits for them, through any Ctrl-C, which is raised at the end.

        A worker left behind inside the network aborts the interpreter at its end, so none may be there or get there:
        an interrupted `Thread.join` takes a thread that runs for one that has ended.
        """
        self._is_stopped = True
        if threading.current_thread() in self._threads:  # an abandoned run, collected as garbage by its own worker
            with self._lock:
                self._end()
            return
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                with self._lock:
                    self._end()
                for thread, busy in zip(self._threads, self._busy, strict=True):
                    if thread.is_alive():
                        thread.join()
                    with busy:
                        pass
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _thread(self, name: str, work: Callable[..., None], *arguments: object) -> threading.Thread:
        """A thread whose exception goes to the consumer: it must not die in silence."""

        def target() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                with self._lock:
                    self._end()
                    self._results.put(error)

        return threading.Thread(target=target, name=name, daemon=True)

    def _end(self) -> None:
        """No source is taken any more."""
        self._is_over = True
        self._waiting.clear()
        self._changed.notify_all()

    def _work(self, busy: threading.RLock) -> None:
        preprocess, options = self._classifier.preprocess, self._options
        side = preprocess.size_px
        buffer = np.empty((options.batch_size, side, side, 3), np.uint8)
        held: list[tuple[int, str, Loaded]] = []
        while True:
            task = self._take(may_wait=not held)
            if task is not None:
                index, source = task
                try:
                    with self._gate.image() as admit:
                        loaded = preprocess.load(source, out=buffer[len(held)], limits=options.limits, admit=admit)
                except DecodeError as error:
                    self._publish({index: Prediction.failed(error)})
                else:
                    held.append((index, describe(source), loaded))
            if held and (task is None or len(held) == options.batch_size):
                with busy:
                    if self._is_stopped:
                        return
                    predictions = self._infer(buffer[: len(held)], held)
                self._publish(predictions)
                held = []
            elif task is None:
                return

    def _take(self, *, may_wait: bool) -> tuple[int, Source] | None:
        """The next image; None at the end, or, unless `may_wait`, at the end of the window."""
        with self._lock:
            while True:
                while self._is_listed and self._may_read():
                    self._accept(next(self._sources, _END))
                if self._waiting:
                    _, index, source = heappop(self._waiting)
                    return index, source
                if self._is_over or not may_wait:
                    return None
                self._changed.wait()

    def _may_read(self) -> bool:
        """To the end of the window, but no further than one source that is in memory: those are large."""
        is_room = self._num_read < self._emitted + self._window
        return is_room and not self._is_over and not (self._waiting and -self._waiting[0][0] == sys.maxsize)

    def _accept(self, source: Source | object) -> None:
        """Takes the next source into the window; `_END` is the end."""
        if source is _END:
            self._is_over = True
            self._hand_out()
        elif not self._is_over:
            checked = check_source(source, f"sources[{self._num_read}]")
            stamp, size = None, sys.maxsize  # in memory: as if endless, so that they are taken at once
            if isinstance(checked, str | os.PathLike):
                stamp = stamp_of(checked)
                size = stamp[0] if stamp else 0  # a measure of decoding time
            self._stamps[self._num_read] = stamp
            heappush(self._waiting, (-size, self._num_read, checked))
            self._num_read += 1
        self._changed.notify_all()

    def _read_ahead(self) -> None:
        """The thread that reads sources which are no list."""
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._is_over or self._may_read())
                if self._is_over:
                    return
            source = next(self._sources, _END)
            with self._lock:
                self._accept(source)

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
        is_certain = confidence >= self._options.min_confidence
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
        with self._lock:
            self._finished.update(predictions)
            self._hand_out()

    def _hand_out(self) -> None:
        """Gives the consumer what is finished up to the first that is not."""
        while self._handed_out in self._finished:
            prediction = self._finished.pop(self._handed_out)
            prediction.stamp = self._stamps.pop(self._handed_out)
            self._results.put(prediction)
            self._handed_out += 1
        if self._is_over and self._handed_out == self._num_read:
            self._results.put(None)
