"""Results files -> one self-contained page, a summary in Markdown, and tables.

    DIR/index.html        for people: inline SVG and CSS, no script, nothing from a network
    DIR/summary.md        to be pasted
    DIR/metrics.csv ...   every number of the page, unrounded, one per row

Only this needs matplotlib and jinja2 (extra `report`): a Pi writes the JSON, a workstation the page. Whatever the page
says follows from the results files, so equal input gives equal bytes.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from edge import __version__
from edge.errors import EdgeError
from edge.output_files import write_output

from ..dataset import NOT_STATED
from ..results import comparison
from ..results.groupings import HALF_WIDTH, check_columns, columns_of
from ..robustness import page
from ..robustness.text import is_other
from . import csv_tables, figures
from .page_text import METRICS, SHORT, letters, markdown_cell, number, span, why_undefined

FILES = ("index.html", "summary.md", *csv_tables.SHEETS)
"""Everything a report may consist of."""

FEW = 10
"""Images under which a bin of the reliability diagram is drawn hollow."""


def load(paths: Sequence[Path], columns: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Name of a result -> the result; a name is a file's, with its folder where two are alike.

    Args:
      paths: Results files of `edge-bench score`.
      columns: Of the further columns of groups these alone; none: all.

    Raises:
      EdgeError: no results file of `edge-bench score`, or one that was not scored by a column;
        the same file twice, or a file that is not whole.
    """
    results: dict[str, dict[str, Any]] = {}
    stems = Counter(path.stem for path in paths)
    for path in paths:
        name = path.stem if stems[path.stem] == 1 else f"{path.parent.name}/{path.stem}"
        if name in results:
            raise EdgeError(f"{path}: another results file has its name {name!r} already, expected different names")
        results[name] = comparison.load(path)
        check_columns(results[name], columns, path)
        if columns and (further := results[name].get("groupings")):
            results[name]["groupings"] = {column: part for column, part in further.items() if column in columns}
        try:
            _check(results[name], str(path))
        except RecursionError as error:
            raise EdgeError(f"{path}: nested too deeply for a results file") from error
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
        raise EdgeError(f"{', '.join(results)}: not as `edge-bench score` writes it: {what}") from error
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
        loader=jinja2.FileSystemLoader([Path(__file__).parent, Path(__file__).parents[1]]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=lambda name: name is not None and "html" in name,
    )
    environment.filters |= {"num": number, "span": span, "cell": markdown_cell, "is_other": is_other}
    letter_of = dict(zip(results, letters(len(results)), strict=True))
    differences = _differences(results)
    context = {
        "version": __version__,
        "results": [_view(letter_of[name], name, result) for name, result in results.items()],
        "planes": _planes(results, letter_of) if len(results) > 1 and not differences else [],
        "differences": differences,
        "metrics": METRICS,
        "short_metrics": {name: METRICS[name] for name in SHORT},
        "half_width": HALF_WIDTH,
        "few": FEW,
    }
    contents = {name: environment.get_template(f"{name}.j2").render(context) for name in ("index.html", "summary.md")}
    return contents | csv_tables.of_results(results)


# From a result to what the page shows


def _view(letter: str, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Everything the templates need to know of one result; prose stays in the templates."""
    by_group, samples = result["by_group"], result["samples"]
    largest = max(result["by_class"], key=lambda c: result["by_class"][c]["recall"]["n"])
    prefix = letter.lower()
    view = {
        "letter": letter,
        "name": name,
        "r": result,
        "columns": columns_of(result),
        "groups": _groups(f"{prefix}-groups", result, result["accuracy"]),
        "further": {
            column: _groups(f"{prefix}-groups-{index}", part, result["accuracy"])
            for index, (column, part) in enumerate(result.get("groupings", {}).items(), start=1)
        },
        "largest_class": largest,
        "matrices": [("all groups", *_shades(result["confusion_matrix"], result["by_class"], "recall"))]
        + [(g, *_shades(m["confusion_matrix"], m["recall"], None)) for g, m in by_group.items()],
        "no_answer": sum(answer is None for answer in samples["prediction"]),
        "board": _board(result),
        "command": _command(result),
        "figures": {},
    }
    pictures: dict[str, str] = view["figures"]
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
    if "robustness" in result:
        view["robustness"] = page.view(result["robustness"], prefix, figures.strengths)
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


def _groups(name: str, part: dict[str, Any], accuracy: figures.Metric) -> dict[str, Any]:
    """What the templates need to know of the groups of one column, of a part with `fairness` and `by_group`."""
    by_group = part["by_group"]
    worst = {g: m["value"] for g, m in part["fairness"]["worst_group"]["by_group"].items() if m["value"] is not None}
    title = "Accuracy of each group with its 95 % interval; the table below has the same numbers"
    return {
        "part": part,
        "worst": min(worst, key=lambda g: worst[g], default=None),
        "is_small": {g: _is_small(metrics["accuracy"]) for g, metrics in by_group.items()},
        "undefined": {name: why_undefined(name, part) for name in METRICS},
        "figure": figures.bars(
            name, title, [_bar(g, metrics["accuracy"]) for g, metrics in by_group.items()], line=accuracy["value"]
        ),
    }


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
    if "robustness" in result:
        return page.command(result)
    flags = ["--label", data["label_column"]] if data["label_column"] != "class" else []
    columns = columns_of(result)
    flags += [flag for column in columns if columns != ["group"] for flag in ("--group", column)]
    flags += ["--split", data["split"]] if data["split"] is not None else []
    flags += ["--subset"] if data["left_out"] else []
    flags += ["--profile", contest["profile"], "--reference", contest["reference_group"]]
    parities = [result["fairness"], *(part["fairness"] for part in result.get("groupings", {}).values())]
    excluded = dict.fromkeys(group for parity in parities for group in parity["excluded_groups"])
    flags += [flag for group in excluded if group != NOT_STATED for flag in ("--exclude-group", group)]
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
    keys = ["path", "label", "group"]
    if any(columns_of(other)[0] != columns_of(first)[0] for other in others):
        found.append("column of groups")
        keys.remove("group")
    images = [sorted(zip(*(r["samples"][key] for key in keys))) for r in results.values()]
    return [*(["images"] if any(other != images[0] for other in images[1:]) else []), *found]


def _check(value: Any, where: str) -> None:
    """Refuses a metric without its interval, and numbers that are none (JSON's NaN)."""
    if isinstance(value, dict):
        if "value" in value and "n" in value and not {"low", "high"} <= value.keys():
            raise EdgeError(f"{where}: got {sorted(value)}, expected value, low, high and n")
        for key, inner in value.items():
            if key != "samples":
                _check(inner, f"{where}: {key}")
    elif isinstance(value, list):
        for inner in value:
            _check(inner, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise EdgeError(f"{where}: got {value}, expected a finite number or null")
