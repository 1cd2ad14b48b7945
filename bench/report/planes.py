"""The pictures that hold several results against each other, as points in a plane, with the front of the best."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..metrics.evaluation import Metric
from .plots import ACCENT, MUTED, SURFACE, log_x, svg


def of_results(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The pictures that hold results, by their letters, against each other."""
    scored: dict[str, tuple[Metric, Metric]] = {}
    timed: dict[str, tuple[Metric, Metric]] = {}
    for letter, result in results.items():
        score = result["score"]
        if None in (score["accuracy"]["value"], score["fairness"]["value"]):
            continue
        scored[letter] = score["accuracy"], score["fairness"]
        if score["latency"] is not None:
            timed[letter] = {"value": result["latency"]["seconds_per_100"], "low": None}, score["total_of_two_thirds"]
    planes = []
    if scored:
        planes.append(_plane("fairness", "Accuracy and fairness", scored, "accuracy", "fairness (contest)"))
    if len(timed) > 1:
        title, y_label = "Latency and the sum of the two other thirds", "(accuracy + fairness) / 3"
        planes.append(_plane("latency", title, timed, "seconds per 100 photos", y_label, is_time=True))
    return planes


def _plane(
    name: str, title: str, points: dict[str, tuple[Metric, Metric]], x_label: str, y_label: str, *,
    is_time: bool = False,
) -> dict[str, Any]:
    """A picture with its title and the letters on its front; of time less is better."""
    sign = -1 if is_time else 1
    front = _front({letter: (sign * x["value"], y["value"]) for letter, (x, y) in points.items()})
    drawn = _draw(f"plane-{name}", title, points, front, x_label=x_label, y_label=y_label, is_time=is_time)
    return {"title": title, "svg": drawn, "front": [letter for letter in points if letter in front]}


def _front(scores: dict[str, tuple[float, ...]]) -> set[str]:
    """Those that no other beats: as good in everything and better in something. Larger is better."""

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    return {name for name, own in scores.items() if not any(beats(other, own) for other in scores.values())}


def _draw(
    name: str, title: str, points: Mapping[str, tuple[Metric, Metric]], front: Collection[str], *, x_label: str,
    y_label: str, is_time: bool,
) -> str:
    """Results, letter -> its two metrics, with their intervals; those of the front are filled, the others hollow."""

    def draw(axes: Axes) -> None:
        axes.grid(True, axis="both")
        if is_time:
            log_x(axes)
        for letter, (across, up) in points.items():
            line: Any = {"color": ACCENT if letter in front else MUTED, "linewidth": 1.4, "alpha": 0.6}
            if across["low"] is not None:
                axes.plot([across["low"], across["high"]], [up["value"]] * 2, **line)
            if up["low"] is not None:
                axes.plot([across["value"]] * 2, [up["low"], up["high"]], **line)
        at = np.array([(across["value"], up["value"]) for across, up in points.values()])
        axes.update_datalim(at)
        axes.margins(0.12)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.autoscale_view()
        places = axes.transData.transform(at)
        for i, (letter, offset) in enumerate(zip(points, _label_offsets(places), strict=True)):
            under = int((np.hypot(*(places[:i] - places[i]).T) < 10).sum())  # smaller, so that those stay visible
            face, edge = (ACCENT, SURFACE if under else ACCENT) if letter in front else (SURFACE, MUTED)
            size = max(11 - 4 * under, 3)
            axes.plot(*at[i], "o", markersize=size, markerfacecolor=face, markeredgecolor=edge, zorder=4)
            bold: Any = {"fontweight": "bold", "ha": "center", "va": "center", "zorder": 9}
            axes.annotate(letter, at[i], xytext=offset, textcoords="offset points", **bold)

    return svg(name, title, 300, draw, left=58, right=16, top=10, bottom=44)


def _label_offsets(places: np.ndarray) -> list[tuple[float, float]]:
    """Where the label of each point (N, 2) in pixels goes: the place around it that is farthest from all others."""
    taken = [*places]
    offsets = []
    for i, place in enumerate(places):
        angles = np.deg2rad([45, 135, 225, 315, 90, 270, 0, 180])
        around = [(15 * float(np.cos(angle)), 15 * float(np.sin(angle))) for angle in angles]
        others = np.array([other for k, other in enumerate(taken) if k != i]).reshape(-1, 2)
        room = [np.hypot(*(others - place - offset).T).min(initial=40.0) for offset in around]
        offsets.append(around[int(np.argmax(np.minimum(room, 40.0)))])
        taken.append(place + offsets[-1])
    return offsets
