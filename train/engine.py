"""The training loop: from a checkpoint, which may be the blank one of `start`, to the next, epoch by epoch."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edge.errors import EdgeError
from edge.preprocess import Preprocess
from edge.progress import Progress

from .checkpoint import NAME, Checkpoint, save
from .config import TrainConfig
from .data import augment, draw_epoch, scale_tensor
from .ema import Ema
from .mobileone import MobileOne

LOG = "log.csv"


class TrainingError(EdgeError):
    """Training that cannot go on."""

    exit_status = 6


@dataclass(frozen=True)
class EpochLog:
    """One row of log.csv."""

    epoch: int
    """Epochs done, from 1."""
    step: int
    """Optimizer steps done."""
    size_px: int
    """Input side of this epoch."""
    lr: float
    """Learning rate of its last step."""
    loss: float
    """Mean over its steps, on augmented images of the classes as drawn."""
    seconds: float
    """Wall time."""


def start(config: TrainConfig, *, classes: list[str], **origin: Any) -> Checkpoint:
    """The checkpoint of a run that has done nothing yet.

    Args:
      config: What to train.
      classes: Class names in the order of the logits.
      origin: The fields of `Checkpoint` that say where the data and the code come from.
    """
    torch.manual_seed(config.seed)
    weights = build(config, len(classes)).state_dict()
    generator = torch.Generator().manual_seed(config.seed)
    return Checkpoint(
        config=config.to_dict(),
        classes=classes,
        epoch=0,
        step=0,
        model=weights,
        ema=weights,
        optimizer={},
        generator=generator.get_state(),
        **origin,
    )


def fit(
    checkpoint: Checkpoint, images: np.ndarray, labels: np.ndarray, *, out: Path, quiet: bool = False
) -> Iterator[EpochLog]:
    """Trains from `checkpoint` to the last epoch of its configuration.

    Args:
      checkpoint: Where to begin.
      images: (N, S, S, 3) uint8 RGB.
      labels: (N,) class indices.
      out: Folder for checkpoint.pt, replaced after every epoch, and log.csv.
      quiet: Whether no progress is shown.

    Yields:
      What each epoch did, once it is on disk.

    Raises:
      TrainingError: the loss is no longer finite.
    """
    config = TrainConfig.from_dict(checkpoint.config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scale = scale_tensor(Preprocess.from_json(checkpoint.preprocess)).to(device)
    model = build(config, len(checkpoint.classes))
    model.load_state_dict(checkpoint.model)
    model.to(device).train()
    ema = Ema(model, decay=config.ema_decay)
    ema.model.load_state_dict(checkpoint.ema)
    ema.num_updates = checkpoint.step
    optimizer = _optimizer(model, config)
    if checkpoint.optimizer:
        optimizer.load_state_dict(checkpoint.optimizer)
    generator = torch.Generator()
    generator.set_state(checkpoint.generator)
    targets = torch.from_numpy(labels).long()
    pixels = torch.from_numpy(images)
    batch_size = min(config.batch_size, len(images))
    steps_per_epoch = len(images) // batch_size  # the tail waits for another epoch's order
    num_steps = config.epochs * steps_per_epoch
    step = checkpoint.step
    _cut_log(out / LOG, checkpoint.epoch)
    progress = Progress(num_steps - step, unit="step", quiet=quiet)

    for epoch in range(checkpoint.epoch, config.epochs):
        begin = perf_counter()
        size_px = config.sizes_px[epoch * len(config.sizes_px) // config.epochs]
        order = draw_epoch(targets, class_power=config.class_power, generator=generator)
        total_loss = 0.0
        for i in range(steps_per_epoch):
            chosen = order[i * batch_size : (i + 1) * batch_size]
            batch = augment(
                pixels[chosen], size_px=size_px, config=config, scale=scale.cpu(), generator=generator
            )  # (N, 3, size_px, size_px)
            lr = learning_rate(step, num_steps, config)
            for parameters in optimizer.param_groups:
                parameters["lr"] = lr
            logits = model(batch.to(device))
            loss = functional.cross_entropy(logits, targets[chosen].to(device), label_smoothing=config.label_smoothing)
            if not math.isfinite(loss.item()):
                progress.close()
                raise TrainingError(
                    f"loss is {loss.item()} at step {step} (epoch {epoch + 1}, learning rate {lr:.2g}), expected a "
                    f"finite one; the checkpoint of epoch {epoch} is kept; try a lower --lr"
                )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            ema.update(model)
            total_loss += loss.item()
            step += 1
            progress.update(step - checkpoint.step)
        seconds = perf_counter() - begin
        loss_mean = total_loss / steps_per_epoch
        row = EpochLog(epoch + 1, step, size_px, round(lr, 9), round(loss_mean, 5), round(seconds, 1))
        _append_log(out / LOG, row)
        state = replace(
            checkpoint,
            epoch=epoch + 1,
            step=step,
            model=model.state_dict(),
            ema=ema.model.state_dict(),
            optimizer=optimizer.state_dict(),
            generator=generator.get_state(),
        )
        save(state, out / NAME)
        progress.close()
        yield row


def learning_rate(step: int, num_steps: int, config: TrainConfig) -> float:
    """Linear from 0 over the warm-up, then a cosine to 0."""
    num_warmup = config.warmup * num_steps
    if step < num_warmup:
        return config.lr * (step + 1) / (num_warmup + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / (num_steps - num_warmup)))


def build(config: TrainConfig, num_classes: int) -> MobileOne:
    """The network of a configuration, in training form, freshly initialised."""
    return MobileOne(config.variant, num_classes=num_classes, num_conv_branches=config.num_conv_branches or None)


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; BatchNorm and biases are not decayed, since pulling a scale to 0 is no regularisation."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr)


def _append_log(path: Path, row: EpochLog) -> None:
    values = asdict(row)
    with open(path, "a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(values), lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(values)


def _cut_log(path: Path, num_epochs: int) -> None:
    """Drops rows of epochs that did not reach their checkpoint."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[: num_epochs + 1]), encoding="utf-8")
