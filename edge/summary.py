"""What the rows of a run come to: how often each answer, how many errors, how many photos unlike the model's own.

Counted from what stands in the rows, so that a continued run comes to the same as an unbroken one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from .photo.preprocess import Preprocess
from .predictions import UNCERTAIN, Prediction
from .profile import Profile


class Summary:
    """Counts rows, those that are written and those that an interrupted run has left.

    Attributes:
      errors: Rows with an error.
    """

    def __init__(self, profile: Profile | None, preprocess: Preprocess) -> None:
        """Of no row yet; `profile` and `preprocess` are the model's."""
        self.errors = 0
        self._profile, self._preprocess = profile, preprocess
        self._answers: Counter[str] = Counter()
        self._outside: Counter[str] = Counter()
        self._num_judged = self._num_outside = self._num_unsized = 0

    def add(self, row: Prediction) -> None:
        """Counts a row."""
        if row.status == "error":
            self.errors += 1
            return
        self._answers[row.label] += 1
        if self._profile is None:
            return
        if row.width is None or row.height is None:  # a row of the esfair form, left by an interrupted run
            self._num_unsized += 1
            return
        found = self._profile.outside(row.width, row.height, self._preprocess)
        for name in found:
            self._outside[name] += 1
        self._num_outside += bool(found)
        self._num_judged += 1

    def lines(self, num_images: int) -> Iterator[str]:
        """What a person is told in the end: errors, photos unlike the model's, and how often each answer."""
        if self.errors:
            yield f"{self.errors} of {num_images} images could not be used; their rows say why"
        if self._profile is None:
            yield "the model does not say what pictures it was trained on: nothing tells whether these are like them"
        elif self._num_outside:
            yield self._unlike(self._profile)
        if self._answers:
            ordered = sorted(self._answers.most_common(), key=lambda answer: answer[0] == UNCERTAIN)
            yield f"answers: {', '.join(f'{label} {count}' for label, count in ordered)}"

    @property
    def totals(self) -> dict[str, object]:
        """What the meta says of all rows together, JSON-ready; null where the model has no profile."""
        if self._profile is None:
            return {"outside_profile": None}
        counts = {name: self._outside[name] for name in ("aspect_ratio", "short_side_px")}
        images = {"images": self._num_outside, "of": self._num_judged}
        return {"outside_profile": {**images, **counts, "profile": asdict(self._profile)}}

    def _unlike(self, profile: Profile) -> str:
        low, high = profile.aspect_ratio
        known = {
            "aspect_ratio": f"aspect ratio (longer to shorter side; trained on {low:.2f} to {high:.2f})",
            "short_side_px": f"short side (trained on {profile.short_side_px[0]:.0f} px and more)",
        }
        parts = [f"{self._outside[name]} by {text}" for name, text in known.items() if self._outside[name]]
        photos = f"{self._num_outside} of {self._num_judged} photos"
        if self._num_unsized:
            photos += f" (of {self._num_unsized} more the rows do not tell)"
        return f"{photos} are unlike those that the model was trained on: {', '.join(parts)}"
