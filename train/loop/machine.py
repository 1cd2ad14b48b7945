"""What a run takes of its machine: threads, time and memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

import psutil
import torch

from edge import device
from edge.progress import Progress

_NUM_TIMED = 5
"""Steps after the first, which warms up, that tell how long one takes."""
_MIN_TOLD_S = 30
"""A run that ends sooner needs no forecast."""


def bound_threads(begun: Path | None, *, say: Callable[[str], None]) -> None:
    """Takes no more threads than cores are free, as PyTorch's wait for each other actively; OMP_NUM_THREADS wins.

    A run that is continued, whose config.json is `begun`, takes as many as before: another number rounds otherwise.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    cores, all_cores = device.usable_cores(), os.cpu_count() or 1
    threads = max(1, min(cores, round(all_cores - os.getloadavg()[0])))
    if begun is not None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            threads = max(1, int(json.loads(begun.read_bytes())["threads"]))
    torch.set_num_threads(threads)
    if threads < cores:
        busy = f"the machine is busy (load {os.getloadavg()[0]:.1f})" if begun is None else "as the run began with"
        say(f"threads: {threads} of {cores} cores: {busy}; OMP_NUM_THREADS sets another number")


def describe(kind: torch.device) -> str:
    """What a run computes on, in words."""
    machine = f"{device.record()['cpu'] or 'unknown processor'}, {device.usable_cores()} cores"
    return f"{torch.cuda.get_device_name(kind)}; {machine}" if kind.type == "cuda" else machine


class Forecast(Progress):
    """The progress of a run's steps, which says after the first ones what the rest will take."""

    def __init__(self, work: Sequence[float], *, say: Callable[[str], None], quiet: bool) -> None:
        """Says how many steps there are; `work` is of each step, in any unit that its time grows with."""
        super().__init__(len(work), unit="step", quiet=quiet)
        self._work, self._say = work, say
        self._first: float | None = None
        if work:
            say(f"{len(work):,} steps")

    def update(self, done: int, errors: int = 0) -> None:
        """Says how far it is, if it is time to, and once what is to be expected."""
        now = monotonic()
        if self._first is None:
            self._first = now
        elif done == 1 + _NUM_TIMED:
            seconds = now - self._first
            left_s = seconds * sum(self._work[done:]) / sum(self._work[1:done])
            if left_s > _MIN_TOLD_S:
                self.close()
                self._say(f"about {_duration(left_s)} to go, at {seconds / _NUM_TIMED:.2f} s a step now; {_memory()}")
        super().update(done, errors)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 100 else f"{minutes} min" if minutes else "1 min"


def _memory() -> str:
    used, total = psutil.Process().memory_info().rss / 1e9, device.memory_mb().get("MemTotal", 0) / 1e3
    return f"memory so far: {used:.1f} GB" + (f" of {total:.0f}" if total else "")
