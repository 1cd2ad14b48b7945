"""What a training run can be told, and the recipes.

A recipe is a value; every field is also a flag (`lr` is `--lr`). What was used is written into the run folder and
the checkpoint. Paths are no fields: they do not change the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


def _flag(default: T, text: str) -> T:
    """A field with its meaning, which is the flag's help too; typed as its default, as `dataclasses.field` is."""
    value: T = field(default=default, metadata={"help": text})
    return value


@dataclass(frozen=True)
class TrainConfig:
    """All that changes the result of a run, apart from the data."""

    variant: str = _flag("s0", "MobileOne variant, s0 to s4")
    num_conv_branches: int = _flag(0, "convolutions in parallel per block while training; 0: the variant's own")
    sizes_px: tuple[int, ...] = _flag((128,), "input sides for equal shares of the epochs; the last is the model's")
    resize: str = _flag("letterbox", "letterbox, stretch or crop")
    epochs: int = _flag(30, "passes over the training images")
    batch_size: int = _flag(64, "images per step")
    lr: float = _flag(2e-3, "peak learning rate of AdamW, for this batch size")
    warmup: float = _flag(0.05, "share of the steps over which the rate rises from 0; a cosine to 0 follows")
    weight_decay: float = _flag(0.05, "AdamW's, on convolution and linear weights only")
    label_smoothing: float = _flag(0.05, "share of each target spread over all classes")
    class_power: float = _flag(1.0, "classes are drawn as their counts to this power: 1 as is, 0 all alike")
    rotate_deg: float = _flag(30.0, "largest random rotation in degrees, beside the quarter turns and flips")
    shift: float = _flag(0.08, "largest random shift, as a share of the side")
    zoom: float = _flag(0.2, "largest random zoom: 0.2 draws factors from 1/1.2 to 1.2")
    ema_decay: float = _flag(0.995, "of the averaged weights, which are the result; about 1 - 1/(3 * steps per epoch)")
    seed: int = _flag(0, "of initialisation, drawing and augmentation")

    def __post_init__(self) -> None:
        rules = (
            ("variant", self.variant in ("s0", "s1", "s2", "s3", "s4"), "s0, s1, s2, s3 or s4"),
            ("num_conv_branches", self.num_conv_branches >= 0, "0 or more"),
            ("sizes_px", bool(self.sizes_px) and all(32 <= s <= 4096 for s in self.sizes_px), "sides from 32 to 4096"),
            ("resize", self.resize in ("letterbox", "stretch", "crop"), "letterbox, stretch or crop"),
            ("epochs", self.epochs >= 1, "1 or more"),
            ("batch_size", self.batch_size >= 2, "2 or more (BatchNorm)"),
            ("lr", self.lr > 0, "above 0"),
            ("warmup", 0 <= self.warmup < 1, "0 to below 1"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "0 to below 1"),
            ("class_power", 0 <= self.class_power <= 1, "0 to 1"),
            ("rotate_deg", 0 <= self.rotate_deg <= 180, "0 to 180"),
            ("shift", 0 <= self.shift <= 0.5, "0 to 0.5"),
            ("zoom", 0 <= self.zoom <= 1, "0 to 1"),
            ("ema_decay", 0 <= self.ema_decay < 1, "0 to below 1"),
            ("seed", 0 <= self.seed < 2**31, "0 to 2147483647"),
        )
        for name, is_valid, expected in rules:
            if not is_valid:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected {expected}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the inverse of `from_dict`."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Reads what `to_dict` gave.

        Raises:
          ValueError: a field is missing, unknown or out of range.
        """
        names = [field.name for field in fields(cls)]
        if sorted(values) != sorted(names):
            raise ValueError(f"config: got {', '.join(sorted(values))}, expected {', '.join(names)}")
        converted: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**converted)


RECIPES = {
    # Cross-entropy from scratch, sized for half an hour on two x86-64 cores: one branch and growing images give
    # several times the epochs of the paper's form in that time.
    #   edge-train folds DATA/ham6 -o folds.csv
    #   edge-train fit DATA/ham6 --folds folds.csv --hold-out 0 --out RUN
    # Took 35 minutes beside other work; held out (1,078 images): accuracy 0.775, balanced accuracy 0.603.
    "plain": TrainConfig(num_conv_branches=1, sizes_px=(64, 64, 96, 96, 128), epochs=25, class_power=0.5),
}
