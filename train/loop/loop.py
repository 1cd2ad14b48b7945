"""The training loop: from a checkpoint, which may be the blank one of `start`, to the next, step by step.

All chance is a function of the seed and the number of the step, so a run that is resumed, or spread over processes,
does what an unbroken one does.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from edge.errors import EdgeError
from edge.progress import Progress

from ..checkpoint import NAME, Checkpoint, save
from ..config import TrainConfig
from ..networks.network import Network, build
from .distributed import Ranks
from .epoch_log import EpochLog, Log
from .schedule import set_rates
from .state import Session, TrainingData


class TrainingError(EdgeError):
    """Training that cannot go on."""

    exit_status = 6


def start(config: TrainConfig, *, classes: list[str], network: Network | None = None, **origin: Any) -> Checkpoint:
    """The checkpoint of a run that has done nothing yet.

    Args:
      config: What to train.
      classes: Class names in the order of the logits.
      network: Begun with; None: random weights by the seed.
      origin: The fields of `Checkpoint` that say where the data and the code come from.
    """
    if network is None:
        torch.manual_seed(config.optim.seed)
        network = build(config.model, len(classes))
    return Checkpoint(
        config=config.to_dict(),
        classes=classes,
        step=0,
        model=network.state_dict(),
        ema=network.state_dict(),
        optimizer={},
        objective={},
        scaler={},
        sums={},
        result={},
        **origin,
    )


def fit(
    checkpoint: Checkpoint,
    data: TrainingData,
    *,
    out: Path,
    ranks: Ranks,
    checkpoint_s: float = 300.0,
    quiet: bool = False,
) -> Iterator[EpochLog]:
    """Trains from `checkpoint` to the last step of its configuration.

    Args:
      checkpoint: Where to begin.
      data: The images.
      out: Folder for checkpoint.pt, replaced after every epoch and every `checkpoint_s`, and the log.
      ranks: This process among those that train together.
      checkpoint_s: Most seconds between checkpoints: what a kill loses.
      quiet: Whether no progress is shown.

    Yields:
      What each epoch did, once it is on disk.

    Raises:
      TrainingError: the loss is no longer finite.
      ValueError: the configuration does not fit the data.
    """
    run = Session(checkpoint, data, ranks)
    config, first_step, saved_at = run.config, run.step, perf_counter()
    log = Log(out, num_epochs=run.step // run.steps_per_epoch) if ranks.is_first else None
    progress = Progress(run.num_steps - first_step, unit="step", quiet=quiet or not ranks.is_first)
    while run.step < run.num_steps:
        epoch = run.step // run.steps_per_epoch
        size_px = config.input.sizes_px[epoch * len(config.input.sizes_px) // config.optim.epochs]
        lr, begin = 0.0, perf_counter()
        with contextlib.closing(run.batches(epoch, size_px)) as batches:
            for batch in batches:
                waited_s = perf_counter() - begin
                lr = set_rates(run.optimizer, run.step, run.num_steps, config.optim)
                values = run.take(batch)
                if not math.isfinite(values["total"]):
                    progress.close()
                    raise _diverged(values, run.step, lr, [data.names[i] for i in batch.indices])
                now = perf_counter()
                run.count(values, images=len(batch.indices), waited_s=waited_s, seconds=now - begin)
                begin = now
                progress.update(run.step - first_step)
                if ranks.is_first and now - saved_at > checkpoint_s and run.step % run.steps_per_epoch:
                    save(run.checkpoint(), out / NAME)
                    saved_at = now
        if not run.is_finite:
            progress.close()
            raise TrainingError(
                f"the weights are not finite after step {run.step} (learning rate {lr:.2g}); the last checkpoint is "
                "kept, if there is one; try a lower --lr"
            )
        if run.step == run.num_steps:
            run.finish()
        row = run.row(size_px, lr)
        if log is not None:
            log.append(row)
            save(run.checkpoint(), out / NAME)
            saved_at = perf_counter()
        progress.close()
        yield row


def _diverged(values: Mapping[str, float], step: int, lr: float, names: Sequence[str]) -> TrainingError:
    parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return TrainingError(
        f"the loss is not finite at step {step} ({parts}; learning rate {lr:.2g}; images {shown}); the last checkpoint "
        "is kept, if there is one; try a lower --lr"
    )
