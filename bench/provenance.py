"""Marks of what a model was trained on, by which images are known again, and the commit of the code that made it.

A checkpoint carries the marks; a model file has one hash of those of its clusters, by which a guess can be checked.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .dataset import Sample


def cluster_mark(cluster: str) -> str:
    """The first 16 hex digits of the SHA-256 of a cluster's name, so that a checkpoint names no patient."""
    return _mark(cluster.encode(errors="surrogateescape"))


def cluster_marks(samples: Iterable[Sample]) -> list[str]:
    """Sorted marks of the clusters of some images, each once."""
    return sorted({cluster_mark(sample.cluster) for sample in samples})


def picture_marks(root: Path, samples: Iterable[Sample]) -> list[str]:
    """Sorted marks of the files of some images: they show a picture under another name, in another data set."""
    return sorted({_mark((root / sample.path).read_bytes()) for sample in samples})


def marks_sha256(marks: Collection[str]) -> str:
    """The hash of some marks, as a model file carries it."""
    return hashlib.sha256("\n".join(sorted(marks)).encode()).hexdigest()


def trained_on(metadata: Mapping[str, str]) -> str | None:
    """Hash of the marks of all that a model file, by its `metadata`, learned from; None where it does not say."""
    training, quantization = _object(metadata, "training"), _object(metadata, "quantization")
    found, tuning = training.get("cluster_sha256"), quantization.get("finetuning")
    if training.get("leaky"):  # a leaky run has seen more than its clusters
        return None
    if isinstance(tuning, dict) and tuning.get("cluster_sha256") != found:
        return None
    return found if isinstance(found, str) else None


def known_marks(sha256: str, candidates: Iterable[Collection[str]]) -> frozenset[str] | None:
    """The first of some sets of marks that has this hash; None where none has."""
    return next((frozenset(marks) for marks in candidates if marks_sha256(marks) == sha256), None)


def guesses(root: Path, everything: Sequence[Sample], held_out: Sequence[Collection[str]]) -> Iterator[set[str]]:
    """The marks that a model may have whose training held out some images of a data set in `root`.

    `held_out` has sets of paths, any of which may be those images. The marks are of the clusters of all others; of
    these pictures as well, where the model learned from another one that was trained on them (`train.loop.run`), which
    is guessed last, since all files have to be read for it.
    """
    rests = [[sample for sample in everything if sample.path not in paths] for paths in held_out]
    clusters = [{*cluster_marks(rest)} for rest in rests]
    yield from clusters
    with suppress(OSError):
        for rest, own in zip(rests, clusters, strict=True):
            yield own.union(picture_marks(root, rest))


def beside(model: Path) -> Path:
    """Where the paths of the images that a model file held out are listed, if they are: NAME.heldout.txt beside it."""
    return model.with_name(model.name.removesuffix(".onnx").removesuffix(".int8") + ".heldout.txt")


def _mark(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _object(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """A JSON object of the metadata; empty where it is absent, or no object."""
    found: Any = None
    with suppress(ValueError, RecursionError):
        found = json.loads(metadata.get(name, "null"))
    return found if isinstance(found, dict) else {}


def source_commit(folder: Path) -> str:
    """Commit of the checkout that a folder is of, with "+" where files below the folder differ; "unknown" in none."""
    try:
        head, status = (
            subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "."])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if status else "")
