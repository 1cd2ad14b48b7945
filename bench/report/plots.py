"""The pictures of a report as inline SVG, drawn by matplotlib from the parts of a results file.

Each is drawn 360 px wide, so that its letters can be read on a phone, and takes its colours from the page: they are
drawn in stand-in colours, which become CSS variables, so one picture serves light, dark and paper. Text stays text.
Equal input gives equal bytes. `name` is put before a picture's ids, because a page has several.

Nothing is said by colour only: shapes, hatching and words say it too, and each picture has its table.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ..metrics.evaluation import Metric
from ..metrics.fairness import MIN_CELL
from ..results.caveats import HALF_WIDTH
from ..robustness.changes import KINDS

FEW = 10
"""Images under which a bin of the reliability diagram is drawn hollow."""

WIDTH_PX = 360
_INK, MUTED, _LINE, SURFACE, ACCENT, _SECOND = (f"#01010{digit}" for digit in range(1, 7))
_VARIABLES = {
    _INK: "var(--ink)", MUTED: "var(--muted)", _LINE: "var(--line)", SURFACE: "var(--surface)",
    ACCENT: "var(--accent)", _SECOND: "var(--second)",
}
_SETTINGS: Any = {  # matplotlib types its settings by a list of all their names
    "svg.fonttype": "none", "svg.hashsalt": "fairedge", "font.size": 11, "text.parse_math": False,
    "font.family": "DejaVu Sans", "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": _INK, "ytick.labelcolor": _INK,
    "axes.facecolor": "none", "figure.facecolor": "none", "axes.grid": True, "axes.grid.axis": "x",
    "grid.color": _LINE, "grid.linewidth": 0.8, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "hatch.linewidth": 1.2, "legend.frameon": False, "legend.fontsize": 10,
    "axes.unicode_minus": True, "path.simplify": False,
}
_DASHED: Any = {"linestyle": (0, (4, 3)), "linewidth": 1.2}

_WEAKER_FIRST = {"exposure": 3, "white-balance": 3, "saturation": 3}
"""Kinds that go both ways: how many strengths stand before the picture as it is."""

_SIGNS = {"o": "\N{WHITE CIRCLE}", "s": "\N{WHITE SQUARE}", "^": "\N{WHITE UP-POINTING TRIANGLE}",
          "D": "\N{WHITE DIAMOND}", "v": "\N{WHITE DOWN-POINTING TRIANGLE}", "x": "\N{MULTIPLICATION SIGN}"}
"""Marker of matplotlib -> the sign for it in text: so many groups are drawn, those with the most images."""


def is_small(accuracy: Metric) -> bool:
    """Whether a group's accuracy is not known to `HALF_WIDTH`."""
    return accuracy["low"] is None or bool((accuracy["high"] - accuracy["low"]) / 2 > HALF_WIDTH)


def accuracies(name: str, by_group: Mapping[str, dict[str, Any]], whole: Metric) -> str:
    """Accuracy of each group as a bar, hatched where it is not known well; dashed: of all images, `whole`."""
    metrics = {group: own["accuracy"] for group, own in by_group.items()}
    labels = [(group, f"n = {metric['n']}") for group, metric in metrics.items()]
    texts = ["no images" if m["value"] is None else f"{m['value']:.3f}" for m in metrics.values()]
    hatched = [row for row, metric in enumerate(metrics.values()) if is_small(metric)]
    title = "Accuracy of each group with its 95 % interval; the table below has the same numbers"
    return _bars(name, title, labels, list(metrics.values()), texts, hatched=hatched, line=whole["value"])


def found(name: str, kind: Mapping[str, Any]) -> str:
    """One of `words.sensitivities` in each group as a bar, hatched where under `MIN_CELL` images say it."""
    metrics = kind["by_group"]
    labels = [(group, f"n = {metric['n']}") for group, metric in metrics.items()]
    texts = ["no images" if m["value"] is None else f"{m['value']:.3f}" for m in metrics.values()]
    hatched = [row for row, metric in enumerate(metrics.values()) if metric["n"] < MIN_CELL]
    title = f"{kind['name']} in each group with its 95 % interval; the table has the same numbers"
    return _bars(name, title, labels, list(metrics.values()), texts, hatched=hatched, line=kind["whole"]["value"])


def stages(name: str, stages_ms: Mapping[str, dict[str, float]]) -> str:
    """Milliseconds per image of each stage as bars, with their shares."""
    labels = [(stage, f"{100 * row['share']:.0f} %") for stage, row in stages_ms.items()]
    metrics = [{"value": row["per_image"], "low": None} for row in stages_ms.values()]
    texts = [f"{row['per_image']:.2f} ms" for row in stages_ms.values()]
    longest = max((row["per_image"] for row in stages_ms.values()), default=0.0)
    title = "Milliseconds per image of each stage; the table has the same numbers"
    return _bars(name, title, labels, metrics, texts, limit=1.05 * longest or 1.0)


def _bars(
    name: str, title: str, labels: Sequence[tuple[str, str]], metrics: Sequence[Metric], texts: Sequence[str], *,
    hatched: Collection[int] = (), line: float | None = None, limit: float = 1.0,
) -> str:
    """Horizontal bars from 0 with intervals, and a text right of each; `line` is a dashed vertical."""

    def draw(axes: Axes) -> None:
        for y, (metric, text) in enumerate(zip(metrics, texts, strict=True)):
            if (value := metric["value"]) is not None:
                face, hatch = ("none", "////") if y in hatched else (ACCENT, None)
                axes.barh(y, value, height=0.56, facecolor=face, edgecolor=ACCENT, hatch=hatch, linewidth=1.2)
                if metric["low"] is not None:
                    ends = [[max(0.0, value - metric["low"])], [max(0.0, metric["high"] - value)]]
                    axes.errorbar(value, y, xerr=ends, fmt="none", ecolor=_INK, capsize=4, elinewidth=1.8, capthick=1.8)
            axes.text(1.03, y, text, transform=axes.get_yaxis_transform(), va="center")
        if line is not None:
            axes.axvline(line, color=_INK, **_DASHED)
        _label(axes, labels, longest=16)
        axes.set(xlim=(0, limit))

    right = 14 + 7 * max(map(len, texts), default=0)  # a digit of any font at 11 px is at most 7 px wide
    return svg(name, title, 44 * len(labels) + 30, draw, left=116, right=right, top=6, bottom=24)


def fairness(name: str, measured: Metric, null: Mapping[str, dict[str, Any]]) -> str:
    """The measured fairness beside the ranges of perfectly fair models, on the scale 0 to 1."""
    labels = [("this model", "measured, 95 %"), ("perfectly fair", "one accuracy for all"),
              ("fair in each class", "same recalls, own mix")]
    metrics = [measured, null["equal_accuracy"]["fairness"], null["equal_recall"]["fairness"]]

    def draw(axes: Axes) -> None:
        for y, metric in enumerate(metrics):
            if metric["value"] is None:
                axes.text(0.02, y, "not defined", va="center")
                continue
            colour, marker = (_SECOND, "o") if y else (ACCENT, "D")
            if metric["low"] is not None:
                ends = [metric["low"], metric["high"]]
                axes.plot(ends, [y, y], color=colour, linewidth=7, alpha=0.45, solid_capstyle="butt")
            axes.plot(metric["value"], y, marker, color=colour, markersize=8, markeredgecolor=_INK)
        _label(axes, labels, longest=22)
        lows = [metric[key] for metric in metrics for key in ("value", "low") if metric[key] is not None]
        axes.set(xlim=(min([0.0, *lows]) - 0.01, 1.01))

    title = "Measured fairness beside the range that perfectly fair models reach by chance"
    return svg(name, title, 46 * len(labels) + 26, draw, left=142, right=12, top=4, bottom=24)


def reliability(name: str, bins: Mapping[str, Sequence[Any]]) -> str:
    """Accuracy against confidence, bin by bin; bins of under `FEW` images are hollow."""

    def draw(axes: Axes) -> None:
        axes.grid(True, axis="both")
        axes.plot([0, 1], [0, 1], color=MUTED, **_DASHED)
        for n, confidence, accuracy in zip(bins["n"], bins["confidence"], bins["accuracy"], strict=True):
            if n:
                axes.plot([confidence] * 2, [confidence, accuracy], color=ACCENT, linewidth=1.4)
                face = ACCENT if n >= FEW else SURFACE
                axes.plot(confidence, accuracy, "o", markersize=8, markerfacecolor=face, markeredgecolor=ACCENT)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", aspect="equal")
        axes.text(0.96, 0.06, "below the diagonal: too sure", ha="right", color=MUTED, fontsize=10)

    title = "Accuracy against confidence in bins; the table has the same numbers"
    return svg(name, title, 330, draw, left=48, right=12, top=8, bottom=42)


def percentiles(name: str, by_size: Mapping[str, dict[str, float]]) -> str:
    """Median, 90 % and 99 % of milliseconds per image by size of the photo, on a logarithmic axis."""
    markers = {"p50_ms": ("o", "half of the images"), "p90_ms": ("s", "90 %"), "p99_ms": ("^", "99 %")}

    def draw(axes: Axes) -> None:
        for y, row in enumerate(by_size.values()):
            axes.plot([row["p50_ms"], row["p99_ms"]], [y, y], color=ACCENT, linewidth=2, alpha=0.6)
            for key, (marker, text) in markers.items():
                label = None if y else text
                axes.plot(row[key], y, marker, color=ACCENT, markersize=8, markeredgecolor=_INK, label=label)
        log_x(axes)
        _label(axes, [(size, f"{row['images']} images") for size, row in by_size.items()], longest=14)
        axes.set(xlabel="ms per image")
        axes.margins(x=0.08)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.1, 1.0), ncols=3, handletextpad=0.2, columnspacing=1.2)

    title = "Percentiles of milliseconds per image, by size of the photo"
    return svg(name, title, 44 * len(by_size) + 74, draw, left=86, right=14, top=28, bottom=42)


def robustness(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy against the strength of each kind of change, from `robustness` of a results file.

    Returns:
      `plots`, one for each kind: `svg` and its `text`; `line`, the dashed line of all; `groups`, sign and name of those
      that are drawn; `not_drawn`, names.
    """
    clean, rows = part["clean"], part["changes"]
    sizes = {group: metric["n"] for group, metric in clean["by_group"].items()}
    largest = sorted(sizes, key=lambda group: -sizes[group])[: len(_SIGNS)]
    drawn = dict(zip([group for group in sizes if group in largest], _SIGNS, strict=False))
    shown = [row["accuracy"][key] for row in (clean, *rows) for key in ("value", "low", "high")]
    shown += [row["by_group"][group]["value"] for row in (clean, *rows) for group in drawn]
    known = [value for value in shown if value is not None]
    limits = max(0.0, min(known, default=0.0) - 0.03), min(1.0, max(known, default=1.0) + 0.03)
    plots = []
    for number, kind in enumerate(dict.fromkeys(row["kind"] for row in rows)):
        own = [row for row in rows if row["kind"] == kind]
        text, at = KINDS.get(kind, kind), _WEAKER_FIRST.get(kind, 0)
        points = [*own[:at], {**clean, "strength": "as\N{NO-BREAK SPACE}is"}, *own[at:]]
        svg = _strengths(f"{name}-{number}", text, points, drawn, line=clean["accuracy"]["value"], limits=limits)
        plots.append({"svg": svg, "text": text})
    return {
        "plots": plots,
        "line": clean["accuracy"]["value"],
        "groups": [(_SIGNS[marker], group) for group, marker in drawn.items()],
        "not_drawn": [group for group in sizes if group not in drawn],
    }


def _strengths(
    name: str, text: str, points: Sequence[Mapping[str, Any]], drawn: Mapping[str, str], *, line: float | None,
    limits: tuple[float, float],
) -> str:
    """All images with their intervals, and groups, of which `drawn` has the markers, as thinner lines."""
    ticks = [point["strength"].split(" ")[0] for point in points]  # the text has the unit
    places = range(len(ticks))
    is_long = sum(map(len, ticks)) > 44

    def draw(axes: Axes) -> None:
        axes.grid(True, axis="y")
        axes.grid(False, axis="x")
        if line is not None:
            axes.axhline(line, color=_INK, **_DASHED)
        for group, marker in drawn.items():
            values = np.array([point["by_group"][group]["value"] for point in points], float)  # None: NaN, a gap
            style: Any = {"marker": marker, "markersize": 5, "markerfacecolor": SURFACE, "linewidth": 0.9}
            axes.plot(places, values, color=MUTED, **style)
        values = np.array([point["accuracy"]["value"] for point in points], float)
        axes.plot(places, values, color=ACCENT, marker="o", markersize=7, markeredgecolor=_INK, linewidth=2.2)
        for place, point in enumerate(points):
            if (low := point["accuracy"]["low"]) is not None:
                axes.plot([place] * 2, [low, point["accuracy"]["high"]], color=ACCENT, linewidth=1.8, alpha=0.8)
        axes.set(xlim=(-0.4, len(ticks) - 0.6), ylim=limits)
        axes.set_xticks(places, ticks, rotation=35 if is_long else 0, ha="right" if is_long else "center", fontsize=10)

    title = f"{text}: accuracy of all images and of groups; robustness.csv has the same numbers"
    return svg(name, title, 210 if is_long else 180, draw, left=36, right=8, top=8, bottom=54 if is_long else 24)


def log_x(axes: Axes) -> None:
    """A logarithmic axis with plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _label(axes: Axes, labels: Sequence[tuple[str, str]], *, longest: int) -> None:
    """Names the rows at the left, from the top, in two lines each.

    Each line is a text of its own: matplotlib aligns the lines of one text by the widths of its own font.
    """
    axes.set_yticks([])
    axes.set(ylim=(len(labels) - 0.5, -0.5))
    for y, (first, second) in enumerate(labels):
        for text, offset_px, colour, size in ((first, 7, _INK, 11), (second, -7, MUTED, 10)):
            axes.annotate(
                _short(text, longest), (0, y), xycoords=axes.get_yaxis_transform(), xytext=(-8, offset_px),
                textcoords="offset points", ha="right", va="center", color=colour, fontsize=size,
            )


def _short(text: str, longest: int) -> str:
    # XML has no place for control characters, and a name must not break out of its line.
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def svg(
    name: str, title: str, height_px: int, draw: Callable[[Axes], None], *, left: int, right: int, top: int, bottom: int
) -> str:
    """Runs `draw` on axes with these margins in pixels, and returns an <svg> element for a page."""
    file = io.StringIO()
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's font may well have it
        figure = Figure(figsize=(WIDTH_PX / 72, height_px / 72), dpi=72)
        axes = figure.add_axes(
            (left / WIDTH_PX, bottom / height_px, 1 - (left + right) / WIDTH_PX, 1 - (top + bottom) / height_px)
        )
        axes.tick_params(length=0)
        draw(axes)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    used = {name for tag in re.findall(r"<[^>]*>", svg) for name in re.findall(r'(?:url\(#|href="#)([^")]+)', tag)}

    def inlined(tag: re.Match[str]) -> str:
        text = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", tag[0])
        text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
        text = " ".join(text.replace("font-family: 'DejaVu Sans'; ", "").split())
        return re.sub("|".join(_VARIABLES), lambda colour: _VARIABLES[colour[0]], text)

    body = re.sub(r"\s*<[^>]*>", inlined, svg[svg.index(">") + 1 :]).strip()  # tags only: text may say anything
    return (
        f'<svg viewBox="0 0 {WIDTH_PX} {height_px}" role="img" aria-labelledby="{name}-title">'
        f'<title id="{name}-title">{html.escape(title)}</title>{body}'
    )
