"""What others have published of the ESFair 2023 score, and why none of it can be set against a number of ours.

The figures are facts read from public slides and tables. They stand in a report so that a reader need not look for
them, under the caveats, which are as much a part of them as their decimals.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """One published line."""

    source: str
    """Key of `SOURCES`."""
    model: str
    accuracy: float
    """0 to 1."""
    fairness: float
    """(0.2 - SPD) / 0.2."""
    latency: float | None = None
    """1 - L / 100; None where the source scores two parts of three."""

    @property
    def two_thirds(self) -> float:
        """(accuracy + fairness) / 3."""
        return (self.accuracy + self.fairness) / 3

    @property
    def total(self) -> float | None:
        """(accuracy + fairness + latency) / 3; None without a latency."""
        return None if self.latency is None else self.two_thirds + self.latency / 3


SOURCES = {
    "slides": (
        "Winners of 2023, slides; code: github.com/xiaochengsky/pycr (ee4a971). The slides print thirds, here times 3.",
        "One fold of their own split (711, 468, 655 and 399 images), on which the best of 300 epochs, with and without "
        "averaged weights, was chosen. 76 to 78 % of its images share a lesion or a patient with the training part. A "
        "perfectly fair model would score .944 there, give or take .033, so the last three steps are noise.",
    ),
    "li": (
        "Li et al., table III; code: github.com/yixinli19/Dermatology-image-classification (9c22317).",
        "Mean of five folds split image by image, so lesions and patients lie on both sides. In the code accuracy is "
        "the mean of the groups, the last incomplete batch is dropped, and latency is the forward pass alone: decoding "
        "and resizing, most of the time on a Pi, are not in it.",
    ),
}
"""Key -> where it was printed, and what to know before reading it."""

LINES = (
    Published("slides", "MobileNetV3, 224 px", 0.864, 0.831),
    Published("slides", "MobileOne-S0, 224 px", 0.879, 0.876),
    Published("slides", "MobileOne-S0, 128 px", 0.861, 0.855),
    Published("slides", "+ augmentation", 0.885, 0.870),
    Published("slides", "+ ArcFace", 0.885, 0.885),
    Published("slides", "+ BNNeck", 0.894, 0.885),
    Published("slides", "+ triplet loss", 0.897, 0.897),
    Published("slides", "+ averaged weights", 0.909, 0.894),
    Published("slides", "+ distillation (handed in)", 0.906, 0.906),
    Published("slides", "MobileOne-S2, the teacher", 0.909, 0.915),
    Published("li", "MobileNetV3 small, S1", 0.723, 0.636, 0.924),
    Published("li", "MobileNetV3 small, S4", 0.795, 0.768, 0.910),
    Published("li", "Swin V2 tiny, S4", 0.867, 0.846, 0.093),
    Published("li", "theirs, S1", 0.801, 0.692, 0.909),
    Published("li", "theirs, S4", 0.843, 0.810, 0.906),
)


def rows() -> list[dict[str, Any]]:
    """Every line with its two sums and where it was printed, as a table shows it."""
    return [
        {
            **asdict(line), "total_of_two_thirds": line.two_thirds, "total": line.total,
            "printed": SOURCES[line.source][0],
        }
        for line in LINES
    ]
