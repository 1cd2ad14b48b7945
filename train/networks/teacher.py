"""Who is learned from besides the labels: an ensemble of our own networks, or of others', that only ever answers.

Every member sees the pictures at its own side and through its own preprocessing; the answers are averaged as
probabilities. A teacher that has seen what the student will be measured on would pass it on, so each carries the
marks of what it learned from (`bench.provenance`).
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from edge.errors import EdgeError, ModelError
from edge.exit import ENVIRONMENT
from edge.output_files import replacing
from edge.photo.preprocess import Preprocess
from edge.progress import Progress

from .. import checkpoint
from ..data.images import scale_tensor
from .weights import IMAGENET_MEAN, IMAGENET_STD

_FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""Axes of (N, 3, S, S) turned round: a lesion has no up and no left."""


@dataclass(frozen=True)
class Member:
    """One network of a teacher, in evaluation mode."""

    network: nn.Module
    """(N, 3, S, S) float32, times `preprocess.scale` -> (N, C) logits in the order of its own classes."""
    preprocess: Preprocess
    classes: tuple[str, ...]
    sha256: str
    """Of its file."""
    marks: frozenset[str] | None
    """`bench.provenance.cluster_marks` and `picture_marks` of what it was trained on; None where that is not known."""


class Teacher:
    """Mean of the probabilities of its members."""

    def __init__(self, members: Sequence[Member], *, classes: Sequence[str]) -> None:
        """Brings the members to one order of classes.

        Args:
          members: At least one.
          classes: The student's, in the order of its logits.

        Raises:
          ModelError: a member has other classes.
        """
        for member in members:
            if sorted(member.classes) != sorted(classes):
                got, expected = ", ".join(member.classes), ", ".join(classes)
                raise ModelError(f"teacher: got the classes {got}, expected the student's {expected}")
        self.preprocesses = tuple(member.preprocess for member in members)
        """One per member: at which side, `size_px`, and how it wants the pictures."""
        self.marks: frozenset[str] | None = frozenset().union(*(member.marks or () for member in members))
        """Of all clusters that a member was trained on; None where one does not tell."""
        if any(member.marks is None for member in members):
            self.marks = None
        self.sha256 = identity_of([(member.sha256, member.preprocess.to_json()) for member in members], classes)
        """Of all that its answers depend on apart from the pictures."""
        self.device = torch.device("cpu")
        self._networks = [member.network.eval().requires_grad_(False) for member in members]
        self._orders = [[member.classes.index(name) for name in classes] for member in members]

    def to(self, device: torch.device) -> Teacher:
        """Moves the members, and returns itself."""
        self.device = device
        for network in self._networks:
            network.to(device)
        return self

    def log_probabilities(self, batches: Sequence[np.ndarray]) -> torch.Tensor:
        """What the teacher says of a batch, each picture as it is.

        Args:
          batches: One per member, each (N, S, S, 3) uint8 RGB with S its own side: the same N pictures.

        Returns:
          (N, C) float32 on the teacher's device, without gradient. Log-probabilities: as good as logits to a
          distillation loss of any temperature.
        """
        answers = [self._ask(i, batch, ((),)) for i, batch in enumerate(batches)]
        return _log_mean(answers)

    @torch.no_grad()
    def _ask(self, index: int, batch: np.ndarray, flips: Iterable[tuple[int, ...]]) -> torch.Tensor:
        """One member's (N, C) float32 log-probabilities of (N, S, S, 3) uint8, mean over flips."""
        scale = scale_tensor(self.preprocesses[index]).to(self.device)
        pixels = torch.tensor(batch, device=self.device)  # a copy: a cache is read-only
        images = pixels.permute(0, 3, 1, 2).float() * scale  # (N, 3, S, S)
        answers = []
        for flip in flips:
            logits = self._networks[index](images.flip(flip))[:, self._orders[index]]
            answers.append(torch.log_softmax(logits.float(), dim=1))
        return _log_mean(answers)


def identity_of(members: Sequence[tuple[str, str]], classes: Sequence[str]) -> str:
    """SHA-256 of all that a teacher's answers depend on: each member's file and preprocessing, and the classes."""
    return hashlib.sha256(json.dumps([members, list(classes)]).encode()).hexdigest()


def load_teacher(paths: Sequence[Path], *, classes: Sequence[str]) -> Teacher:
    """An ensemble of networks.

    Args:
      paths: At least one. Each a checkpoint of ours, a run folder that holds one, or a folder that `save_pretrained`
        of transformers wrote.
      classes: The student's, in the order of its logits.

    Raises:
      CheckpointError: no such checkpoint, or none of this schema.
      ModelError: one cannot be loaded, or has other classes.
      EdgeError: one needs transformers, which is not installed.
    """
    members = [load_swin(path) if (path / "model.safetensors").exists() else _load_own(path) for path in paths]
    return Teacher(members, classes=classes)


def load_swin(folder: Path) -> Member:
    """A Swin V2 from a folder with config.json and model.safetensors; other classifiers of transformers work as well.

    It sees letterboxed pictures at the side it was made for, minus ImageNet's mean over its standard deviation.

    Source: Liu et al., Swin Transformer V2, 2021, arXiv 2111.09883.

    Raises:
      ModelError: no classifier that transformers can load whole.
      EdgeError: transformers is not installed.
    """
    try:
        from transformers import AutoModelForImageClassification
        from transformers.utils import logging
    except ImportError as error:
        text = f"{folder}: needs transformers: pip install '.[teacher]' in the checkout"
        raise EdgeError(text, exit_status=ENVIRONMENT) from error
    logging.set_verbosity_error()  # what it would report is raised below
    logging.disable_progress_bar()
    red, green, blue = (1 / (255 * std) for std in IMAGENET_STD)
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        size = model.config.image_size
        preprocess = Preprocess(size_px=size if isinstance(size, int) else size[0], scale=(red, green, blue))
    except Exception as error:  # transformers raises most built-in types on foreign folders
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ModelError(f"{folder}: no classifier of transformers: {reason}") from error
    absent = sorted([*info["missing_keys"], *info["mismatched_keys"]])
    if absent:  # which transformers fills with random numbers
        raise ModelError(f"{folder}: {len(absent)} tensors are missing or of another shape, e.g. {absent[0]}")
    return Member(
        network=_WithoutMean(model),
        preprocess=preprocess,
        classes=tuple(model.config.id2label[i] for i in range(model.config.num_labels)),
        sha256=sha256_of(folder / "model.safetensors"),
        marks=None,
    )


class _WithoutMean(nn.Module):
    """(N, 3, S, S) float32 pixels / (255 std) -> (N, C) logits of a model that expects the mean subtracted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        offset = torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD)
        self.offset = nn.Buffer(offset.view(3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.model(pixel_values=images - self.offset).logits)


def _load_own(path: Path) -> Member:
    network, preprocess, classes, state = checkpoint.load_model(path)
    return Member(
        network=network,
        preprocess=preprocess,
        classes=classes,
        sha256=sha256_of(path / checkpoint.NAME if path.is_dir() else path),
        marks=None if state.leaky else frozenset(state.clusters + state.pictures),  # a leaky run has seen more
    )


def soft_labels(
    teacher: Teacher,
    load: Callable[[Preprocess], np.ndarray],
    *,
    key: str,
    cache: Path | None = None,
    batch_size: int = 32,
    quiet: bool = False,
) -> np.ndarray:
    """What the teacher says of every picture, averaged over the picture and its three mirror images.

    Args:
      teacher: Who is asked.
      load: Gives the pictures as a member wants them, (N, S, S, 3) uint8 RGB, always the same N.
      key: Changes when the pictures do, e.g. the SHA-256 of their files' names, sizes and times.
      cache: Folder to keep the answers in; None keeps none.
      batch_size: Pictures per call of a network.
      quiet: Whether no progress is shown.

    Returns:
      (N, C) float32 log-probabilities.
    """
    digest = hashlib.sha256(json.dumps([teacher.sha256, key]).encode()).hexdigest()
    path = None if cache is None else cache / f"teacher-{digest[:32]}.npz"
    if path is not None and path.exists():
        return _read(path)
    answers = []
    for i, preprocess in enumerate(teacher.preprocesses):
        images = load(preprocess)  # one member's at a time: those of a large side fill gigabytes
        progress = Progress(len(images), quiet=quiet)
        parts = []
        for start in range(0, len(images), batch_size):
            parts.append(teacher._ask(i, images[start : start + batch_size], _FLIPS).cpu())
            progress.update(min(start + batch_size, len(images)))
        progress.close()
        answers.append(torch.cat(parts))
    result: np.ndarray = _log_mean(answers).numpy()
    if path is not None:
        _write(path, result)
    return result


def _log_mean(answers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log of the mean of probabilities that are given as logs; exact where a probability itself underflows."""
    return torch.logsumexp(torch.stack(list(answers)), dim=0) - math.log(len(answers))


def _read(path: Path) -> np.ndarray:
    """What `_write` wrote; the checksums of the zip tell damage."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return cast(np.ndarray, file["log_probabilities"])
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: damaged, delete it to ask the teacher again: {error}") from error


def _write(path: Path, array: np.ndarray) -> None:
    """A file of this name is always whole, also when two processes write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, log_probabilities=array)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
