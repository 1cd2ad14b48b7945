"""The training loop: from a checkpoint, which may be of step 0, to the next, step by step.

All chance is a function of the seed and the number of the step, so a run that is resumed, or spread over processes,
does what an unbroken one does.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from edge.errors import EdgeError
from edge.exit import USAGE
from edge.photo.preprocess import Preprocess

from ..checkpoint import NAME, Checkpoint, save
from ..config import TrainConfig
from ..data.feeder import Batch, View, feed, scale_tensor
from ..data.sampler import Batches, epoch_batches, num_steps_per_epoch
from ..networks.network import build
from ..networks.teacher import Teacher
from .distributed import Ranks, gather, share_batch_norm
from .epoch_log import EpochLog, Log
from .losses import Objective
from .machine import Forecast
from .optimizer import Ema, build_optimizer, reestimate_batch_norm, set_rates

_TURNS = 0x5EED_7A2  # keeps these numbers apart from the augmentation's and the sampler's of the same seed


class TrainingError(EdgeError):
    """Training that cannot go on."""

    exit_status = 6


@dataclass(frozen=True)
class TrainingData:
    """The images to train on."""

    images: Mapping[int, np.ndarray]
    """Input side -> (N, S, S, 3) uint8 RGB at that side with its margin."""
    labels: np.ndarray
    """(N,) class indices."""
    groups: np.ndarray
    """(N,) group indices."""
    names: Sequence[str]
    """(N,) paths, to name those of a failed batch."""
    soft_labels: np.ndarray | None = None
    """(N, C) float32 log-probabilities of a teacher that saw each image once."""
    teacher: Teacher | None = None
    """It sees what the student sees, through `views`."""
    views: Sequence[View] = field(default_factory=tuple)
    """The teacher's own pictures, one set per member."""


def check_config(
    config: TrainConfig, *, classes: Sequence[str], labels: np.ndarray, groups: np.ndarray, num_ranks: int
) -> None:
    """Checks before the run that a configuration fits the data and the processes.

    Raises:
      EdgeError: numbers for other classes, or fewer images in a batch than processes.
    """
    size, seed = min(config.optim.batch_size, len(labels)), config.optim.seed
    first = epoch_batches(labels, groups, config.sample, classes=classes, batch_size=size, epoch=0, seed=seed)
    if first.indices.shape[1] < num_ranks:
        text = f"batch_size: got {first.indices.shape[1]} images for {num_ranks} processes, expected one each at least"
        raise EdgeError(text, exit_status=USAGE)
    Objective(config, classes=classes)


def fit(
    checkpoint: Checkpoint,
    data: TrainingData,
    *,
    out: Path,
    ranks: Ranks,
    checkpoint_s: float = 300.0,
    quiet: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[EpochLog]:
    """Trains from `checkpoint` to the last step of its configuration.

    Args:
      checkpoint: Where to begin.
      data: The images.
      out: Folder for checkpoint.pt, replaced after every epoch and every `checkpoint_s`, and the log.
      ranks: This process among those that train together.
      checkpoint_s: Most seconds between checkpoints: what a kill loses.
      quiet: Whether no progress is shown.
      say: Takes what the run will take.

    Yields:
      The log of each epoch, once it is on disk.

    Raises:
      TrainingError: the loss is no longer finite.
      ValueError: the configuration does not fit the data.
    """
    run = Session(checkpoint, data, ranks)
    first_step, saved_at = run.step, perf_counter()
    log = Log(out, num_epochs=run.step // run.steps_per_epoch) if ranks.is_first else None
    work = [run.config.size_px(step // run.steps_per_epoch) ** 2 for step in range(first_step, run.num_steps)]
    progress = Forecast(work, say=say, quiet=quiet or not ranks.is_first)
    with contextlib.closing(progress):
        while run.step < run.num_steps:
            epoch = run.step // run.steps_per_epoch
            size_px, begin = run.config.size_px(epoch), perf_counter()
            with contextlib.closing(run.batches(epoch, size_px)) as batches:
                for batch in batches:
                    waited_s = perf_counter() - begin
                    parts = run.take(batch)
                    now = perf_counter()
                    run.count(parts, images=len(batch.indices), waited_s=waited_s, seconds=now - begin)
                    begin = now
                    progress.update(run.step - first_step)
                    if ranks.is_first and now - saved_at > checkpoint_s and run.step % run.steps_per_epoch:
                        save(run.checkpoint(), out / NAME)
                        saved_at = now
            run.finish()
            row = run.row(size_px)
            if log is not None:
                log.append(row)
                save(run.checkpoint(), out / NAME)
                saved_at = perf_counter()
            progress.close()
            yield row


class Session:
    """All that changes while training; from a checkpoint, and to one."""

    def __init__(self, checkpoint: Checkpoint, data: TrainingData, ranks: Ranks) -> None:
        """Puts everything in the state of the checkpoint, on the rank's device."""
        self.config = config = TrainConfig.from_dict(checkpoint.config)
        self.step, self.lr, self.sums, self.result = checkpoint.step, 0.0, dict(checkpoint.sums), checkpoint.result
        self._checkpoint, self._data, self._ranks = checkpoint, data, ranks
        optim, device = config.optim, ranks.device
        self.model = build(config.model, len(checkpoint.classes))
        self.model.load_state_dict(checkpoint.model)
        self.model.to(device).train()
        self.ema = Ema(self.model, decay=optim.ema_decay, ramp=optim.ema_ramp)
        self.ema.model.load_state_dict(checkpoint.ema)
        self.ema.num_updates = checkpoint.step
        self.objective = Objective(config, classes=checkpoint.classes).to(device)
        self.optimizer = build_optimizer(self.model, optim)
        self.scaler = torch.amp.GradScaler(device.type, enabled=optim.amp == "fp16" and device.type == "cuda")
        if checkpoint.step:
            self.objective.load_state_dict(checkpoint.objective)
            self.optimizer.load_state_dict(checkpoint.optimizer)
            self.scaler.load_state_dict(checkpoint.scaler)
        if optim.channels_last:
            # Not before: in the stem PyTorch 2.13 corrupts its heap on CPUs.
            self.model.body.get_submodule("stem").register_forward_hook(
                lambda _module, _inputs, output: output.contiguous(memory_format=torch.channels_last)
            )
        self._embed: nn.Module = nn.Sequential(self.model.body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        if ranks.size > 1:
            share_batch_norm(self.model.body)
            # The head needs no wrapper: every rank computes it, and its gradient, on the images of all.
            wrapped = DistributedDataParallel(self._embed)
            wrapped.broadcast_buffers = False  # every rank has the statistics of all; the argument is deprecated
            self._embed = wrapped
        self._labels, self._groups = (torch.from_numpy(x).long().to(device) for x in (data.labels, data.groups))
        self._soft = None if data.soft_labels is None else torch.from_numpy(data.soft_labels).to(device)
        self._scale = scale_tensor(Preprocess.from_json(checkpoint.preprocess))
        size = min(optim.batch_size, len(data.labels))
        self._drawing: dict[str, Any] = {"classes": checkpoint.classes, "batch_size": size}
        self.steps_per_epoch = num_steps_per_epoch(data.labels, data.groups, config.sample, **self._drawing)
        self.num_steps = optim.epochs * self.steps_per_epoch

    def batches(self, epoch: int, size_px: int, *, of_all_ranks: bool = False) -> Generator[Batch, None, None]:
        """This rank's part, or all, of what is left of an epoch."""
        data, seed, done = self._data, self.config.optim.seed, self.step - epoch * self.steps_per_epoch
        drawn = epoch_batches(data.labels, data.groups, self.config.sample, epoch=epoch, seed=seed, **self._drawing)
        return feed(
            data.images[size_px],
            Batches(drawn.indices[done:], drawn.is_repeat[done:]),
            self.config.augment,
            size_px=size_px,
            scale=self._scale,
            seed=seed,
            first_step=self.step,
            names=data.names,
            rank=0 if of_all_ranks else self._ranks.rank,
            num_ranks=1 if of_all_ranks else self._ranks.size,
            views=data.views,
            pin=self._ranks.device.type == "cuda",
        )

    def take(self, batch: Batch) -> dict[str, float]:
        """One step: forward, loss, backward, optimizer, average. Returns the parts of the loss.

        Raises:
          TrainingError: their total is not finite; no weight was changed.
        """
        config, device = self.config, self._ranks.device
        self.lr = set_rates(self.optimizer, self.step, self.num_steps, config.optim)
        torch.manual_seed(config.optim.seed * 1_000_003 + self.step)  # dropout's, the same on every rank
        images = self._on_device(batch)
        is_mixed = self.scaler.is_enabled()  # a CPU has no fp16 worth using
        with torch.autocast(device.type, torch.float16, enabled=is_mixed):
            images = torch.cat([images, self._turned(images)]) if config.loss.turn_weight else images
            features = self._embed(images)  # (n, D) of this rank, or (2n, D)
        # (B, D) of all ranks: what follows is as in one process.
        views = [gather(view.float() if is_mixed else view) for view in features.split(len(batch.images))]
        chosen = torch.from_numpy(batch.indices).to(device)
        teacher = None if self._soft is None else self._soft[chosen]
        if self._data.teacher is not None:
            teacher = gather(self._data.teacher.log_probabilities(batch.views))
        parts = self.objective(
            self.model.head,
            views[0],
            self._labels[chosen],
            self._groups[chosen],
            teacher,
            turned=views[1] if config.loss.turn_weight else None,
            progress=self.step / self.num_steps,
        )
        values = {name: float(part.detach()) for name, part in parts.items()}
        if not math.isfinite(values["total"]):
            raise self._diverged(values, batch)
        self.optimizer.zero_grad()
        torch.autograd.backward(self.scaler.scale(parts["total"]))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.model)
        self.step += 1
        return values

    def finish(self) -> None:
        """Ends an epoch; after the last one settles the result, where that is not the running average as it stands.

        Raises:
          TrainingError: the averaged weights are not finite.
        """
        optim = self.config.optim
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.ema.model.state_dict().values()):
            raise TrainingError(
                f"the weights are not finite after step {self.step} (learning rate {self.lr:.2g}); the last checkpoint "
                "is kept, if there is one; try a lower --lr"
            )
        if self.step < self.num_steps or not optim.bn_batches:
            return
        model = build(self.config.model, len(self._checkpoint.classes)).to(self._ranks.device)
        model.load_state_dict(self.ema.model.state_dict())
        # An epoch that was not trained on; all of it on every rank, so that all have one result.
        rendered = self.batches(optim.epochs, self.config.input.sizes_px[-1], of_all_ranks=True)
        with contextlib.closing(rendered) as batches:
            reestimate_batch_norm(model, (self._on_device(batch) for batch in islice(batches, optim.bn_batches)))
        self.result = model.state_dict()

    def count(self, parts: Mapping[str, float], **others: float) -> None:
        """Adds a step to the epoch's sums: the parts of its loss, and its images, seconds and waited_s."""
        for name, value in {**parts, **others}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def row(self, size_px: int) -> EpochLog:
        """The log of the epoch that is done; its sums begin anew."""
        sums, self.sums = self.sums, {}
        seconds = sums["seconds"]
        mean = {name: round(sums[name] / self.steps_per_epoch, 5) for name in sums}
        return EpochLog(
            epoch=self.step // self.steps_per_epoch,
            step=self.step,
            size_px=size_px,
            lr=round(self.lr, 9),
            loss=mean["total"],
            hard=mean["hard"],
            triplet=mean.get("triplet"),
            distill=mean.get("distill"),
            turn=mean.get("turn"),
            seconds=round(seconds, 1),
            images_per_second=round(sums["images"] / seconds, 1),
            input_share=round(sums["waited_s"] / seconds, 3),
        )

    def checkpoint(self) -> Checkpoint:
        """The state as it stands."""
        return replace(
            self._checkpoint,
            step=self.step,
            model=self.model.state_dict(),
            ema=self.ema.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            objective=self.objective.state_dict(),
            scaler=self.scaler.state_dict(),
            sums=self.sums,
            result=self.result,
        )

    def _turned(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, S, S): the whole batch in one of the seven other ways to lay a square, by the number of the step."""
        way = 1 + int(np.random.default_rng((_TURNS, self.config.optim.seed, self.step)).integers(7))
        images = images.flip(3) if way >= 4 else images
        return torch.rot90(images, way % 4, (2, 3))

    def _on_device(self, batch: Batch) -> torch.Tensor:
        return batch.images.to(self._ranks.device, self.model.head.fc.weight.dtype, non_blocking=True)

    def _diverged(self, values: Mapping[str, float], batch: Batch) -> TrainingError:
        parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        names = [self._data.names[i] for i in batch.indices]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return TrainingError(
            f"the loss is not finite at step {self.step} ({parts}; learning rate {self.lr:.2g}; images {shown}); "
            "the last checkpoint is kept, if there is one; try a lower --lr"
        )
