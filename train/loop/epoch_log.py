"""The log of a run: log.csv and log.jsonl, one row per epoch, and TensorBoard's events where it is installed."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CSV = "log.csv"
JSONL = "log.jsonl"


@dataclass(frozen=True)
class EpochLog:
    """One row. Losses are means over the epoch's steps, on augmented images as drawn; None where there is none."""

    epoch: int
    """Epochs done, from 1."""
    step: int
    """Optimizer steps done."""
    size_px: int
    """Input side of this epoch."""
    lr: float
    """Learning rate of its last step."""
    loss: float
    """The total that was minimised."""
    hard: float
    """Its part from the labels."""
    triplet: float | None
    distill: float | None
    """Its part from the teacher."""
    turn: float | None
    """Its part from turned twins."""
    seconds: float
    """Wall time."""
    images_per_second: float
    """Trained on."""
    input_share: float
    """Share of the time in which the network waited for images."""


class Log:
    """Appends rows; those of epochs that did not reach their checkpoint are dropped first."""

    def __init__(self, folder: Path, *, num_epochs: int) -> None:
        """Opens the log of a run that has done `num_epochs`."""
        self._folder = folder
        for name, kept in ((CSV, num_epochs + 1), (JSONL, num_epochs)):
            path = folder / name
            if path.exists():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                path.write_text("".join(lines[: kept if num_epochs else 0]), encoding="utf-8")
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(folder / "tensorboard")

    def append(self, row: EpochLog) -> None:
        """Writes one row to each file."""
        values = asdict(row)
        with open(self._folder / CSV, "a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(values), lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(values)
        with open(self._folder / JSONL, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if value is not None and name not in ("epoch", "step"):
                    self._board.add_scalar(name, value, row.step)
            self._board.flush()
