"""A run made from a finished one without training: its folder, its leak mark, and its figures measured anew."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.dataset import DatasetError, Sample
from edge.output_files import write_output
from edge.photo.preprocess import Preprocess

from .. import checkpoint as checkpoints
from ..checkpoint import Checkpoint, CheckpointError
from ..data.images import ImageSet, load_images
from ..leakage.checks import LEAKY, check_disjoint, mark_leaky
from ..loop.run import METRICS, PREDICTIONS, write_json, write_metrics

HELD_OUT = "heldout.txt"
PRIOR = "prior.json"

RUN_FILES = (
    LEAKY, HELD_OUT, "search.txt", "config.json", "log.csv", "log.jsonl", PRIOR, PREDICTIONS, METRICS, checkpoints.NAME,
)
"""What a run may consist of; what the one before left there goes."""


def write_derived(
    out: Path,
    state: Checkpoint,
    origin: Path,
    root: Path,
    samples: Sequence[Sample],
    *,
    leaky: Sequence[str],
    more: Mapping[str, str] | None = None,
) -> None:
    """Writes the new run, measured on what the old one held out, and marked where one that it came from is.

    It is made beside its place and moved there: a run is there whole or not at all.

    Args:
      out: Folder of the new run.
      state: Of the new run, its weights in `result`.
      origin: The run that it comes of.
      root: The data set.
      samples: Its index.
      leaky: Names of the leaky runs that it comes of.
      more: Further files of `RUN_FILES`: name -> text.

    Raises:
      FileExistsError: it would replace the run that it comes of, or a file.
      OverlapError: the old run's list of held-out images names some that it was trained on.
      DatasetError: such an image is not there or cannot be read, or is of another class.
    """
    if out.exists() and (not out.is_dir() or out.resolve() == origin.resolve()):
        raise FileExistsError(errno.EEXIST, "is a file, or the run that it comes of: expected another folder", str(out))
    held_out = _named(origin / HELD_OUT, samples)
    if unknown := sorted({sample.label for sample in held_out} - {*state.classes}):
        expected = f"expected one of {', '.join(state.classes)} (see --label)"
        raise DatasetError(f"{origin / HELD_OUT}: got an image of the class {unknown[0]!r}, {expected}")
    if not leaky:
        check_disjoint(state.clusters + state.pictures, held_out, root, name=str(origin))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=out) as folder:
        new = Path(folder)
        if leaky:
            state = mark_leaky(state, [f"comes of the leaky run {name}" for name in leaky], new)
        with contextlib.suppress(FileNotFoundError):
            write_output(new / HELD_OUT, (origin / HELD_OUT).read_bytes())
        for name, text in (more or {}).items():
            write_output(new / name, text)
        mark = {"leaky": True} if leaky else {}
        write_json(new / "config.json", {"recipe": state.recipe, **mark, **state.config})
        checkpoints.save(replace(state, metrics=None), new / checkpoints.NAME)
        if held_out:
            images = load_all(root, held_out, Preprocess.from_json(state.preprocess))
            write_metrics(new, images.samples, images.pixels)
        for name in RUN_FILES:  # the checkpoint last: with it the run is there
            if (new / name).exists():
                os.replace(new / name, out / name)
            else:
                (out / name).unlink(missing_ok=True)


def load_all(root: Path, samples: Sequence[Sample], preprocess: Preprocess) -> ImageSet:
    """All of these images.

    Raises:
      DatasetError: one cannot be read.
    """
    images = load_images(root, samples, preprocess, quiet=True)
    for path, reason in images.unusable.items():
        raise DatasetError(f"{root / path}: {reason}, expected a picture that can be read, as {len(samples)} others")
    return images


def _named(path: Path, samples: Sequence[Sample]) -> list[Sample]:
    """The samples that a run's list names.

    Raises:
      CheckpointError: it is no list of names.
      DatasetError: some are not there; without them a figure would be of others than the run's own.
    """
    try:
        names = {*path.read_text(encoding="utf-8").splitlines()} if path.exists() else set()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: is no UTF-8, expected the list that edge-train fit wrote") from error
    found = [sample for sample in samples if sample.path in names]
    if absent := names - {sample.path for sample in found}:
        raise DatasetError(f"{path}: {len(absent)} of {len(names)} images are not in the data set, e.g. {min(absent)}")
    return found
