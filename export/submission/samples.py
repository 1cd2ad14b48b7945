"""The sample images that a submission brings, what its model said of them, and whether it says so still."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.photos.images import encode
from bench.photos.scene import draw
from edge.classifier import Classifier
from edge.errors import EdgeError, ModelError
from edge.photo.decode import SUFFIXES
from edge.predictions import path_text, read

TOLERANCE = 1e-4
"""Largest difference of a probability between two processors that is none."""

_SIZE = (160, 120)
_PER_CELL = 2


def write_images(folder: Path, groups: Sequence[str], classes: Sequence[str], *, seed: int = 0) -> None:
    """Writes `folder`/<group>/<class>/*.jpg: drawn, nobody's skin, so the labels mean nothing."""
    index = 0
    for group in groups:
        for name in classes:
            (folder / group / name).mkdir(parents=True)
            for number in range(_PER_CELL):
                data = encode(draw(*_SIZE, seed=seed, index=index), quality=80)
                (folder / group / name / f"img_{number + 1}.jpg").write_bytes(data)
                index += 1


def compare(recorded: Path, found: Path) -> tuple[list[str], list[str]]:
    """Holds predictions against the recorded ones.

    Returns:
      What differs, one line each: labels, probabilities by more than `TOLERANCE`, rows. And the near-ties: images
      whose two most probable classes are so close that another processor may answer the other one.
    """
    try:
        before, after = ({row.path: row for row in read(path).rows} for path in (recorded, found))
    except EdgeError as error:
        return [str(error)], []
    wrong = [f"{name}: has no row" for name in sorted(set(before) - set(after))]
    wrong += [f"{name}: was not recorded" for name in sorted(set(after) - set(before))]
    ties: list[str] = []
    for name in sorted(set(before) & set(after)):
        a, b = before[name], after[name]
        if a.probabilities is None or b.probabilities is None or a.probabilities.shape != b.probabilities.shape:
            if (a.status, b.status) != ("error", "error"):
                wrong.append(f"{name}: got {b.status} {b.error[:80]}, recorded {a.status}")
            continue
        distance = float(np.abs(a.probabilities - b.probabilities).max())
        if distance > TOLERANCE * 1.01:  # files have six decimals
            wrong.append(f"{name}: a probability differs by {distance:.1e}, expected at most {TOLERANCE:.0e}")
        elif (margin := _margin(a.probabilities)) <= 2 * TOLERANCE:
            ties.append(f"{name}: {a.label} by {margin:.1e}")
        elif a.label != b.label:
            wrong.append(f"{name}: got {b.label}, recorded {a.label}")
    return wrong, ties


def images_of(folder: Path) -> list[Path]:
    """The images of a folder at any depth, by their suffix in any case; hidden files are none."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def names_below(folder: Path) -> list[str]:
    """Their names, as a predictions file has them."""
    return [path_text(str(path.relative_to(folder))) for path in images_of(folder)]


def check_classes(classifier: Classifier, classes: Sequence[str]) -> None:
    """Refuses a model for another task.

    Raises:
      ModelError: other classes, or another order.
    """
    if list(classifier.classes) != list(classes):
        got = ", ".join(classifier.classes)
        raise ModelError(f"{classifier.path}: answers {got}; the contest's classes are {', '.join(classes)}")


def _margin(probabilities: np.ndarray) -> float:
    second, first = np.sort(probabilities)[-2:]
    return float(first - second)
