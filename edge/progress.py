"""What a run says on standard error: what runs, how far it is, and in the end what its rows come to."""

from __future__ import annotations

import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from time import monotonic
from typing import IO, TYPE_CHECKING

from .photo.folder import counted
from .predictions import UNCERTAIN, Prediction
from .table import spelled_out

if TYPE_CHECKING:
    from .classifier import Classifier
    from .pipeline import RunOptions
    from .profile import Profile

_TERMINAL_INTERVAL_S = 0.2
_LOG_INTERVAL_S = 10.0


class Progress:
    """One line that updates itself on a terminal, a plain line every 10 s elsewhere; cheap to call for every image."""

    def __init__(self, total: int, *, unit: str = "img", quiet: bool = False) -> None:
        """Starts the clock; `total` is how much there is to do, `unit` what is counted, for the rate."""
        self._total, self._unit = total, unit
        self._stream = None if quiet else sys.stderr  # None as well under pythonw, or with 2>&-
        self._is_terminal = self._stream is not None and self._stream.isatty()
        self._interval_s = _TERMINAL_INTERVAL_S if self._is_terminal else _LOG_INTERVAL_S
        self._start = self._last = monotonic()
        self._width = 0

    def update(self, done: int, errors: int = 0) -> None:
        """Says how far it is, if it is time to."""
        now = monotonic()
        if self._stream is None or now - self._last < self._interval_s:
            return
        self._last = now
        rate = done / (now - self._start)
        left_s = round((self._total - done) / rate) if rate > 0 else 0
        speed = f"{1 / rate:.1f} s/{self._unit}" if 0 < rate < 1 else f"{rate:.1f} {self._unit}/s"
        text = f"[{done}/{self._total}] {speed} ETA {left_s // 60}:{left_s % 60:02}"
        text += f" errors {errors}" if errors else ""
        if self._is_terminal:
            text = text[: _columns(self._stream) - 1]  # a line that is wrapped would not be overwritten
        self._write("\r" + text.ljust(self._width) if self._is_terminal else text + "\n")
        self._width = len(text)

    def close(self) -> None:
        """Clears the updating line."""
        if self._width and self._is_terminal:
            self._write("\r" + " " * self._width + "\r")

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a standard error that is full stops nobody
            print(text, end="", file=self._stream, flush=True)


def _columns(terminal: IO[str]) -> int:
    try:
        return os.get_terminal_size(terminal.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class Summary:
    """Counts of rows: errors, answers, photos unlike the model's own.

    They come from what stands in the rows, so a continued run comes to the same as an unbroken one.

    Attributes:
      errors: Rows with an error.
      intended_use: Of the model, in a line.
    """

    def __init__(self, classifier: Classifier) -> None:
        """Of no row yet; starts the clock."""
        self.errors = 0
        self._profile, self._preprocess = classifier.profile, classifier.preprocess
        self.intended_use = _intended_use(classifier)
        self._words = spelled_out(classifier.classes)
        self._start = monotonic()
        self._answers: Counter[str] = Counter()
        self._decode_ms, self._infer_ms = array("f"), array("f")
        self._photos: Counter[str] = Counter()  # by what is unlike; "images": by either, "of": all judged

    def add(self, row: Prediction) -> None:
        """Counts a row."""
        if row.status == "error":
            self.errors += 1
            return
        self._answers[row.label] += 1
        if row.decode_ms is not None and row.infer_ms is not None:
            self._decode_ms.append(row.decode_ms)
            self._infer_ms.append(row.infer_ms)
        if self._profile is None:
            return
        if row.width is None or row.height is None:  # a row of the esfair form, left by an interrupted run
            self._photos["unsized"] += 1
            return
        found = self._profile.outside(row.width, row.height, self._preprocess)
        self._photos.update(("of", "images", *found) if found else ("of",))

    def lines(self, total: int, kept: int, place: str) -> Iterator[str]:
        """The last lines of a run of so many photos.

        They are how many and how fast, how many are unlike the model's, how often each answer. `kept` rows are of an
        earlier run; `place` says where the rows are, and is empty where a person sees it.
        """
        seconds = monotonic() - self._start
        parts = [counted(total, "photo")]
        if self.errors:
            parts.append(f"{self.errors:,} failed ({'its row says' if self.errors == 1 else 'their rows say'} why)")
        parts += [f"{kept:,} done before"] if kept else []
        parts.append(f"{seconds:.1f} s")
        parts += [f"{(total - kept) / max(seconds, 1e-3):.1f} photos/s"] if kept < total else []
        yield ", ".join(parts) + (place and f"; {place}")
        if self._profile is None:
            yield "the model does not say what pictures it was trained on, so these cannot be compared with them"
        elif self._photos["images"]:
            yield self._unlike(self._profile)
        if self._answers:
            ordered = sorted(self._answers.most_common(), key=lambda answer: answer[0] == UNCERTAIN)
            words = (f"{self._words.get(label, label)} {count:,}" for label, count in ordered)
            yield f"answers: {', '.join(words)}"

    def times(self) -> str:
        """The median times of a photo, in words."""
        if not self._decode_ms:
            return "no photo was timed"
        decode, infer = (sorted(times)[len(times) // 2] for times in (self._decode_ms, self._infer_ms))
        return f"median times of a photo: {decode:.1f} ms to read and decode, {infer:.1f} ms in the network"

    @property
    def totals(self) -> dict[str, object]:
        """What the meta says of all rows together, JSON-ready; null where the model has no profile."""
        if self._profile is None:
            return {"outside_profile": None}
        counts = {name: self._photos[name] for name in ("images", "of", "aspect_ratio", "short_side_px")}
        return {"outside_profile": {**counts, "profile": asdict(self._profile)}}

    def _unlike(self, profile: Profile) -> str:
        low, high = profile.aspect_ratio
        known = {
            "aspect_ratio": f"aspect ratio (longer to shorter side; trained on {low:.2f} to {high:.2f})",
            "short_side_px": f"short side (trained on {profile.short_side_px[0]:.0f} px and more)",
        }
        parts = [f"{self._photos[name]:,} by {text}" for name, text in known.items() if self._photos[name]]
        photos = f"{self._photos['images']:,} of {self._photos['of']:,} photos"
        if self._photos["unsized"]:
            photos += f" (of {self._photos['unsized']:,} more the size is unknown)"
        return f"{photos} are unlike those that the model was trained on: {', '.join(parts)}"


def details(classifier: Classifier, options: RunOptions, *, count: int) -> Iterator[str]:
    """What runs, on how many photos."""
    from .classifier import DEFAULT_MODEL
    from .device import usable_cores
    from .memory_gate import plan_memory

    path, preprocess, memory = classifier.path, classifier.preprocess, options.max_memory_bytes
    origin = "comes with the package" if path == DEFAULT_MODEL else f"licence {classifier.metadata.get('license')}"
    yield f"model: {path}, {path.stat().st_size / 1e6:.1f} MB, SHA-256 {classifier.sha256[:12]}..., {origin}"
    training = (f"{key} {classifier.training.get(key, 'not known')}" for key in ("data", "recipe", "commit"))
    yield f"training: {', '.join(training)}"
    words = spelled_out(classifier.classes)
    yield f"classes: {', '.join(name if words[name] == name else f'{name} {words[name]}' for name in words)}"
    yield f"input: {preprocess.size_px} x {preprocess.size_px} px, resize {preprocess.resize}"
    workers = plan_memory(options.workers or 1, max_bytes=memory).workers
    limit = "no limit" if memory is None else f"{memory / 1e6:.0f} MB"
    yield f"{workers} workers, {usable_cores()} usable cores, {options.batch_size} photos a call; memory: {limit}"
    yield counted(count, "photo")


def _intended_use(classifier: Classifier) -> str:
    """What a model is not for; and what it is for, of one whose file says that it learned from HAM10000."""
    is_dermatoscopic = str(classifier.training.get("data")).lower().startswith("ham10")
    return "not a medical device" + ("; for dermatoscopic pictures" if is_dermatoscopic else "")
