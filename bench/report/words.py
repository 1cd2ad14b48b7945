"""The words of a report: numbers, what names stand for, and what is said of a model and of its sensitivity."""

from __future__ import annotations

import html
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

from edge.table import spelled_out

from ..dataset import MELANOMA, NOT_STATED, plain_name
from ..metrics.evaluation import Metric
from ..metrics.fairness import MIN_CELL

_CLASSES = {
    "mel": "melanoma", "bcc": "basal cell carcinoma", "scc": "squamous cell carcinoma", "nv": "naevus (mole)",
    "nev": "naevus (mole)", "bkl": "benign keratosis", "sek": "seborrhoeic keratosis", "ack": "actinic keratosis",
    "ak": "actinic keratosis", "akiec": "actinic keratosis, Bowen's disease", "df": "dermatofibroma",
    "vasc": "vascular lesion",
}
"""Abbreviations of other data sets than the contest's, by `plain_name`."""
_RESIZES = {
    "crop": "the central square of a photo", "letterbox": "the whole photo, with borders",
    "stretch": "the whole photo, stretched to a square",
}


def number(value: float | None, digits: int = 3) -> str:
    """Three decimals; an en dash for what is not defined."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def whole(value: float) -> str:
    """A count or a rounded number, in groups of three digits."""
    return f"{value:,.0f}"


def span(metric: Metric) -> str:
    """low to high, breakable only behind the "to"; empty where there is no interval."""
    return "" if metric["low"] is None else f"{number(metric['low'])}\N{NO-BREAK SPACE}to {number(metric['high'])}"


def markdown_cell(text: object) -> str:
    """A name that cannot become markup, or leave its cell."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+!|~$" else c for c in html.escape(plain, quote=False))


def letters(num_results: int) -> list[str]:
    """A, B, ... Z, A1, B1, ..."""
    return [f"{string.ascii_uppercase[i % 26]}{i // 26 or ''}" for i in range(num_results)]


def title(results: Iterable[dict[str, Any]]) -> str:
    """What was scored, on what."""
    found = list(results)
    data = " and ".join(dict.fromkeys(str(result["data"]["name"]) for result in found))
    if len(found) > 1:
        return f"{len(found)} results on {data}"
    return f"{model_name(found[0]) or 'Accuracy and fairness'} on {data}"


def model_name(result: dict[str, Any]) -> str:
    """Name of the model's file without its suffix; "" where the result does not say it."""
    return str((result["predictions"].get("model") or {}).get("file", "")).removesuffix(".onnx")


def facts(result: dict[str, Any]) -> dict[str, str]:
    """What is asked of a model first, each under its term, as far as the result says it."""
    predictions = result["predictions"]
    about = predictions.get("model") or {}
    network, training = about.get("model") or {}, about.get("training") or {}
    size = [
        network.get("variant", ""),
        f"{whole(about['bytes'] / 1000)} kB" if "bytes" in about else "",
        f"{whole(network['parameters'])} parameters" if "parameters" in network else "",
        f"{whole(network['macs'] / 1e6)} million multiply-adds" if "macs" in network else "",
    ]
    taught = [
        training.get("data", ""),
        f"recipe {training['recipe']}" if "recipe" in training else "",
        f"fold {training['hold_out']} held out" if "hold_out" in training else "",
        f"from {training['weights']}" if "weights" in training else "",
        f"commit {str(training['commit'])[:7]}" if "commit" in training else "",
        "LEAKY: it saw held-out images" if training.get("leaky") else "",
    ]
    side, resize = (str((predictions.get("preprocess") or {}).get(key, "")) for key in ("size_px", "resize"))
    unnamed = f"SHA-256 {str(sha256)[:12]}…, " if (sha256 := predictions.get("model_sha256")) else ""
    found = {
        "Model": str(about.get("file", f"{unnamed}not described in the predictions file")),
        "Model card": str(about.get("card", "none beside the model file" if about else "")),
        "Network": _joined(size),
        "Input": f"{side} × {side} pixels, {_RESIZES.get(resize, resize)}" if side else "",
        "Trained on": _joined(taught),
        "Licence": str(about.get("license", "")),
    }
    return {term: text for term, text in found.items() if text}


def class_meaning(name: str, classes: Sequence[str]) -> str:
    """What an abbreviated class, one of `classes`, stands for; "" where it is not known."""
    spelled = spelled_out(classes).get(name, name)
    return spelled if spelled != name else _CLASSES.get(plain_name(name), "")


def groups_meaning(groups: Iterable[str]) -> str:
    """What groups with known names stand for, and which end is dark; "" where they are not known."""
    names = [name for name in groups if name != NOT_STATED]
    angles = sorted((name for name in names if re.fullmatch(r"ita_q\d+", name)), key=lambda name: int(name[5:]))
    if angles:
        quantiles = {3: "thirds", 4: "quarters", 5: "fifths"}.get(len(angles), "quantiles")
        return (
            f"{angles[0]} to {angles[-1]}: {quantiles} of the data set's photos by an angle of the skin's colour (ITA) "
            f"that is estimated from the pixels. {angles[0]} has the smallest angles, the darkest skin; {angles[-1]} "
            "the largest, the lightest. They are not skin types."
        )
    if any(re.fullmatch(r"(I{1,3}|IV|VI?)([-–](I{1,3}|IV|VI?))?", name) for name in names):
        return "Fitzpatrick skin types, judged from a photo: I is the lightest skin, VI the darkest."
    if any(re.fullmatch(r"G\d+", name) for name in names):
        return "The contest's own groups of skin tone; it does not say which of them is darker."
    return ""


def sensitivities(part: dict[str, Any], result: dict[str, Any]) -> list[dict[str, Any]]:
    """Of melanoma, of all malignant classes as one, and the specificity, as far as the classes are known.

    Args:
      part: Of the result what has `by_group` and `malignant`: the whole, or one of its `groupings`.
      result: The whole.

    Returns:
      `name`, `short` and `text` for people; `whole`, a metric; `by_group`, group -> metric; `lowest`, a group.
    """
    found, malignant = [], part["malignant"]
    melanomas = [name for name in result["classes"] if plain_name(name) in MELANOMA]
    if len(melanomas) == 1 and (malignant is None or malignant["classes"] != melanomas):
        by_group = {group: own["recall"][melanomas[0]] for group, own in part["by_group"].items()}
        text = f"share of the melanomas ({melanomas[0]}) that were answered {melanomas[0]}"
        recall = result["by_class"][melanomas[0]]["recall"]
        found.append(_kind("Melanoma sensitivity", "Melanomas found", text, recall, by_group))
    if malignant is not None:
        meanings = {name: class_meaning(name, result["classes"]) for name in malignant["classes"]}
        counted = "; ".join(f"{name}, {meaning}" if meaning else name for name, meaning in meanings.items())
        text = f"share of the malignant images ({counted}) that were answered with one of these classes"
        spared = "share of the other images that were answered with another"
        kinds = (
            ("sensitivity", "Malignant sensitivity", "Malignant found", text),
            ("specificity", "Specificity", "Others spared", spared),
        )
        for key, name, short, text in kinds:
            by_group = {group: own[key] for group, own in malignant["by_group"].items()}
            found.append(_kind(name, short, text, malignant[key], by_group))
    return found


def _kind(name: str, short: str, text: str, whole: Metric, by_group: dict[str, Metric]) -> dict[str, Any]:
    known = {group: metric for group, metric in by_group.items() if metric["n"] >= MIN_CELL and group != NOT_STATED}
    lowest = min(known, key=lambda group: known[group]["value"] or 0) if len(known) > 1 else None
    return {"name": name, "short": short, "text": text, "whole": whole, "by_group": by_group, "lowest": lowest}


def _joined(parts: Iterable[object]) -> str:
    return ", ".join(str(part) for part in parts if part not in ("", None))


def why_undefined(name: str, part: dict[str, Any]) -> str:
    """Why a parity metric has no value, or no interval; "" where it has both.

    Args:
      name: Of the metric.
      part: Of a results file what has `fairness` and `by_group`: the whole, or one of its `groupings`.
    """
    parity = part["fairness"]
    metric = parity[name]
    sizes = [part["by_group"][group]["accuracy"]["n"] for group in parity["compared_groups"]]
    if metric["value"] is not None:
        return "no interval: a compared group has under 10 images" if metric["low"] is None else ""
    if sum(n > 0 for n in sizes) < 2:
        return "fewer than two groups with images"
    if name in ("spd_accuracy", "spd_selection"):
        return f"the reference group {parity['reference_group']} has no scored image"
    if name == "pqd":
        return "no group has a right answer"
    if name in ("dpm", "di_selection"):
        return "no class is predicted in two groups"
    return f"no class has {parity['min_cell']} images in each of two groups"
