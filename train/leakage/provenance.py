"""Whether what is learned from has seen the images that its student will be measured on.

A checkpoint carries the marks (`bench.provenance`) of its own training and of all that it learned from.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from bench.dataset import Sample
from bench.provenance import cluster_mark, picture_marks
from edge.errors import EdgeError


class OverlapError(EdgeError):
    """What is learned from has seen, or may have seen, what is to be measured on."""

    exit_status = 6


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
