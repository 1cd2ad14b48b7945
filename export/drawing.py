"""A network as a picture: its stages from image to answer, and where the arithmetic and the weights are.

One SVG without scripts, fonts or links of its own. Each layer with weights is a bar as long as it has channels, stages
are the layers of one resolution, and beside each stage stand its shares. What colour says, words say as well.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

_WIDTH = 760
_MARGIN = 24
_MIDDLE = 270
"""x of the middle of the layers' bars."""
_LONGEST = 250
"""Of a layer's bar."""
_SHARE_X = (430, 595)
"""Where the bars of the multiply-adds and of the parameters begin."""
_SHARE_LENGTH = 140
_TOP = 112
_STAGE_GAP = 14
_LEAST_STAGE = 54
_LAYER = 7.0
_MOST_LAYERS = 120
"""Beyond, layers are drawn thinner, so that no network makes a picture longer than can be looked at."""

_STYLE = """
text { font: 13px system-ui, "DejaVu Sans", sans-serif; fill: #1c2530 }
.title { font-size: 17px; font-weight: 600 } .muted { fill: #5a6673; font-size: 12px }
.page { fill: #ffffff; stroke: #d5dbe1 } .stage { fill: #eef2f5 } .dense { fill: #2f6f9f } .depthwise { fill: #9cc3de }
.track { fill: #dde4ea } .share { fill: #c26a1b } .int8 { fill: #2c8a57 } .int8.depthwise { fill: #9ad3b4 }
@media (prefers-color-scheme: dark) {
text { fill: #e6ebf0 } .muted { fill: #9fabb7 } .page { fill: #14191f; stroke: #333d47 } .stage { fill: #1f272f }
.track { fill: #2d3843 } .dense { fill: #5aa0d3 } .depthwise { fill: #34566e } .share { fill: #e08a3c }
.int8 { fill: #45b57a } .int8.depthwise { fill: #2a5f44 } }
"""


def draw(info: dict[str, Any]) -> str:
    """Draws a model file.

    Args:
      info: As `info.read` gives it.

    Returns:
      An SVG document: equal input, equal text.
    """
    stages, totals = info["stages"], info["totals"]
    num_layers = sum(len(stage["layers"]) for stage in stages)
    pitch = _LAYER * min(1.0, _MOST_LAYERS / max(num_layers, 1))
    widest = max((layer["channels"] or 1 for stage in stages for layer in stage["layers"]), default=1)
    parts: list[str] = []
    y = float(_TOP)
    for stage in stages:
        height = max(_LEAST_STAGE, pitch * len(stage["layers"]) + 10)
        parts += _stage(stage, totals, y=y, height=height, pitch=pitch, widest=widest)
        y += height + _STAGE_GAP
    if not stages:
        parts.append(_text(_MARGIN, y + 14, "no layer with weights", "muted"))
        y += 30
    height = y + 58
    title = _title(info)
    summary = (
        f"{info['precision']}, {_short(totals['macs'])} multiply-adds, {_short(totals['parameters'])} parameters, "
        f"{info['bytes'] / 1e6:.2f} MB, {totals['layers']} layers with weights"
    )
    inputs = ", ".join(f"{value['name']} {'x'.join(map(str, value['shape']))}" for value in info["inputs"])
    outputs = ", ".join(f"{value['name']} {'x'.join(map(str, value['shape']))}" for value in info["outputs"])
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'height="{height:.0f}" role="img">',
        f"<title>{_escaped(title)}</title>",
        f"<desc>{_escaped(summary)}</desc>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1:.0f}" rx="8"/>',
        _text(_MARGIN, 36, _shortened(title, 78), "title"),
        _text(_MARGIN, 58, summary, "muted"),
        _text(_MARGIN, _TOP - 12, "output", "muted"),
        _text(_MIDDLE, _TOP - 12, f"layers, as long as their channels (at most {widest:,})", "muted", "middle"),
        _text(_SHARE_X[0], _TOP - 12, "multiply-adds", "muted"),
        _text(_SHARE_X[1], _TOP - 12, "parameters", "muted"),
        *parts,
        *_legend(info, y + 4),
        _text(_MARGIN, y + 38, _shortened(f"from {inputs} to {outputs}", 110), "muted"),
        "</svg>\n",
    ])


def _stage(
    stage: dict[str, Any], totals: dict[str, Any], *, y: float, height: float, pitch: float, widest: int
) -> Iterator[str]:
    yield (
        f'<rect class="stage" x="{_MARGIN - 8}" y="{y:.1f}" width="{_WIDTH - 2 * _MARGIN + 16}" '
        f'height="{height:.1f}" rx="6"/>'
    )
    middle = y + height / 2
    size = "size unknown" if stage["size"] is None else " × ".join("?" if n is None else str(n) for n in stage["size"])
    count = len(stage["layers"])
    num_int8 = sum(layer["int8"] for layer in stage["layers"])
    channels = "?" if stage["channels"] is None else f"{stage['channels']:,}"
    line = middle - (10 if num_int8 else 3)
    yield _text(_MARGIN, line, size)
    yield _text(_MARGIN, line + 16, f"{channels} ch, {count} layer{'s' if count > 1 else ''}", "muted")
    if num_int8:
        yield _text(_MARGIN, line + 31, "int8" if num_int8 == count else f"{num_int8} of them int8", "muted")
    top = middle - pitch * count / 2
    for index, layer in enumerate(stage["layers"]):
        length = max(2.0, _LONGEST * (layer["channels"] or 1) / widest)
        kind = ("int8 " if layer["int8"] else "") + ("depthwise" if layer["is_depthwise"] else "dense")
        yield (
            f'<rect class="{kind}" x="{_MIDDLE - length / 2:.1f}" y="{top + pitch * index + 0.1 * pitch:.1f}" '
            f'width="{length:.1f}" height="{0.8 * pitch:.1f}" rx="1"/>'
        )
    for x, key in zip(_SHARE_X, ("macs", "parameters"), strict=True):
        share = stage[key] / totals[key] if stage[key] is not None and totals[key] else 0.0
        percent = "" if stage[key] is None or not totals[key] else f" ({_percent(share)})"
        yield _text(x, middle - 4, _short(stage[key]) + percent)
        yield f'<rect class="track" x="{x}" y="{middle + 4:.1f}" width="{_SHARE_LENGTH}" height="8" rx="2"/>'
        yield (
            f'<rect class="share" x="{x}" y="{middle + 4:.1f}" width="{share * _SHARE_LENGTH:.1f}" height="8" rx="2"/>'
        )


def _legend(info: dict[str, Any], y: float) -> Iterator[str]:
    """Names the kinds of layers that occur."""
    layers = [layer for stage in info["stages"] for layer in stage["layers"]]
    kinds = dict.fromkeys((layer["int8"], layer["is_depthwise"]) for layer in layers)
    x = float(_MARGIN)
    for is_int8, is_depthwise in sorted(kinds):
        kind = ("int8 " if is_int8 else "") + ("depthwise" if is_depthwise else "dense")
        words = ("depthwise" if is_depthwise else "dense") + (", int8" if is_int8 else ", float")
        yield f'<rect class="{kind}" x="{x:.0f}" y="{y + 3:.1f}" width="18" height="8" rx="1"/>'
        yield _text(x + 24, y + 11, words, "muted")
        x += 140


def _title(info: dict[str, Any]) -> str:
    """The network's name where the file tells it, else the file's."""
    model = info["metadata"].get("model")
    variant = model.get("variant") if isinstance(model, dict) else None
    return f"{variant} ({info['file']})" if isinstance(variant, str) else str(info["file"])


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    of_anchor = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.0f}" y="{y:.1f}"{of_kind}{of_anchor}>{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    """Text for XML, without what XML cannot hold even escaped."""
    return html.escape(re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text))


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _short(value: int | None) -> str:
    """Three digits and a unit: 89.5 M."""
    if value is None:
        return "?"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.{(value < 10 * size) + (value < 100 * size)}f} {unit}"
    return str(value)


def _percent(share: float) -> str:
    return "<1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
