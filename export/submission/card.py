"""MODEL_CARD.md for a model that has none: what the file says of itself, and what it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from edge.classifier import Classifier


def write_card(classifier: Classifier) -> str:
    """A card from a model's metadata."""
    return "\n".join([*_lines(classifier), ""])


def _lines(classifier: Classifier) -> Iterator[str]:
    metadata = classifier.metadata
    said = {name: _json(metadata.get(name)) for name in ("model", "training", "profile", "metrics")}
    yield "# Model card\n"
    yield "Written from what the model file says of itself. **It is no medical device.**\n"
    yield "| | |\n| --- | --- |"
    yield f"| Classes, in the order of the logits | {', '.join(classifier.classes)} |"
    yield f"| Preprocessing | `{metadata['preprocess']}` |"
    for name in ("model", "training", "profile"):
        for key, value in said[name].items():
            yield f"| {name}: {key} | {_cell(value)} |"
    yield f"| Temperature | {classifier.temperature} |"
    yield f"| Licence of the weights | {metadata.get('license', 'not stated')} |\n"
    yield "## Held-out figures\n"
    rows = list(_figures(said["metrics"]))
    if not rows:
        yield "The file states none."
        return
    if "quantization" in metadata:
        yield "Of the float model that this int8 form was made from; `edge-export verify` compares the two.\n"
    yield "| | value | 95 % interval | images |\n| --- | --- | --- | --- |"
    yield from rows


def _figures(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A row of the table for every {value, low, high, n}, at any depth."""
    for name, value in values.items():
        if not isinstance(value, dict):
            continue
        if "value" in value:
            low, high = _number(value.get("low")), _number(value.get("high"))
            ends = "-" if "-" in (low, high) else f"{low} to {high}"
            yield f"| {_cell(prefix + name)} | {_number(value['value'])} | {ends} | {_cell(value.get('n', '-'))} |"
        else:
            yield from _figures(value, f"{prefix}{name} ")


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float | int) else "-"


def _json(text: str | None) -> dict[str, Any]:
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}  # optional, and anybody's text
    return values if isinstance(values, dict) else {}


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")
