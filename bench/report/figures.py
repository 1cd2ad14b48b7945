"""The pictures of a report as inline SVG, drawn by matplotlib.

Each is drawn 360 px wide, so that its letters can be read on a phone, and takes its colours from the page: they are
drawn in stand-in colours, which become CSS variables, so one picture serves light, dark and paper. Text stays text.
Equal input gives equal bytes.

What is only told by colour does not exist here: shapes, hatching and words say it too, and each picture has its table.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

Metric = dict[str, Any]
"""{value, low, high, n} as in a results file."""

WIDTH_PX = 360
_INK, _MUTED, _LINE, _SURFACE, _ACCENT, _SECOND = (f"#01010{digit}" for digit in range(1, 7))
_VARIABLES = {
    _INK: "var(--ink)", _MUTED: "var(--muted)", _LINE: "var(--line)", _SURFACE: "var(--surface)",
    _ACCENT: "var(--accent)", _SECOND: "var(--second)",
}
_SETTINGS: Any = {  # matplotlib types its settings by a list of all their names
    "svg.fonttype": "none", "svg.hashsalt": "fairedge", "font.size": 11, "text.parse_math": False,
    "font.family": "DejaVu Sans", "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _MUTED,
    "xtick.color": _MUTED, "ytick.color": _MUTED, "xtick.labelcolor": _INK, "ytick.labelcolor": _INK,
    "axes.facecolor": "none", "figure.facecolor": "none", "axes.grid": True, "axes.grid.axis": "x",
    "grid.color": _LINE, "grid.linewidth": 0.8, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "hatch.linewidth": 1.2, "legend.frameon": False, "legend.fontsize": 10,
    "axes.unicode_minus": True, "path.simplify": False,
}


@dataclass(frozen=True)
class Bar:
    """One bar of `bars`."""

    label: str
    note: str
    """Second line under the label, e.g. the number of images."""
    metric: Metric
    text: str
    """At the right of the bar: the value in words."""
    is_hatched: bool = False
    """Known badly: drawn as an outline with stripes."""


@dataclass(frozen=True)
class Point:
    """One result in a plane of two scores."""

    letter: str
    x: Metric
    y: Metric
    is_front: bool
    """No other result is at least as good in everything and better in something."""


def bars(name: str, title: str, rows: Sequence[Bar], *, line: float | None = None, unit_interval: bool = True) -> str:
    """Horizontal bars from 0 with intervals; `line` is a dashed vertical, e.g. the value of all images together."""

    def draw(axes: Axes) -> None:
        longest = max([row.metric["value"] or 0 for row in rows] + [0])
        limit = 1.0 if unit_interval else 1.05 * longest or 1.0
        for y, row in enumerate(rows):
            value = row.metric["value"]
            if value is not None:
                face = "none" if row.is_hatched else _ACCENT
                hatch = "////" if row.is_hatched else None
                axes.barh(y, value, height=0.56, facecolor=face, edgecolor=_ACCENT, hatch=hatch, linewidth=1.2)
                _errorbar(axes, row.metric, y)
            axes.text(1.03, y, row.text, transform=axes.get_yaxis_transform(), va="center")
        if line is not None:
            axes.axvline(line, color=_INK, linestyle=(0, (4, 3)), linewidth=1.2)
        _label(axes, [(row.label, row.note) for row in rows], longest=16)
        axes.set(xlim=(0, limit), ylim=(len(rows) - 0.5, -0.5))

    return _svg(name, title, 44 * len(rows) + 30, draw, left=116, right=62, top=6, bottom=24)


def ranges(name: str, title: str, rows: Sequence[tuple[str, str, Metric, bool]]) -> str:
    """Intervals one below the other on the scale 0 to 1: (label, second line, metric, whether it was measured)."""

    def draw(axes: Axes) -> None:
        for y, (_, _, metric, is_measured) in enumerate(rows):
            if metric["value"] is None:
                axes.text(0.02, y, "not defined", va="center")
                continue
            colour, marker = (_ACCENT, "D") if is_measured else (_SECOND, "o")
            if metric["low"] is not None:
                axes.plot([metric["low"], metric["high"]], [y, y], color=colour, linewidth=7, alpha=0.45,
                          solid_capstyle="butt")
            axes.plot(metric["value"], y, marker, color=colour, markersize=8, markeredgecolor=_INK)
        _label(axes, [(first, second) for first, second, *_ in rows], longest=22)
        lows = [metric[key] for _, _, metric, _ in rows for key in ("value", "low") if metric[key] is not None]
        axes.set(xlim=(min([0.0, *lows]) - 0.01, 1.01), ylim=(len(rows) - 0.5, -0.5))

    return _svg(name, title, 46 * len(rows) + 26, draw, left=142, right=12, top=4, bottom=24)


def reliability(name: str, title: str, bins: dict[str, list[Any]], *, fewest: int) -> str:
    """Accuracy against confidence, bin by bin; bins of under `fewest` images are hollow."""

    def draw(axes: Axes) -> None:
        axes.grid(True, axis="both")
        axes.plot([0, 1], [0, 1], color=_MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
        points = [point for point in zip(bins["n"], bins["confidence"], bins["accuracy"], strict=True) if point[0]]
        for n, confidence, accuracy in points:
            axes.plot([confidence] * 2, [confidence, accuracy], color=_ACCENT, linewidth=1.4)
            face = _ACCENT if n >= fewest else _SURFACE
            axes.plot(confidence, accuracy, "o", markersize=8, markerfacecolor=face, markeredgecolor=_ACCENT)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", aspect="equal")
        axes.text(0.96, 0.06, "below the diagonal: too sure", ha="right", color=_MUTED, fontsize=10)

    return _svg(name, title, 330, draw, left=48, right=12, top=8, bottom=42)


def percentiles(name: str, title: str, rows: Sequence[tuple[str, int, dict[str, float]]]) -> str:
    """Median, 90 % and 99 % of milliseconds per image by size, (size, images, percentiles), on a logarithmic axis."""

    def draw(axes: Axes) -> None:
        markers = {"p50_ms": ("o", "half of the images"), "p90_ms": ("s", "90 %"), "p99_ms": ("^", "99 %")}
        for y, (_, _, row) in enumerate(rows):
            axes.plot([row["p50_ms"], row["p99_ms"]], [y, y], color=_ACCENT, linewidth=2, alpha=0.6)
            for key, (marker, text) in markers.items():
                axes.plot(row[key], y, marker, color=_ACCENT, markersize=8, markeredgecolor=_INK,
                          label=None if y else text)
        _log_x(axes)
        _label(axes, [(size, f"{n} images") for size, n, _ in rows], longest=14)
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="ms per image")
        axes.margins(x=0.08)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.1, 1.0), ncols=3, handletextpad=0.2, columnspacing=1.2)

    return _svg(name, title, 44 * len(rows) + 74, draw, left=86, right=14, top=28, bottom=42)


def plane(name: str, title: str, points: Sequence[Point], *, x_label: str, y_label: str, log_x: bool = False) -> str:
    """Results in a plane with their intervals; those of the front are filled, the others hollow."""

    def draw(axes: Axes) -> None:
        axes.grid(True, axis="both")
        if log_x:
            _log_x(axes)
        for point in points:
            x, y = point.x["value"], point.y["value"]
            colour = _ACCENT if point.is_front else _MUTED
            for metric, at, is_x in ((point.x, y, True), (point.y, x, False)):
                if metric["low"] is not None:
                    ends = [metric["low"], metric["high"]]
                    axes.plot(*((ends, [at] * 2) if is_x else ([at] * 2, ends)), color=colour, linewidth=1.4, alpha=0.6)
            face = _ACCENT if point.is_front else _SURFACE
            axes.plot(x, y, "o", markersize=10, markerfacecolor=face, markeredgecolor=colour, markeredgewidth=1.6)
            axes.annotate(point.letter, (x, y), xytext=(7, 7), textcoords="offset points", fontweight="bold")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.margins(0.12)

    return _svg(name, title, 300, draw, left=58, right=16, top=10, bottom=44)


def strengths(
    name: str, title: str, ticks: Sequence[str], whole: Sequence[Metric],
    others: Sequence[tuple[str, Sequence[float | None]]], *, line: float | None, limits: tuple[float, float],
) -> str:
    """Accuracy against the strength of a change: all images with their intervals, and groups as thinner lines.

    Args:
      name: As for the other pictures.
      title: As for the other pictures.
      ticks: Strengths, in words.
      whole: Of all images, one for each strength.
      others: Marker of matplotlib, and a value for each strength, of each group.
      line: A dashed horizontal: the value without a change.
      limits: Of the axis of values.
    """
    is_long = sum(map(len, ticks)) > 44

    def draw(axes: Axes) -> None:
        places = list(range(len(ticks)))
        axes.grid(True, axis="y")
        axes.grid(False, axis="x")
        if line is not None:
            axes.axhline(line, color=_INK, linestyle=(0, (4, 3)), linewidth=1.2)
        for marker, values in others:
            style: Any = {"marker": marker, "markersize": 5, "markerfacecolor": _SURFACE, "linewidth": 0.9}
            axes.plot(places, _or_nan(values), color=_MUTED, **style)
        values = [metric["value"] for metric in whole]
        axes.plot(places, _or_nan(values), color=_ACCENT, marker="o", markersize=7, markeredgecolor=_INK, linewidth=2.2)
        for place, metric in zip(places, whole, strict=True):
            if metric["low"] is not None:
                axes.plot([place] * 2, [metric["low"], metric["high"]], color=_ACCENT, linewidth=1.8, alpha=0.8)
        axes.set(xlim=(-0.4, len(ticks) - 0.6), ylim=limits)
        axes.set_xticks(places, ticks, rotation=35 if is_long else 0, ha="right" if is_long else "center", fontsize=10)

    return _svg(name, title, 210 if is_long else 180, draw, left=36, right=8, top=8, bottom=54 if is_long else 24)


def _or_nan(values: Sequence[float | None]) -> list[float]:
    """What is not defined leaves a gap."""
    return [math.nan if value is None else value for value in values]


def _log_x(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _errorbar(axes: Axes, metric: Metric, y: float) -> None:
    if metric["low"] is not None:
        value = metric["value"]
        ends = [[max(0.0, value - metric["low"])], [max(0.0, metric["high"] - value)]]
        axes.errorbar(value, y, xerr=ends, fmt="none", ecolor=_INK, capsize=4, elinewidth=1.8, capthick=1.8)


def _label(axes: Axes, labels: Sequence[tuple[str, str]], *, longest: int) -> None:
    """Names the rows at the left, in two lines each.

    Each line is a text of its own: matplotlib aligns the lines of one text by the widths of its own font.
    """
    axes.set_yticks([])
    for y, lines in enumerate(labels):
        for text, offset_px, colour in zip(lines, (7, -7) if lines[1] else (0, 0), (_INK, _MUTED), strict=True):
            axes.annotate(
                _short(text, longest), (0, y), xycoords=axes.get_yaxis_transform(), xytext=(-8, offset_px),
                textcoords="offset points", ha="right", va="center", color=colour,
                fontsize=11 if colour == _INK else 10,
            )


def _short(text: str, longest: int) -> str:
    # XML has no place for control characters, and a name must not break out of its line.
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _svg(
    name: str, title: str, height_px: int, draw: Callable[[Axes], None], *, left: int, right: int, top: int, bottom: int
) -> str:
    """Runs `draw` on axes with these margins in pixels, and returns an <svg> element for a page.

    `name` is put before the ids, because a page has several pictures.
    """
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

    body = re.sub(r"\s*<[^>]*>", inlined, svg[svg.index(">") + 1 :]).strip()  # tags alone: text may say anything
    return (
        f'<svg viewBox="0 0 {WIDTH_PX} {height_px}" role="img" aria-labelledby="{name}-title">'
        f'<title id="{name}-title">{html.escape(title)}</title>{body}'
    )
