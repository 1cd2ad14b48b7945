"""The report: results files -> one self-contained page, a summary in Markdown and CSV tables.

Equal results give equal bytes. The words are in the templates, as are the places of the pictures.
"""

from __future__ import annotations

import html
import math
import shlex
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import jinja2

from edge import __version__
from edge.errors import EdgeError
from edge.output_files import write_output

from ..dataset import NOT_STATED
from ..metrics.evaluation import Metric
from ..results import document
from ..results.caveats import HALF_WIDTH
from ..robustness.changes import CHANGES
from ..robustness.measure import is_other
from . import csv_tables, plots

FILES = ("index.html", "summary.md", *csv_tables.SHEETS)
"""Everything a report may consist of."""


def load(paths: Sequence[Path], columns: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Name of a result -> the result; a name is a file's, with its folder where two are alike.

    Args:
      paths: Results files of `edge-bench score`.
      columns: Of the further columns of groups only these; none: all.

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
        results[name] = result = document.load(path)
        document.check_columns(result, columns, path)
        if columns and (further := result.get("groupings")):
            result["groupings"] = {column: part for column, part in further.items() if column in columns}
        try:
            _check(result, str(path))
        except RecursionError as error:
            raise EdgeError(f"{path}: nested too deeply for a results file") from error
    return results


def _check(value: Any, where: str) -> None:
    """Refuses a metric without its interval, and JSON's NaN."""
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
    by_letter = dict(zip(letters(len(results)), results.values(), strict=True))
    differences = _differences(list(results.values()))
    context = {
        "version": __version__,
        "results": [
            {"letter": letter, "name": name, "r": result}
            for letter, (name, result) in zip(by_letter, results.items(), strict=True)
        ],
        "planes": _planes(by_letter) if len(results) > 1 and not differences else [],
        "differences": differences,
    }
    templates = {name: _environment().get_template(f"{name}.j2") for name in ("index.html", "summary.md")}
    return {name: template.render(context) for name, template in templates.items()} | csv_tables.of_results(results)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=lambda name: name is not None and "html" in name,
    )
    environment.filters |= {"num": number, "span": span, "cell": markdown_cell}
    environment.tests |= {"small": plots.is_small, "other": is_other}
    environment.globals |= {
        "worst_group": _worst_group, "why_undefined": why_undefined, "columns_of": document.columns_of,
        "costliest": _costliest, "board_of": _board_of, "command": _command, "plots": plots, "half_width": HALF_WIDTH,
    }
    return environment


# One result


def _worst_group(part: dict[str, Any]) -> str | None:
    """Of a part with `fairness`: the compared group with the lowest accuracy."""
    by_group = part["fairness"]["worst_group"]["by_group"]
    known = {group: metric["value"] for group, metric in by_group.items() if metric["value"] is not None}
    return min(known, key=lambda group: known[group], default=None)


def _costliest(part: dict[str, Any]) -> list[dict[str, Any]]:
    """Of `robustness`: the row with the lowest accuracy of each kind of change."""

    def cost(row: dict[str, Any]) -> tuple[bool, float | None]:
        value = row["accuracy"]["value"]
        return value is None, value

    return [min(rows, key=cost) for _, rows in groupby(part["changes"], key=itemgetter("kind"))]


def _board_of(result: dict[str, Any]) -> str:
    before = (result["machine"] or {}).get("before") or {}
    cores = f"{before['usable_cores']} cores" if before.get("usable_cores") else None
    parts = (before.get("board") or before.get("cpu"), cores, before.get("system"))
    return ", ".join(str(part) for part in parts if part)


def _command(result: dict[str, Any]) -> str:
    """What makes such a result, as far as the file says; it does not record the command that was typed."""
    data, contest = result["data"], result["score"]
    flags = ["--label", data["label_column"]] if data["label_column"] != "class" else []
    if (part := result.get("robustness")) is not None:
        flags += ["--group", data["group_column"]] if data["group_column"] != "group" else []
        flags += ["--subset", "images.txt"] if data["left_out"] else []
        flags += ["--allow-seen"] if part["seen"] else []
        kinds = dict.fromkeys(row["kind"] for row in part["changes"])
        if len(kinds) < len({change.kind for change in CHANGES}):
            flags += [word for kind in kinds for word in ("--only", kind)]
        words = ["robustness", "-m", part["model"], data["name"], *flags, "-o", "robustness.json"]
        return shlex.join(["edge-bench", *map(str, words)])
    columns = document.columns_of(result)
    flags += [flag for column in columns if columns != ["group"] for flag in ("--group", column)]
    flags += ["--split", data["split"]] if data["split"] is not None else []
    flags += ["--subset"] if data["left_out"] else []
    flags += ["--profile", contest["profile"], "--reference", contest["reference_group"]]
    parities = [result["fairness"], *(part["fairness"] for part in result.get("groupings", {}).values())]
    excluded = dict.fromkeys(group for parity in parities for group in parity["excluded_groups"])
    flags += [flag for group in excluded if group != NOT_STATED for flag in ("--exclude-group", group)]
    flags += ["--errors", "exclude"] if result["errors"]["policy"] == "exclude" else []
    flags += ["--latency", "latency.json"] if result["latency"] is not None else []
    flags += ["--seed", result["interval"]["seed"]]
    words = ["score", "predictions.csv", "--data", data["name"], *flags, "-o", "results.json"]
    return shlex.join(["edge-bench", *map(str, words)])


# Several results


def letters(num_results: int) -> list[str]:
    """A, B, ... Z, A1, B1, ..."""
    return [f"{string.ascii_uppercase[i % 26]}{i // 26 or ''}" for i in range(num_results)]


def _planes(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
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
    svg = plots.plane(f"plane-{name}", title, points, front, x_label=x_label, y_label=y_label, log_x=is_time)
    return {"title": title, "svg": svg, "front": [letter for letter in points if letter in front]}


def _front(scores: dict[str, tuple[float, ...]]) -> set[str]:
    """Those that no other beats: as good in everything and better in something. Larger is better."""

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    return {name for name, own in scores.items() if not any(beats(other, own) for other in scores.values())}


def _differences(results: list[dict[str, Any]]) -> list[str]:
    """In what the results differ that makes their numbers incomparable."""
    first, keys = results[0], ["path", "label", "group"]
    names = {"profile": "profile", "reference_group": "reference group", "excluded_groups": "groups compared"}
    found = [name for key, name in names.items() if any(r["score"][key] != first["score"][key] for r in results)]
    if any(document.columns_of(result)[0] != document.columns_of(first)[0] for result in results):
        found.append("column of groups")
        keys.remove("group")
    images = [sorted(zip(*(result["samples"][key] for key in keys))) for result in results]
    return [*(["images"] if any(other != images[0] for other in images) else []), *found]


# Words


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


def number(value: float | None, digits: int = 3) -> str:
    """Three decimals; an en dash for what is not defined."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def span(metric: Metric) -> str:
    """low to high, breakable only behind the "to"; empty where there is no interval."""
    return "" if metric["low"] is None else f"{number(metric['low'])}\N{NO-BREAK SPACE}to {number(metric['high'])}"


def markdown_cell(text: object) -> str:
    """A name that cannot become markup, or leave its cell."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+!|~$" else c for c in html.escape(plain, quote=False))
