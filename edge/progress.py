"""What a run says on standard error: how far it is, and in the end what its rows come to."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from time import monotonic
from typing import TYPE_CHECKING

from .predictions import UNCERTAIN, Prediction

if TYPE_CHECKING:
    from .photo.preprocess import Preprocess
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
        text = f"[{done}/{self._total}] {rate:.1f} {self._unit}/s ETA {left_s // 60}:{left_s % 60:02}"
        text += f" errors {errors}" if errors else ""
        self._write("\r" + text.ljust(self._width) if self._is_terminal else text + "\n")
        self._width = len(text)

    def close(self) -> None:
        """Clears the updating line."""
        if self._width and self._is_terminal:
            self._write("\r" + " " * self._width + "\r")

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a standard error that is full stops nobody
            print(text, end="", file=self._stream, flush=True)


class Summary:
    """Counts of rows: errors, answers, photos unlike the model's own.

    They come from what stands in the rows, so a continued run comes to the same as an unbroken one.

    Attributes:
      errors: Rows with an error.
    """

    def __init__(self, profile: Profile | None, preprocess: Preprocess) -> None:
        """Of no row yet; `profile` and `preprocess` are the model's."""
        self.errors = 0
        self._profile, self._preprocess = profile, preprocess
        self._answers: Counter[str] = Counter()
        self._photos: Counter[str] = Counter()  # by what is unlike; "images": by either, "of": all judged

    def add(self, row: Prediction) -> None:
        """Counts a row."""
        if row.status == "error":
            self.errors += 1
            return
        self._answers[row.label] += 1
        if self._profile is None:
            return
        if row.width is None or row.height is None:  # a row of the esfair form, left by an interrupted run
            self._photos["unsized"] += 1
            return
        found = self._profile.outside(row.width, row.height, self._preprocess)
        self._photos.update(("of", "images", *found) if found else ("of",))

    def lines(self, num_images: int) -> Iterator[str]:
        """The last lines of a run: errors, photos unlike the model's, and how often each answer."""
        if self.errors:
            yield f"{self.errors} of {num_images} images could not be used; their rows say why"
        if self._profile is None:
            yield "the model does not say what pictures it was trained on, so these cannot be compared with them"
        elif self._photos["images"]:
            yield self._unlike(self._profile)
        if self._answers:
            ordered = sorted(self._answers.most_common(), key=lambda answer: answer[0] == UNCERTAIN)
            yield f"answers: {', '.join(f'{label} {count}' for label, count in ordered)}"

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
        parts = [f"{self._photos[name]} by {text}" for name, text in known.items() if self._photos[name]]
        photos = f"{self._photos['images']} of {self._photos['of']} photos"
        if self._photos["unsized"]:
            photos += f" (of {self._photos['unsized']} more the size is unknown)"
        return f"{photos} are unlike those that the model was trained on: {', '.join(parts)}"
