"""What a run is made from, and how its data set is divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.dataset import DatasetError, Sample, classes_of, index

from ..config import TrainConfig
from ..data.folds import read_folds


@dataclass(frozen=True)
class Plan:
    """What a run is made from; all but `config` are places and permissions."""

    data: Path
    out: Path
    config: TrainConfig
    recipe: str
    label_column: str = "class"
    group_column: str = "group"
    folds: Path | None = None
    hold_out: int | None = None
    search: int | None = None
    """A second fold kept from training, to choose by."""
    weights: Path | None = None
    teachers: Sequence[Path] = field(default_factory=tuple)
    cache: Path | None = None
    allow_leak: bool = False
    checkpoint_s: float = 300.0


@dataclass(frozen=True)
class Parts:
    """A data set divided."""

    classes: list[str]
    groups: list[str]
    seen: list[Sample]
    search: list[Sample]
    held_out: list[Sample]
    folds_sha256: str | None


def divide(plan: Plan) -> Parts:
    """Reads the data set and says what is trained on.

    Raises:
      DatasetError: the data set or the folds file cannot be used.
    """
    samples = index(plan.data, label_column=plan.label_column, group_column=plan.group_column)
    classes, groups = list(classes_of(samples)), sorted({sample.group for sample in samples})
    if len(classes) < 2:
        raise DatasetError(f"got images of {samples[0].label} alone, expected at least two classes")
    if plan.folds is None:
        return Parts(classes, groups, samples, [], [], None)
    fold_of, folds_sha256 = read_folds(plan.folds, samples)
    for fold in (plan.hold_out, plan.search):
        if fold is not None and fold not in fold_of.values():
            expected = ", ".join(map(str, sorted({*fold_of.values()})))
            raise DatasetError(f"{plan.folds}: no fold {fold}, expected one of {expected}")
    parts: dict[str, list[Sample]] = {"seen": [], "search": [], "held_out": []}
    for sample in samples:
        fold = fold_of[sample.path]
        parts["held_out" if fold == plan.hold_out else "search" if fold == plan.search else "seen"].append(sample)
    unseen = sorted({*classes} - {*classes_of(parts["seen"])}) if parts["seen"] else classes
    if unseen:
        kept_back = " and ".join(str(fold) for fold in (plan.hold_out, plan.search) if fold is not None)
        raise DatasetError(f"{plan.folds}: all of {', '.join(unseen)} is in fold {kept_back}, expected some")
    return Parts(classes, groups, **parts, folds_sha256=folds_sha256)
