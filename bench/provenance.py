"""Marks of what a model was trained on, by which images are known again, and the commit of the code that made it.

A checkpoint carries the marks; a model file those of its clusters, sealed. One of an earlier version has only a hash of
them all, by which a guess can be checked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import edge
from edge.errors import EdgeError, ModelError
from edge.exit import GATE
from edge.predictions import path_text

from .dataset import DatasetError, Sample, read_subset

SEALED = "training_clusters"
"""Name of a model file's metadata: `seal` of the marks of its training clusters."""
_BUNDLED = Path(edge.__file__).parent / "models"
_SEAL_BYTES = 6
"""Of a sealed mark: with 10,000 clusters asked about and a million trained on, 1 in 28,000 times one is mistaken."""


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


def seal(marks: Collection[str]) -> str:
    """Base64 of some marks, salted with the hash of them all: no two files share one, and none names a cluster."""
    salt = marks_sha256(marks)
    return base64.b64encode(b"".join(sorted({_sealed(mark, salt) for mark in marks}))).decode()


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


def guesses(root: Path | None, everything: Sequence[Sample], held_out: Sequence[Collection[str]]) -> Iterator[set[str]]:
    """The marks that a model may have whose training held out some images of a data set in `root`.

    `held_out` has sets of paths, any of which may be those images. The marks are of the clusters of all others; of
    these pictures as well, where the model learned from another one that was trained on them (`train.loop.run`), which
    is guessed last, since all files have to be read for it; not at all without `root`.
    """
    rests = [[sample for sample in everything if sample.path not in paths] for paths in held_out]
    clusters = [{*cluster_marks(rest)} for rest in rests]
    yield from clusters
    if root is None:
        return
    with suppress(OSError):
        for rest, own in zip(rests, clusters, strict=True):
            yield own.union(picture_marks(root, rest))


def beside(model: Path) -> Path:
    """Where the paths of the images that a model file held out are listed, if they are: NAME.heldout.txt beside it."""
    return model.with_name(model.name.removesuffix(".onnx").removesuffix(".int8") + ".heldout.txt")


def seen_samples(
    model: Path, metadata: Mapping[str, str], asked: Sequence[Sample], everything: Sequence[Sample],
    root: Path | None = None, *, candidates: Iterable[Collection[str]] = (),
) -> list[Sample] | None:
    """Those of the images asked about that share a cluster with what a model file was trained on.

    Args:
      model: The file.
      metadata: Its own.
      asked: Images of a data set.
      everything: All of its images, to guess from where the file has only a hash.
      root: The data set's folder, for guesses that read the pictures; None: without those.
      candidates: Marks to guess first.

    Returns:
      None where it is not known: the file does not say, or has seen more than it says.
    """
    sealed, salt = _unseal(metadata), _object(metadata, "training").get("cluster_sha256")
    if sealed and isinstance(salt, str):
        found = [sample for sample in asked if _sealed(cluster_mark(sample.cluster), salt) in sealed]
        return found if found or trained_on(metadata) is not None else None
    if (sha256 := trained_on(metadata)) is None:
        return None
    by_name = {path_text(sample.path): sample.path for sample in everything}
    held_out = set[str]()
    with suppress(DatasetError):
        held_out = {by_name[name] for name in read_subset(beside(model)) if name in by_name}
    paths = {sample.path for sample in asked}
    parts = [set[str](), paths, held_out, {*by_name.values()} - paths]
    known = known_marks(sha256, chain(candidates, guesses(root, everything, parts)))
    return None if known is None else [sample for sample in asked if cluster_mark(sample.cluster) in known]


class Seen(NamedTuple):
    """How many of some images a model was trained on."""

    images: int | None
    """They, or others of their clusters; None where that is not known."""
    remark: str
    """What is to be said of it; "" where nothing is."""


def check_seen(
    model: Path | None, meta: Mapping[str, Any], paths: Collection[str], everything: Sequence[Sample], *, strict: bool
) -> Seen:
    """Whether predictions are of images that their model was trained on.

    Args:
      model: The model file; None: the bundled one, if the predictions name its digest.
      meta: Of the predictions file.
      paths: Of their images, as the file has them.
      everything: All images of the data set.
      strict: Whether to refuse what is, or may be, training accuracy.

    Raises:
      EdgeError: the model is not that of the predictions; or strict, and such an image is there, or nothing is known.
      ModelError: the model file cannot be used.
    """
    digest = meta.get("model_sha256")
    if model is None and digest is not None:
        model = next((path for path in _BUNDLED.glob("*.onnx") if _sha256(path.read_bytes()) == digest), None)
    images, hint = None, ""
    if model is None:
        text = "-m MODEL, the model file of these predictions, tells whether it was trained on these pictures"
        remark = text if digest is not None or strict else ""
    else:
        content, metadata = read_metadata(model)
        if digest not in (None, sha256 := _sha256(content)):
            got = f"got a model of SHA-256 {sha256[:16]}..., expected {str(digest)[:16]}..."
            raise EdgeError(f"{model}: {got}, which made the predictions")
        asked = [sample for sample in everything if path_text(sample.path) in paths]
        found = seen_samples(model, metadata, asked, everything)
        images = None if found is None else len(found)
        remark = "" if images == 0 else f"whether {model.name} was trained on these pictures is not known"
        if images:
            remark = f"{images} of {len(paths)} pictures were trained on by the model {model.name}, themselves or "
            remark += "others of their clusters: the figures flatter it"
            hint = "; edge-infer --root DATA @HELDOUT.txt takes those held out"
    if strict and images != 0:
        raise EdgeError(f"--strict: {remark}{hint}", exit_status=GATE)
    return Seen(images, remark + hint)


def read_metadata(model: Path) -> tuple[bytes, dict[str, str]]:
    """The content of a model file, and its metadata without onnxruntime, which scores do without.

    Source: onnx.proto, ModelProto's field 14, with a key in field 1 and a value in field 2.

    Raises:
      ModelError: cannot be read, or is no ONNX model.
    """
    if model.exists() and not model.is_file():  # a pipe would be waited for, a device read for ever
        raise ModelError(f"{model}: model cannot be read: is no regular file")
    try:
        content = model.read_bytes()
        entries = [dict(_fields(memoryview(value))) for number, value in _fields(memoryview(content)) if number == 14]
        return content, {bytes(entry[1]).decode(): bytes(entry.get(2, b"")).decode() for entry in entries}
    except OSError as error:
        raise ModelError(f"{model}: model cannot be read: {error.strerror}") from error
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{model}: is no ONNX model, expected one written by edge-export") from error


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a protobuf message; a number's content is empty."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = content[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    while at < len(content):
        tag = varint()
        if tag & 7 == 0:
            varint()
            size = 0
        else:
            size = {1: 8, 2: -1, 5: 4}[tag & 7]
            size = varint() if size < 0 else size
        if at + size > len(content):
            raise ValueError("ends inside a field")
        yield tag >> 3, content[at : at + size]
        at += size


def _unseal(metadata: Mapping[str, str]) -> set[bytes]:
    """The sealed marks of a model file; none where it has no whole list of them."""
    with suppress(ValueError):
        content = base64.b64decode(metadata.get(SEALED, ""), validate=True)
        if len(content) % _SEAL_BYTES == 0:
            return {content[i : i + _SEAL_BYTES] for i in range(0, len(content), _SEAL_BYTES)}
    return set()


def _sealed(mark: str, salt: str) -> bytes:
    return hashlib.sha256((salt + mark).encode()).digest()[:_SEAL_BYTES]


def _mark(content: bytes) -> str:
    return _sha256(content)[:16]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
