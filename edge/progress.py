"""Progress on standard error: one line that updates itself on a terminal, a plain line every 10 s elsewhere."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from time import monotonic
from typing import TextIO

_TERMINAL_INTERVAL_S = 0.2
_LOG_INTERVAL_S = 10.0


class Progress:
    """Counts what is done; `update` is cheap enough to be called for every image."""

    def __init__(self, total: int, *, unit: str = "img", stream: TextIO | None = None, quiet: bool = False) -> None:
        """Starts the clock.

        Args:
          total: How much there is to do.
          unit: What is counted, for the rate.
          stream: Where to write; None for standard error.
          quiet: Whether nothing is written at all.
        """
        self._total = total
        self._unit = unit
        chosen = sys.stderr if stream is None else stream
        self._quiet = quiet or chosen is None
        self._stream: TextIO = io.StringIO() if chosen is None else chosen  # pythonw, or 2>&-
        self._is_terminal = self._stream.isatty()
        self._interval_s = _TERMINAL_INTERVAL_S if self._is_terminal else _LOG_INTERVAL_S
        self._start = self._last = monotonic()
        self._width = 0

    def update(self, done: int, errors: int = 0) -> None:
        """Says how far it is, if it is time to."""
        now = monotonic()
        if self._quiet or now - self._last < self._interval_s:
            return
        self._last = now
        rate = done / (now - self._start)
        left_s = round((self._total - done) / rate) if rate > 0 else 0
        text = f"[{done}/{self._total}] {rate:.1f} {self._unit}/s ETA {left_s // 60}:{left_s % 60:02}"
        self._write(text + (f" errors {errors}" if errors else ""))

    def close(self) -> None:
        """Clears the updating line."""
        if self._width and self._is_terminal:
            with suppress(OSError):
                self._stream.write("\r" + " " * self._width + "\r")
                self._stream.flush()

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a standard error that is full stops nobody
            if self._is_terminal:
                self._stream.write("\r" + text.ljust(self._width))
                self._width = len(text)
            else:
                self._stream.write(text + "\n")
            self._stream.flush()
