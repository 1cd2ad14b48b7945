"""What a report page shows of robustness: a picture of each kind of change, and their words."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from ..metrics.evaluation import Metric
from .changes import CHANGES

KINDS = {
    "border-black": "Black border, to a frame of",
    "border-white": "White border, to a frame of",
    "border-edge": "Border of the picture's own edge colour, to a frame of",
    "crop": "Centre crop to",
    "short-side": "Short side, px; a larger one holds no new detail",
    "shift": "Shift, by a share of the side",
    "turn": "Turned against the clock, or mirrored and turned",
    "jpeg": "JPEG quality",
    "blur": "Gaussian blur, sigma in px of a short side of 224",
    "noise": "Shot noise, photons at white",
    "exposure": "Exposure, EV",
    "white-balance": "White balance, K: taken under this light, developed for daylight",
    "saturation": "Saturation, times",
}
"""Kind of change -> what stands under its picture."""

_MARKERS = {"o": "\N{WHITE CIRCLE}", "s": "\N{WHITE SQUARE}", "^": "\N{WHITE UP-POINTING TRIANGLE}",
            "D": "\N{WHITE DIAMOND}", "v": "\N{WHITE DOWN-POINTING TRIANGLE}", "x": "\N{MULTIPLICATION SIGN}"}
"""Marker of matplotlib -> the sign for it in text: so many groups are drawn, those with the most images."""

_WEAKER_FIRST = {"exposure": 3, "white-balance": 3, "saturation": 3}
"""Kinds that go both ways: how many strengths stand before the picture as it is."""


def view(part: dict[str, Any], prefix: str, draw: Callable[..., str]) -> dict[str, Any]:
    """What the page needs besides the results.

    Args:
      part: `robustness` of a results file.
      prefix: Of the names of its pictures.
      draw: `figures.strengths`, whose matplotlib only a report has.

    Returns:
      `plots`, one for each kind of change: `svg`, its `text`, and `worst`, the row that costs most; `line`, the dashed
      line of all; `groups`, sign and name of those that are drawn; `not_drawn`, names.
    """
    clean, rows = part["clean"], part["changes"]
    sizes = {group: metric["n"] for group, metric in clean["by_group"].items()}
    by_size = sorted(sizes, key=lambda group: -sizes[group])
    drawn = [group for group in sizes if group in by_size[: len(_MARKERS)]]
    line, limits = clean["accuracy"]["value"], _limits([clean, *rows], drawn)
    plots = []
    for number, kind in enumerate(dict.fromkeys(row["kind"] for row in rows)):
        own = [row for row in rows if row["kind"] == kind]
        at = _WEAKER_FIRST.get(kind, 0)
        points = [*own[:at], {**clean, "strength": "as\N{NO-BREAK SPACE}is"}, *own[at:]]
        ticks = [point["strength"].split(" ")[0] for point in points]  # the text has the unit
        others = [
            (marker, [point["by_group"][group]["value"] for point in points])
            for marker, group in zip(_MARKERS, drawn, strict=False)
        ]
        text = KINDS.get(kind, kind)
        title = f"{text}: accuracy of all images and of groups; robustness.csv has the same numbers"
        whole = [point["accuracy"] for point in points]
        svg = draw(f"{prefix}-robustness-{number}", title, ticks, whole, others, line=line, limits=limits)
        worst = min(own, key=lambda row: (row["accuracy"]["value"] is None, row["accuracy"]["value"]))
        plots.append({"svg": svg, "text": text, "worst": worst})
    return {
        "plots": plots,
        "line": line,
        "groups": list(zip(_MARKERS.values(), drawn, strict=False)),
        "not_drawn": [group for group in sizes if group not in drawn],
    }


def command(result: dict[str, Any]) -> str:
    """What makes such a result, as far as the file tells."""
    data, part = result["data"], result["robustness"]
    flags = ["-m", part["model"], data["name"]]
    flags += ["--label", data["label_column"]] if data["label_column"] != "class" else []
    flags += ["--group", data["group_column"]] if data["group_column"] != "group" else []
    flags += ["--subset", "images.txt"] if data["left_out"] else []
    flags += ["--allow-seen"] if part["seen"] else []
    kinds = dict.fromkeys(row["kind"] for row in part["changes"])
    if len(kinds) < len({change.kind for change in CHANGES}):
        flags += [text for kind in kinds for text in ("--only", kind)]
    return f"edge-bench robustness {shlex.join(map(str, flags))} -o robustness.json"


def _limits(rows: list[dict[str, Any]], groups: list[str]) -> tuple[float, float]:
    """Of one axis for all pictures, so that they can be held against each other."""
    metrics: list[Metric] = [row["accuracy"] for row in rows]
    metrics += [{"value": row["by_group"][group]["value"]} for row in rows for group in groups]
    values = [metric[key] for metric in metrics for key in ("value", "low", "high") if metric.get(key) is not None]
    return max(0.0, min(values, default=0.0) - 0.03), min(1.0, max(values, default=1.0) + 0.03)
