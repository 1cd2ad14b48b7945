"""What a run must not learn from, and the mark on all that comes of one that does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.dataset import Sample
from bench.provenance import cluster_mark, picture_marks
from edge.errors import EdgeError
from edge.output_files import write_output
from edge.photo.preprocess import Preprocess

from ..checkpoint import Checkpoint
from ..data.images import ImageSet
from ..networks.teacher import Teacher
from ..networks.weights import Report
from .audit import cut_clusters, findings_of
from .duplicates import LOOK, find_pairs, fingerprint

if TYPE_CHECKING:  # it imports this module
    from ..loop.run import Plan

LEAKY = "LEAKY.txt"


class LeakError(EdgeError):
    """What is measured on was, or may have been, learned from."""

    exit_status = 6


def find_leaks(
    plan: Plan,
    seen: Sequence[Sample],
    apart: Sequence[Sample],
    sources: Mapping[str, Teacher | Report | None],
    load: Callable[[Sequence[Sample], Preprocess], ImageSet],
) -> list[str]:
    """What a run would be flattered by, in words: what is kept apart, to measure on or to choose by, is learned from.

    It is compared with the images that are trained on and with the other sources, by their names.

    Raises:
      LeakError: there is a leak, and the plan does not allow one.
    """
    if not apart:
        return []
    parts = [load(samples, LOOK) for samples in (seen, apart)]
    a, b = (fingerprint(plan.data, [sample.path for sample in part.samples], part.pixels) for part in parts)
    sides = [side for side, part in enumerate(parts) for _ in part.samples]
    leaks = cut_clusters(parts[0].samples + parts[1].samples, sides)
    leaks += findings_of(find_pairs(a, b), a, b, "in both parts")
    if leaks and not plan.allow_leak:
        counts = ", ".join(f"{leak.count} {leak.name}" for leak in leaks)
        hint = f"edge-train audit {plan.data} --folds {plan.folds} shows them, --allow-leak goes on"
        raise LeakError(f"training and held-out part overlap: {counts}; {hint}")
    lines = [leak.text for leak in leaks]
    for name, source in sources.items():
        try:
            if source is not None:
                check_disjoint(source.marks, apart, plan.data, name=name)
        except LeakError as error:
            if not plan.allow_leak:
                raise
            lines.append(str(error).partition(";")[0])
    return lines


def check_disjoint(
    marks: Collection[str] | None, held_out: Sequence[Sample], root: Path, *, name: str = "teacher"
) -> None:
    """Whether what is learned from knows nothing of the images of a data set that are measured on.

    Args:
      marks: Of the clusters and the pictures that it was trained on; None where it does not say.
      held_out: Those images.
      root: The folder of their data set.
      name: What it is, for the message.

    Raises:
      LeakError: it was trained on one of their clusters or pictures, or does not say.
    """
    hint = "--allow-leak to learn from it all the same"
    if marks is None:
        text = "does not say which clusters it was trained on, so it may leak those held out"
        raise LeakError(f"{name}: {text}; {hint}")
    clusters = sorted({sample.cluster for sample in held_out})
    if known := [cluster for cluster in clusters if cluster_mark(cluster) in marks]:
        got = f"{len(known)} of the {len(clusters)} clusters held out, e.g. {known[0]}"
        raise LeakError(f"{name}: was trained on {got}, expected none, or it would leak them; {hint}")
    if same := sum(mark in marks for mark in picture_marks(root, held_out)):
        raise LeakError(f"{name}: was trained on {same} of the pictures held out, expected none; {hint}")


def mark_leaky(state: Checkpoint, leaks: Sequence[str], out: Path) -> Checkpoint:
    """Says it in the run's folder, and in all that comes of the checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    write_output(out / LEAKY, "".join(f"{leak}\n" for leak in leaks))
    name = state.data_name if state.data_name.endswith(" (LEAKY)") else f"{state.data_name} (LEAKY)"
    return replace(state, leaky=True, data_name=name)
