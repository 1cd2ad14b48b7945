"""What a reader should know before believing a figure: groups that are too small, absent, or compared with nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..dataset import NOT_STATED, ONE_GROUP
from ..metrics.evaluation import Frame
from ..metrics.fairness import MIN_CELL

HALF_WIDTH = 0.05
"""A group whose accuracy is known less well than this gets a warning: 0.05 is a quarter of the contest's 0.2."""

NO_GROUPS = "no groups"


def why_undefined(frame: Frame) -> str | None:
    """Why the SPD, and so the fairness, have no value; None where they have one."""
    sizes = _sizes(frame)
    if frame.names == [ONE_GROUP]:
        return NO_GROUPS
    if len(sizes) < 2:
        return f"only one group, {next(iter(sizes))}" if sizes else "no group to compare"
    reference = frame.setting.reference
    return None if reference in sizes else f"the reference group {reference} has no scored image"


def caveats(frame: Frame, by_group: dict[str, Any]) -> Iterator[str]:
    """One line each."""
    why, sizes = why_undefined(frame), _sizes(frame)
    if num_unstated := by_group[NOT_STATED]["accuracy"]["n"] if NOT_STATED in by_group else 0:
        yield f"the group of {num_unstated} pictures is not stated: they are compared with no other"
    for name in frame.names:
        _, low, high, n = by_group[name]["accuracy"].values()
        has, whose = ("the data have", "the") if why == NO_GROUPS else (f"group {name} has", "its")
        what = f"{has} {n} picture{'s' * (n != 1)}"
        if n < MIN_CELL and why != NO_GROUPS:
            fix = f"--exclude-group {name} leaves it out"
            yield f"{what}, under {MIN_CELL}: nothing that compares groups has an interval ({fix})"
        elif (half := (high - low) / 2) > HALF_WIDTH:
            needed = math.ceil(n * (half / HALF_WIDTH) ** 2)  # such pictures: of clusters, each is worth less
            known = f"{whose} accuracy is known only to lie between {low:.3f} and {high:.3f}"
            yield f"{what}: {known} (about {needed} such pictures would make it ± {HALF_WIDTH})"
    if len(sizes) < 2:
        yield f"{why}: nothing is compared, and the score has no fairness"
    elif why is not None:
        reference, smallest = frame.setting.reference, min(sizes, key=lambda name: (sizes[name], name))
        is_own = reference == frame.setting.profile.reference  # of the contest: no other is taken beside it
        fix = f"--exclude-group {reference}" if is_own else f"--reference {smallest}"
        yield f"{why}: SPD and fairness are not defined ({fix} takes another)"
    if (small := int((~frame.cells).sum())) and why != NO_GROUPS:
        yield (
            f"{small} of {frame.cells.size} pairs of a group and a class have under {MIN_CELL} pictures: EOM and "
            "equal opportunity leave them out, equalized odds counts only their false alarms"
        )


def _sizes(frame: Frame) -> dict[str, int]:
    """Images of each compared group that has any."""
    return {name: int(n) for name, n in zip(frame.names, frame.sizes[frame.compared], strict=True) if n}
