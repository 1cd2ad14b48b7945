"""Results files -> one self-contained page, a summary in Markdown, and tables.

    DIR/index.html        for people: inline SVG and CSS, no script, nothing from a network
    DIR/summary.md        to be pasted
    DIR/metrics.csv ...   every number of the page, unrounded, one per row

Only this needs matplotlib and jinja2 (extra `report`): a Pi writes the JSON, a workstation the page. Whatever the page
says follows from the results files, so equal input gives equal bytes.
"""

from __future__ import annotations

import html
import math
import shlex
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from edge import __version__
from edge.errors import EdgeError
from edge.outputs import write_output

from . import compare, figures, published, sheets
from .results import HALF_WIDTH

FILES = ("index.html", "summary.md", *sheets.SHEETS, "published.csv")
"""Everything a report may consist of."""

FEW = 10
"""Images under which a bin of the reliability diagram is drawn hollow."""

METRICS = {
    "worst_group": ("Worst group", "1", "accuracy of the group served worst; cannot rise by making others worse"),
    "spd_accuracy": ("SPD (contest)", "0", "mean distance of the groups' accuracies from the reference group's"),
    "gap": ("Gap", "0", "accuracy of the best group minus that of the worst"),
    "gap_mix_adjusted": ("Gap at equal mix", "0", "the gap if every group had the same mix of classes"),
    "gap_from_mix": ("Gap from mix", "", "gap minus gap at equal mix: what the data add, not the model"),
    "u_l1": ("U (L1)", "0", "sum of the distances of the groups' accuracies from the overall one (FaHaNa)"),
    "pqd": ("PQD", "1", "worst group accuracy divided by the best (FairDisCo, HeViFa)"),
    "di_accuracy": ("Disparate impact, accuracy", "1", "the same number as PQD under BiaslessNAS's name"),
    "dpm": ("DPM", "1", "how evenly each class is predicted across groups; also moved by true differences of mix"),
    "di_selection": ("Disparate impact, selection", "1", "lowest such ratio of any class; under .8 is called suspect"),
    "spd_selection": ("SPD (literature)", "0", "largest difference of a class's prediction rate from the reference"),
    "spd_selection_mean": ("SPD (literature), mean", "0", "the mean of those differences"),
    "eom": ("EOM", "1", "recall of the worst group over that of the best, mean over classes"),
    "eom_all_cells": ("EOM, all cells", "1", "the same with cells of a few images, which make it noise"),
    "equal_opportunity": ("Equal opportunity", "0", "largest difference of recall between groups in any class"),
    "equalized_odds": ("Equalised odds", "0", "the same over recall and false alarms"),
}
"""Parity metric -> its name for people, its fair value, and what it says in one line."""


class ReportError(EdgeError):
    """A results file that no report can be made of."""


def load(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Name of a result -> the result; a name is a file's, with its folder where two are alike.

    Raises:
      CompareError: no results file of `edge-bench score`.
      ReportError: the same file twice, or a file that is not whole.
    """
    results: dict[str, dict[str, Any]] = {}
    stems = Counter(path.stem for path in paths)
    for path in paths:
        name = path.stem if stems[path.stem] == 1 else f"{path.parent.name}/{path.stem}"
        if name in results:
            raise ReportError(f"{path}: another results file has its name {name!r} already, expected different names")
        results[name] = compare.load(path)
        try:
            _check(results[name], str(path))
        except RecursionError as error:
            raise ReportError(f"{path}: nested too deeply for a results file") from error
    return results


def write(results: dict[str, dict[str, Any]], out: Path) -> list[str]:
    """Writes the report into `out`, which is made if needed; returns the names of the files written.

    Files of an earlier report that this one does not have are removed.
    """
    try:
        contents = render(results)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, jinja2.UndefinedError) as error:
        # A file edited by hand can lack anything.
        what = f"{type(error).__name__} {error}"
        raise ReportError(f"{', '.join(results)}: not as `edge-bench score` writes it: {what}") from error
    out.mkdir(parents=True, exist_ok=True)
    for name, text in reversed(contents.items()):  # the page last: where it lies, all it speaks of lies beside it
        write_output(out / name, text)
    for name in FILES:
        if name not in contents:
            (out / name).unlink(missing_ok=True)
    return list(contents)


def render(results: dict[str, dict[str, Any]]) -> dict[str, str]:
    """File name -> content."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=lambda name: name is not None and "html" in name,
    )
    environment.filters |= {"num": number, "span": span, "cell": markdown_cell}
    letters = dict(zip(results, _letters(len(results)), strict=True))
    differences = _differences(results)
    context = {
        "version": __version__,
        "results": [_view(letters[name], name, result) for name, result in results.items()],
        "planes": _planes(results, letters) if len(results) > 1 and not differences else [],
        "differences": differences,
        "metrics": METRICS,
        "published": published.rows(),
        "sources": published.SOURCES,
        "half_width": HALF_WIDTH,
        "few": FEW,
    }
    contents = {name: environment.get_template(f"{name}.j2").render(context) for name in ("index.html", "summary.md")}
    return contents | sheets.of_results(results) | {"published.csv": sheets.as_csv(published.rows())}


# From a result to what the page shows


def _view(letter: str, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Everything the templates need to know of one result; prose stays in the templates."""
    parity, by_group, samples = result["fairness"], result["by_group"], result["samples"]
    worst = [g for g, metric in parity["worst_group"]["by_group"].items() if metric["value"] is not None]
    largest = max(result["by_class"], key=lambda c: result["by_class"][c]["recall"]["n"])
    prefix = letter.lower()
    view = {
        "letter": letter,
        "name": name,
        "r": result,
        "worst": min(worst, key=lambda g: parity["worst_group"]["by_group"][g]["value"], default=None),
        "largest_class": largest,
        "is_small": {g: _is_small(metrics["accuracy"]) for g, metrics in by_group.items()},
        "matrices": [("all groups", *_shades(result["confusion_matrix"], result["by_class"], "recall"))]
        + [(g, *_shades(m["confusion_matrix"], m["recall"], None)) for g, m in by_group.items()],
        "undefined": {name: _why_undefined(name, result) for name in METRICS},
        "no_answer": sum(answer is None for answer in samples["prediction"]),
        "board": _board(result),
        "command": _command(result),
        "figures": {},
    }
    pictures: dict[str, str] = view["figures"]
    pictures["groups"] = figures.bars(
        f"{prefix}-groups", "Accuracy of each group with its 95 % interval; the table below has the same numbers",
        [_bar(g, metrics["accuracy"]) for g, metrics in by_group.items()], line=result["accuracy"]["value"],
    )
    if result["null"] is not None:
        null = result["null"]
        pictures["null"] = figures.ranges(
            f"{prefix}-null", "Measured fairness beside the range that perfectly fair models reach by chance",
            [
                ("this model", "measured, 95 %", result["score"]["fairness"], True),
                ("perfectly fair", "one accuracy for all", null["equal_accuracy"]["fairness"], False),
                ("fair in each class", "same recalls, own mix", null["equal_recall"]["fairness"], False),
            ],
        )
    if result["calibration"] is not None:
        pictures["reliability"] = figures.reliability(
            f"{prefix}-reliability", "Accuracy against confidence in bins; the table has the same numbers",
            result["calibration"]["bins"], fewest=FEW,
        )
    if result["latency"] is not None:
        stages = result["latency"]["stages_ms"]
        pictures["stages"] = figures.bars(
            f"{prefix}-stages", "Milliseconds per image of each stage; the table has the same numbers",
            [_stage_bar(stage, row) for stage, row in stages.items()], unit_interval=False,
        )
        if sizes := result["latency"]["by_size"]:
            pictures["percentiles"] = figures.percentiles(
                f"{prefix}-percentiles", "Percentiles of milliseconds per image, by size of the photo",
                [(size, row["images"], row) for size, row in sizes.items()],
            )
    return view


def _bar(group: str, accuracy: figures.Metric) -> figures.Bar:
    n = accuracy["n"]
    text = "no images" if accuracy["value"] is None else number(accuracy["value"])
    return figures.Bar(group, f"n = {n}", accuracy, text, _is_small(accuracy))


def _stage_bar(stage: str, row: dict[str, float]) -> figures.Bar:
    metric = {"value": row["per_image"], "low": None, "high": None, "n": None}
    return figures.Bar(stage, f"{row['share']:.1%}", metric, f"{row['per_image']:.2f} ms")


def _is_small(accuracy: figures.Metric) -> bool:
    return accuracy["low"] is None or bool((accuracy["high"] - accuracy["low"]) / 2 > HALF_WIDTH)


def _shades(
    matrix: list[list[int]], support: dict[str, Any], key: str | None
) -> tuple[list[tuple[str, int, int, list[tuple[int, int]]]], bool]:
    """Rows (class, images, without an answer, [(count, shade)]), and whether an image has no answer.

    A shade is the share of the row in per cent, so that all matrices have one scale.
    """
    rows = []
    for name, counts in zip(support, matrix, strict=True):
        n = (support[name] if key is None else support[name][key])["n"]
        rows.append((name, n, n - sum(counts), [(count, round(100 * count / n) if n else 0) for count in counts]))
    return rows, any(missing for _, _, missing, _ in rows)


def _why_undefined(name: str, result: dict[str, Any]) -> str:
    """Why a parity metric has no value, or no interval; "" where it has both."""
    parity = result["fairness"]
    metric = parity[name]
    sizes = [result["by_group"][group]["accuracy"]["n"] for group in parity["compared_groups"]]
    if metric["value"] is not None:
        return "no interval: a compared group has under 10 images" if metric["low"] is None else ""
    if sum(n > 0 for n in sizes) < 2:
        return "fewer than two groups with images"
    if name in ("spd_accuracy", "spd_selection", "spd_selection_mean"):
        return f"the reference group {parity['reference_group']} has no scored image"
    if name in ("pqd", "di_accuracy"):
        return "no group has a right answer"
    if name in ("dpm", "di_selection"):
        return "no class is predicted in two groups"
    return f"no class has {parity['min_cell']} images in each of two groups"


def _board(result: dict[str, Any]) -> str:
    before = (result["machine"] or {}).get("before") or {}
    parts = [before.get("board") or before.get("cpu"), before.get("system")]
    if before.get("usable_cores"):
        parts.insert(1, f"{before['usable_cores']} cores")
    return ", ".join(str(part) for part in parts if part)


def _command(result: dict[str, Any]) -> str:
    """What makes such a result, as far as the file tells; it does not record the command that was typed."""
    data, contest = result["data"], result["score"]
    root = shlex.quote(str(data["name"]))
    flags = ["--label", data["label_column"]] if data["label_column"] != "class" else []
    flags += ["--split", data["split"]] if data["split"] is not None else []
    flags += ["--subset"] if data["left_out"] else []
    flags += ["--profile", contest["profile"], "--reference", contest["reference_group"]]
    flags += [flag for group in contest["excluded_groups"] for flag in ("--exclude-group", group)]
    flags += ["--errors", "exclude"] if result["errors"]["policy"] == "exclude" else []
    flags += ["--latency", "latency.json"] if result["latency"] is not None else []
    flags += ["--seed", str(result["interval"]["seed"])]
    return f"edge-bench score predictions.csv --data {root} {shlex.join(map(str, flags))} -o results.json"


# Several results


def _planes(results: dict[str, dict[str, Any]], letters: dict[str, str]) -> list[dict[str, Any]]:
    """The pictures that hold results against each other, each with its title and those on its front."""
    contests = {name: result["score"] for name, result in results.items()}
    planes = []
    scored = {name: c for name, c in contests.items() if None not in (c["accuracy"]["value"], c["fairness"]["value"])}
    if scored:
        front = _front({name: (c["accuracy"]["value"], c["fairness"]["value"]) for name, c in scored.items()})
        points = [
            figures.Point(letters[name], c["accuracy"], c["fairness"], name in front) for name, c in scored.items()
        ]
        title = "Accuracy and fairness"
        svg = figures.plane("plane-fairness", title, points, x_label="accuracy", y_label="fairness (contest)")
        planes.append({"title": title, "svg": svg, "front": [letters[name] for name in scored if name in front]})
    timed = {name: c for name, c in scored.items() if c["latency"] is not None}
    if len(timed) > 1:
        seconds = {name: results[name]["latency"]["seconds_per_100"] for name in timed}
        front = _front({name: (-seconds[name], c["total_of_two_thirds"]["value"]) for name, c in timed.items()})
        points = [
            figures.Point(
                letters[name], {"value": seconds[name], "low": None, "high": None, "n": None},
                c["total_of_two_thirds"], name in front,
            )
            for name, c in timed.items()
        ]
        title = "Latency and the sum of the two other thirds"
        labels = {"x_label": "seconds per 100 photos", "y_label": "(accuracy + fairness) / 3"}
        svg = figures.plane("plane-latency", title, points, **labels, log_x=True)
        planes.append({"title": title, "svg": svg, "front": [letters[name] for name in timed if name in front]})
    return planes


def _front(scores: dict[str, tuple[float, ...]]) -> set[str]:
    """Those that no other beats: as good in everything and better in something. Larger is better."""

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    return {name for name, own in scores.items() if not any(beats(other, own) for other in scores.values())}


def _differences(results: dict[str, dict[str, Any]]) -> list[str]:
    """In what the results differ that makes their numbers incomparable."""
    first, *others = results.values()
    found = []
    for what, key in (("profile", "profile"), ("reference group", "reference_group"),
                      ("groups compared", "excluded_groups")):
        if any(other["score"][key] != first["score"][key] for other in others):
            found.append(what)
    images = [sorted(zip(*(r["samples"][key] for key in ("path", "label", "group")))) for r in results.values()]
    return [*(["images"] if any(other != images[0] for other in images[1:]) else []), *found]


def _letters(num_results: int) -> list[str]:
    """A, B, ... Z, A1, B1, ..."""
    alphabet = string.ascii_uppercase
    return [alphabet[i % 26] + (str(i // 26) if i >= 26 else "") for i in range(num_results)]


# Numbers and names as text


def number(value: float | None, digits: int = 3) -> str:
    """Three decimals; an en dash for what is not defined."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def span(metric: figures.Metric) -> str:
    """low to high, breakable behind the "to" alone; empty where there is no interval."""
    return "" if metric["low"] is None else f"{number(metric['low'])}\N{NO-BREAK SPACE}to {number(metric['high'])}"


def markdown_cell(text: object) -> str:
    """A name that cannot become markup, or leave its cell."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+!|~$" else c for c in html.escape(plain, quote=False))


def _check(value: Any, where: str) -> None:
    """Refuses a metric without its interval, and numbers that are none (JSON's NaN)."""
    if isinstance(value, dict):
        if "value" in value and "n" in value and not {"low", "high"} <= value.keys():
            raise ReportError(f"{where}: got {sorted(value)}, expected value, low, high and n")
        for key, inner in value.items():
            if key != "samples":
                _check(inner, f"{where}: {key}")
    elif isinstance(value, list):
        for inner in value:
            _check(inner, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ReportError(f"{where}: got {value}, expected a finite number or null")
