"""Memory that images may take: a plan for the machine, and a gate that large decodes pass.

A scaled baseline JPEG needs 1.5 MB whatever its size, but a progressive one of 24 megapixels needs 72 to 144 and a PNG
96. Admitting few of those at a time keeps a board with 2 GB alive.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .photo.decode import Admit

FREE_BYTES = 16 << 20
"""Decodes that need less than this pass the memory gate: a 24-megapixel baseline JPEG at 1/8 needs 1.5 MB."""

GATE_BYTES = 160 << 20
"""What larger decodes may hold together, unless less memory is free. One that needs more is decoded alone."""

BASE_BYTES = 96 << 20
"""Resident set of the process with its libraries and a MobileOne-S0, before any image."""


@dataclass(frozen=True)
class MemoryPlan:
    """How many workers, and what large decodes may hold together, so that the process keeps within its memory."""

    workers: int
    gate_bytes: int
    is_strict: bool
    """Whether an image that needs more than the gate is refused instead of being decoded alone."""


def plan_memory(workers: int, *, max_bytes: int | None = None, available_bytes: int | None = None) -> MemoryPlan:
    """Divides memory between workers and the gate.

    Args:
      workers: Workers wanted.
      max_bytes: The user's limit: as many workers as leave each its `FREE_BYTES`, the rest for the gate, and no image
        beyond that. None: all workers, and a gate of at most `GATE_BYTES` and a quarter of what is available.
      available_bytes: Memory the machine can give now, None where that is not known.

    Raises:
      ValueError: `max_bytes` does not even hold one worker.
    """
    if max_bytes is None:
        gate = GATE_BYTES if available_bytes is None else min(GATE_BYTES, available_bytes // 4)
        return MemoryPlan(workers, gate, is_strict=False)
    least = BASE_BYTES + FREE_BYTES
    if max_bytes < least:
        raise ValueError(f"max memory: got {max_bytes / 1e6:.0f} MB, expected at least {least / 1e6:.0f} MB")
    workers = min(workers, (max_bytes - BASE_BYTES) // FREE_BYTES)
    return MemoryPlan(workers, max_bytes - BASE_BYTES - workers * FREE_BYTES, is_strict=True)


class MemoryGate:
    """Admits large images while their bytes together stay below a limit; one is always admitted, unless strict."""

    def __init__(self, limit_bytes: int = GATE_BYTES, *, is_strict: bool = False) -> None:
        self._limit, self._is_strict = limit_bytes, is_strict
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
            if self._is_strict and num_bytes > self._limit:
                most = f"{max(self._limit, FREE_BYTES) / 1e6:.0f} (see --max-memory)"
                raise MemoryError(f"needs about {num_bytes / 1e6:.0f} MB to decode, at most {most}")
            with self._freed:
                self._freed.wait_for(lambda: self._used == 0 or self._used + num_bytes <= self._limit)
                self._used += num_bytes
                held = num_bytes

        try:
            yield admit
        finally:
            if held:
                # Or glibc, where it is the C library, keeps the pixels of every worker's last large image.
                if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
                    trim(0)
                with self._freed:
                    self._used -= held
                    self._freed.notify_all()
