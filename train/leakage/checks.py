"""What a run must not learn from, and the mark on all that comes of one that does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.dataset import Sample
from bench.provenance import cluster_mark, picture_marks
from edge.errors import EdgeError
from edge.output_files import write_output
from edge.photo.preprocess import Preprocess

from ..checkpoint import Checkpoint
from ..data.images import ImageSet
from ..loop.plan import Plan
from ..networks.teacher import Teacher
from ..networks.weights import Report
from .audit import LOOK, find_fit_leaks

LEAKY = "LEAKY.txt"


class LeakError(EdgeError):
    """Training that would be measured on what it has seen."""

    exit_status = 6


class OverlapError(EdgeError):
    """What is learned from has seen, or may have seen, what is to be measured on."""

    exit_status = 6


def find_leaks(
    plan: Plan,
    seen: Sequence[Sample],
    apart: Sequence[Sample],
    sources: Mapping[str, Teacher | Report | None],
    load: Callable[[Sequence[Sample], Preprocess], ImageSet],
) -> list[str]:
    """What a run would be flattered by, in words.

    Args:
      plan: Of the run.
      seen: What is trained on.
      apart: What is measured on, or chosen by.
      sources: What else is learned from, by its name.
      load: Decodes images.

    Raises:
      LeakError: there is a leak, and the plan does not allow one.
      OverlapError: a source has seen what is kept apart, and the plan does not allow it.
    """
    if not apart:
        return []
    (a, b) = (load(samples, LOOK) for samples in (seen, apart))
    leaks = find_fit_leaks(plan.data, a.samples, a.pixels, b.samples, b.pixels)
    if leaks and not plan.allow_leak:
        counts = ", ".join(f"{leak.count} {leak.name}" for leak in leaks)
        hint = f"edge-train audit {plan.data} --folds {plan.folds} shows them, --allow-leak goes on"
        raise LeakError(f"training and held-out part overlap: {counts}; {hint}")
    lines = [leak.line.removeprefix("LEAK: ") for leak in leaks]
    for name, source in sources.items():
        if source is None:
            continue
        try:
            check_disjoint(source.marks, apart, plan.data, name=name)
        except OverlapError as error:
            if not plan.allow_leak:
                raise
            lines.append(str(error).partition(";")[0])
    return lines


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
    known = [cluster for cluster in clusters if cluster_mark(cluster) in marks]
    if known:
        raise OverlapError(
            f"{name}: was trained on {len(known)} of the {len(clusters)} clusters held out, e.g. {known[0]}, expected "
            f"none, or it would leak them; {hint}"
        )
    same = sum(mark in marks for mark in picture_marks(root, held_out))
    if same:
        raise OverlapError(f"{name}: was trained on {same} of the pictures held out, expected none; {hint}")


def mark_leaky(state: Checkpoint, leaks: Sequence[str], out: Path) -> Checkpoint:
    """Says it in the run's folder, and in all that comes of the checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    write_output(out / LEAKY, "".join(f"{leak}\n" for leak in leaks))
    name = state.data_name if state.data_name.endswith(" (LEAKY)") else f"{state.data_name} (LEAKY)"
    return replace(state, leaky=True, data_name=name)
