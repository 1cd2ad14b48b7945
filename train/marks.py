"""Marks of what was trained on: by them a model's past is compared with the images it is to be measured on.

A checkpoint carries them, of its own training and of all that it learned from; `check_disjoint` compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from bench.dataset import Sample
from edge.errors import EdgeError

_DIGITS = 16


class OverlapError(EdgeError):
    """What is learned from has seen, or may have seen, what is to be measured on."""

    exit_status = 6


def cluster_marks(samples: Iterable[Sample]) -> list[str]:
    """Sorted marks of the clusters of some images: 16 hex digits each, the same wherever a cluster has this name.

    A mark is the start of the name's SHA-256: a checkpoint tells no names of patients to who does not know them.
    """
    return sorted({_mark(_name(sample.cluster)) for sample in samples})


def picture_marks(root: Path, samples: Iterable[Sample]) -> list[str]:
    """Sorted marks of the files of some images: they tell a picture under another name, in another data set."""
    return sorted({_mark((root / sample.path).read_bytes()) for sample in samples})


def check_disjoint(
    marks: Collection[str] | None, held_out: Sequence[Sample], root: Path, *, name: str = "teacher"
) -> None:
    """Whether what is learned from knows nothing of the images that the student will be measured on.

    Args:
      marks: `Teacher.marks`, or those of the weights begun with: of clusters and of pictures.
      held_out: Those images.
      root: The folder of their data set.
      name: What it is, for the message.

    Raises:
      OverlapError: it was trained on one of their clusters or pictures, or does not tell.
    """
    hint = "--allow-leak to learn from it all the same"
    if marks is None:
        raise OverlapError(
            f"{name}: does not tell the clusters it was trained on, so it may leak those held out; {hint}"
        )
    clusters = sorted({sample.cluster for sample in held_out})
    known = [cluster for cluster in clusters if _mark(_name(cluster)) in marks]
    if known:
        raise OverlapError(
            f"{name}: was trained on {len(known)} of the {len(clusters)} clusters held out, e.g. {known[0]}, expected "
            f"none, or it would leak them; {hint}"
        )
    same = sum(mark in marks for mark in picture_marks(root, held_out))
    if same:
        raise OverlapError(f"{name}: was trained on {same} of the pictures held out, expected none; {hint}")


def _name(cluster: str) -> bytes:
    return cluster.encode(errors="surrogateescape")


def _mark(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
