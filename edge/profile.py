"""Profile of the pictures a model learned from, by shape and size, and whether a photo is like them.

A network answers everything with confidence: one that learned from squares only gave one class to every 4:3 photo. So a
model file says what it has met (`edge-train fit` finds out, `edge-export onnx` writes it), and what lies outside is
counted.

Shape is the longer side over the shorter, so a photo on end counts as one that lies. For a network that learned from
pictures in every turn (`--quarter-turns`, on by default) that is exact. For others it does not notice photos that are
turned: width over height would have to be that of the upright photo, and rows have the sides as stored, before EXIF.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from .photo.preprocess import Preprocess

_TOLERANCE = 1.05
"""A shape or size that differs by less than this factor is the same: cameras' 4:3 is between 1.331 and 1.339."""


@dataclass(frozen=True)
class Profile:
    """Ranges, lowest and highest, over the pictures of a training, after augmentation."""

    aspect_ratio: tuple[float, float]
    """Longer side over shorter side, 1 or more: of the photo that would look so in the network's input."""
    short_side_px: tuple[float, float]
    """Shorter side of the file in pixels."""
    padding: tuple[float, float]
    """Share of the network's input, 0 to 1, that bars fill: those of letterbox and those of augmentation."""

    def __post_init__(self) -> None:
        rules = (
            ("aspect_ratio", 1, math.inf, "1 or more"),
            ("short_side_px", 1, math.inf, "1 or more"),
            ("padding", 0, 1, "0 to 1"),
        )
        for name, least, most, expected in rules:
            pair: Any = getattr(self, name)
            is_pair = isinstance(pair, tuple) and len(pair) == 2 and all(map(_is_number, pair))
            if not (is_pair and least <= pair[0] <= pair[1] <= most):
                got = json.dumps(pair)[:80]
                raise ValueError(f"profile: {name}: got {got}, expected lowest and highest, numbers of {expected}")

    def outside(self, width: int, height: int, preprocess: Preprocess) -> tuple[str, ...]:
        """In which of "aspect_ratio" and "short_side_px" a photo of this stored size lies outside.

        A photo larger than those of the training is like them: it is reduced to the same input. A smaller one is unlike
        them only if it is also smaller than what it fills of the input, and so has to be enlarged.
        """
        shorter, longer = sorted((width, height))
        low, high = self.aspect_ratio
        if preprocess.resize == "crop":
            low = 1.0  # of a photo nearer to a square less is cut off
        found = [] if low / _TOLERANCE <= longer / shorter <= high * _TOLERANCE else ["aspect_ratio"]
        enough = shorter * _TOLERANCE
        if enough < self.short_side_px[0] and enough < min(preprocess.fill_size(width, height)):
            found.append("short_side_px")
        return tuple(found)

    def to_json(self) -> str:
        """One line of JSON, the inverse of `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: no JSON object, a key missing or unknown, or a value that is no range.
        """
        values: Any = json.loads(text)
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            got = ", ".join(sorted(values)) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"profile: got {got or 'nothing'}, expected {', '.join(names)}")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
