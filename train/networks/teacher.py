"""Teachers for distillation: an ensemble of our own networks, or of others', that only ever answers.

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
from ..data.feeder import scale_tensor
from .weights import IMAGENET_MEAN, IMAGENET_STD

_FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""Axes of (N, 3, S, S) turned round: a lesion has no up and no left."""
_BATCH_SIZE = 32


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
        """Brings the members, at least one, to one order of classes: the student's.

        Raises:
          ModelError: a member has other classes.
        """
        for member in members:
            if sorted(member.classes) != sorted(classes):
                got, expected = ", ".join(member.classes), ", ".join(classes)
                raise ModelError(f"teacher: got the classes {got}, expected the student's {expected}")
        self.preprocesses = tuple(member.preprocess for member in members)
        """One per member: at which side, `size_px`, and how it wants the pictures."""
        known = [member.marks for member in members if member.marks is not None]
        self.marks = frozenset[str]().union(*known) if len(known) == len(members) else None
        """Of all that a member was trained on; None where one does not say."""
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
        """The same N pictures as each member wants them, (N, S, S, 3) uint8 RGB -> (N, C) float32 log-probabilities.

        They lie on the teacher's device and have no gradient; a distillation loss takes them as logits.
        """
        return _log_mean([self._ask(i, batch, ((),)) for i, batch in enumerate(batches)])

    @torch.no_grad()
    def _ask(self, index: int, batch: np.ndarray, flips: Iterable[tuple[int, ...]]) -> torch.Tensor:
        """One member's (N, C) float32 log-probabilities of (N, S, S, 3) uint8, mean over flips."""
        scale = scale_tensor(self.preprocesses[index]).to(self.device)
        pixels = torch.tensor(batch, device=self.device)  # a copy: a cache is read-only
        images = pixels.permute(0, 3, 1, 2).float() * scale  # (N, 3, S, S)
        network, order = self._networks[index], self._orders[index]
        return _log_mean([torch.log_softmax(network(images.flip(flip))[:, order].float(), dim=1) for flip in flips])


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
    members = [_load_swin(path) if (path / "model.safetensors").exists() else _load_own(path) for path in paths]
    return Teacher(members, classes=classes)


def _load_own(path: Path) -> Member:
    network, preprocess, classes, state = checkpoint.load_model(path)
    sha256 = checkpoint.sha256_of(checkpoint.file_of(path))
    return Member(network, preprocess, classes, sha256, checkpoint.marks_of(state))


def _load_swin(folder: Path) -> Member:
    """A Swin V2 from a folder with config.json and model.safetensors; other classifiers of transformers work as well.

    It sees letterboxed pictures at the side it was made for, minus ImageNet's mean over its standard deviation.

    Source: Liu et al., Swin Transformer V2, 2021, arXiv 2111.09883.
    """
    try:
        from transformers import AutoModelForImageClassification
        from transformers.utils import logging
    except ImportError as error:
        text = f"{folder}: needs transformers: pip install -e '.[teacher]' in the checkout"
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
    classes = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
    sha256 = checkpoint.sha256_of(folder / "model.safetensors")
    return Member(_WithoutMean(model), preprocess, classes, sha256, marks=None)


class _WithoutMean(nn.Module):
    """(N, 3, S, S) float32 pixels / (255 std) -> (N, C) logits of a model that expects the mean subtracted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        offset = torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD)
        self.offset = nn.Buffer(offset.view(3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.model(pixel_values=images - self.offset).logits)


def soft_labels(
    teacher: Teacher,
    load: Callable[[Preprocess], np.ndarray],
    *,
    key: str,
    cache: Path | None = None,
    quiet: bool = False,
) -> np.ndarray:
    """The teacher's answers to all pictures, each averaged over the picture and its three mirror images.

    Args:
      teacher: Asked.
      load: Gives the pictures as a member wants them, (N, S, S, 3) uint8 RGB, always the same N.
      key: Changes when the pictures do, e.g. the SHA-256 of their files' names, sizes and times.
      cache: Folder to keep the answers in; None keeps none.
      quiet: Whether no progress is shown.

    Returns:
      (N, C) float32 log-probabilities.

    Raises:
      ModelError: the file in the cache is damaged.
    """
    digest = hashlib.sha256(json.dumps([teacher.sha256, key]).encode()).hexdigest()
    path = None if cache is None else cache / f"teacher-{digest[:32]}.npz"
    if path is not None and path.exists():
        try:  # the checksums of the zip find damage
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as kept:
                return cast(np.ndarray, kept["log_probabilities"])
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ModelError(f"{path}: damaged, delete it to ask the teacher again: {error}") from error
    answers = []
    for i, preprocess in enumerate(teacher.preprocesses):
        images = load(preprocess)  # one member's at a time: those of a large side fill gigabytes
        progress = Progress(len(images), quiet=quiet)
        parts = []
        for start in range(0, len(images), _BATCH_SIZE):
            parts.append(teacher._ask(i, images[start : start + _BATCH_SIZE], _FLIPS).cpu())
            progress.update(min(start + _BATCH_SIZE, len(images)))
        progress.close()
        answers.append(torch.cat(parts))
    result: np.ndarray = _log_mean(answers).numpy()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, open(part, "wb") as file:  # whole, also when two processes write it
            np.savez(file, log_probabilities=result)
    return result


def _log_mean(answers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log of the mean of probabilities that are given as logs; exact where a probability itself underflows."""
    return torch.logsumexp(torch.stack(list(answers)), dim=0) - math.log(len(answers))
