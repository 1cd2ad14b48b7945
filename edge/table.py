"""Rows as a table that a person reads on a terminal, with the classes spelled out."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .exit import printable

if TYPE_CHECKING:
    from .classifier import Classifier
    from .predictions import Prediction

# Here, not in the model file: the bundled file would get another digest, which its card, its evidence and every
# predictions file name. Spelled out are these six together; in another set `unknown` may mean something else.
CLASS_NAMES = {
    "BCC": "basal cell carcinoma",
    "BKL": "benign keratosis",
    "MEL": "melanoma",
    "NV": "naevus (mole)",
    "unknown": "other (actinic keratosis, dermatofibroma)",
    "VASC": "vascular lesion",
}
"""The contest's classes in words."""

_SHOWN_IN_FULL = 5
_GAP = "  "
_REMARK_COLUMNS = 24  # to be left free beside a row
_UNLIKE = {"aspect_ratio": "shape", "short_side_px": "size"}


def spelled_out(classes: Sequence[str]) -> dict[str, str]:
    """Each class of a model in words: the contest's six as in `CLASS_NAMES`, those of other models as they are."""
    return dict(CLASS_NAMES) if set(classes) == set(CLASS_NAMES) else {name: name for name in classes}


class Reasons:
    """Counts reasons that are alike, which is to say the same but for their numbers."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def is_new(self, reason: str) -> bool:
        """Counts a reason; whether it has not been met often enough to be known."""
        kind = re.sub(r"\d+", "#", reason)
        self._counts[kind] += 1
        self._first.setdefault(kind, reason)
        return self._counts[kind] <= _SHOWN_IN_FULL

    def rest(self) -> list[str]:
        """One line for each reason that was met more often than it was new."""
        more = {kind: count - _SHOWN_IN_FULL for kind, count in self._counts.items() if count > _SHOWN_IN_FULL}
        return [f"and {count:,} more like it: {self._first[kind]}" for kind, count in more.items()]


class Table:
    """Prints each row when it comes, in columns that fit the terminal; instead of a `PredictionsWriter`."""

    def __init__(self, names: Sequence[str], classifier: Classifier, *, num_named: int = 1) -> None:
        """Prints the head.

        Args:
          names: Of all files that will come.
          classifier: Whose rows they are.
          num_named: How many classes a row names: the first, and the next ones as a remark.
        """
        self._classifier, self._num_named = classifier, num_named
        self._reasons = Reasons()
        self._encoding = sys.stdout.encoding or "utf-8"
        self._columns = max(shutil.get_terminal_size().columns, 32)
        self._file = min(max((width(self._clean(name)) for name in names), default=4), self._columns // 2)
        self._confidence = 10 if self._columns >= 60 else 5
        room = self._columns - self._file - self._confidence - 2 * len(_GAP)
        words = spelled_out(classifier.classes)
        self._words = {
            label: text if width(text) <= room - _REMARK_COLUMNS else text.partition(" (")[0] or text
            for label, text in words.items()
        }
        self._label = min(max(len("uncertain"), *map(width, self._words.values())), room)
        head = self._row("file", "label", "confidence")
        self._print(head + _GAP + "remark" if width(head + _GAP + "remark") <= self._columns else head)

    def write(self, prediction: Prediction) -> None:
        """Prints one row."""
        name = self._clean(prediction.path)
        if prediction.status == "error":
            line = pad(cut(name, self._file, middle=True), self._file)
            reason = f"error: {self._clean(prediction.error)}"
            self._print_beside(line, reason, in_full=self._reasons.is_new(prediction.error))
        else:
            label = self._clean(self._words.get(prediction.label, prediction.label))
            # Nothing is certain: 0.9996 is not shown as 1.000.
            confidence = f"{min(prediction.confidence or 0.0, 0.999):.3f}"
            self._print_beside(self._row(name, label, confidence), self._clean(self._remark(prediction)))

    def finish(self, totals: object = None) -> None:
        """As of a `PredictionsWriter`: there is nothing to complete."""

    def close(self) -> None:
        """As of a `PredictionsWriter`: there is nothing to close."""

    def _remark(self, prediction: Prediction) -> str:
        remarks = []
        profile, probabilities = self._classifier.profile, prediction.probabilities
        if profile is not None and prediction.width and prediction.height:
            found = profile.outside(prediction.width, prediction.height, self._classifier.preprocess)
            if found:
                remarks.append(f"unlike training: {', '.join(_UNLIKE[what] for what in found)}")
        if probabilities is not None and self._num_named > 1:
            order = (-probabilities).argsort(kind="stable")[1 : self._num_named]
            texts = (f"{self._words[self._classifier.classes[i]]} {probabilities[i]:.3f}" for i in order)
            remarks.append(f"then {', '.join(texts)}")
        return "; ".join(remarks)

    def _row(self, name: str, label: str, confidence: str) -> str:
        cells = (
            pad(cut(name, self._file, middle=True), self._file),
            pad(cut(label, self._label), self._label),
            cut(confidence, self._confidence).rjust(self._confidence),
        )
        return _GAP.join(cells)

    def _print_beside(self, line: str, remark: str, *, in_full: bool = True) -> None:
        """Prints a line and behind it a remark: to the end of the line, or in full on as many as it takes."""
        room = self._columns - width(line) - len(_GAP)
        if width(remark) <= room or not in_full:
            self._print(line + _GAP + cut(remark, max(room, 0)))
            return
        start = self._file + len(_GAP) if self._columns - self._file >= _REMARK_COLUMNS else 4
        lines = textwrap.wrap(remark, self._columns - start, break_on_hyphens=False)
        if width(line) + len(_GAP) == start:
            line += _GAP + lines.pop(0)
        self._print(line)
        for text in lines:
            self._print(" " * start + text)

    def _clean(self, text: str) -> str:
        """A text without control characters, and without what the terminal's encoding does not have."""
        return printable(text).encode(self._encoding, "backslashreplace").decode(self._encoding)

    def _print(self, line: str) -> None:
        try:
            line.encode(self._encoding)
        except UnicodeEncodeError:
            line = line.replace("…", "~")
        print(line.rstrip(), flush=True)


def width(text: str) -> int:
    """How many columns of a terminal a text takes: characters of East Asia and emoji two, combining ones none."""
    return len(text) if text.isascii() else sum(columns for _, columns in _cells(text))


def pad(text: str, columns: int) -> str:
    """A text with blanks behind it, so many columns wide."""
    return text + " " * (columns - width(text))


def cut(text: str, columns: int, *, middle: bool = False) -> str:
    """A text in at most so many columns, with an ellipsis for what is left out at its end, or in its middle."""
    if width(text) <= columns:
        return text
    if columns < 1:
        return ""
    cells = _cells(text)
    num_behind = 2 * (columns - 1) // 3 if middle else 0  # the end of a name has its number and its suffix
    before = _fitting(cells, columns - 1 - num_behind)
    behind = _fitting(cells[::-1], num_behind)[::-1]
    return "".join(before) + "…" + "".join(behind)


def _fitting(cells: Sequence[tuple[str, int]], columns: int) -> list[str]:
    fitting = []
    for text, taken in cells:
        columns -= taken
        if columns < 0:
            break
        fitting.append(text)
    return fitting


def _cells(text: str) -> list[tuple[str, int]]:
    """Characters with what combines with them, and the columns that they take."""
    cells: list[tuple[str, int]] = []
    for character in text:
        columns = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        # U+1160 to U+11FF: vowels and last consonants of a Korean syllable, as macOS writes names.
        is_combining = unicodedata.category(character) in ("Mn", "Me") or "\u1160" <= character <= "\u11ff"
        if is_combining and cells:
            before, taken = cells[-1]
            cells[-1] = before + character, 2 if character == "\ufe0f" else taken  # U+FE0F asks for an emoji
        else:
            cells.append((character, 0 if is_combining else columns))
    return cells
