"""The report: results files -> one self-contained page, a summary in Markdown and CSV tables.

Equal results give equal bytes. The words are in the templates, as are the places of the pictures.
"""

from __future__ import annotations

import math
import shlex
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
from ..metrics.meaning import meaning
from ..results import compare, document
from ..results.caveats import HALF_WIDTH, NO_GROUPS
from ..robustness.changes import CHANGES
from ..robustness.measure import is_other
from . import csv_tables, planes, plots, words

FILES = ("index.html", "summary.md", *csv_tables.SHEETS, csv_tables.PAIR)
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
    by_letter = dict(zip(words.letters(len(results)), results.values(), strict=True))
    differences = _differences(list(results.values()))
    paired = _paired(list(results.values())) if len(results) == 2 and not differences else None
    context = {
        "version": __version__,
        "title": words.title(results.values()),
        "dates": sorted({str(result["date"]) for result in results.values() if "date" in result}),
        "paired": paired,
        "conclusion": "" if paired is None else compare.conclusion(paired),
        "results": [
            {"letter": letter, "name": name, "r": result}
            for letter, (name, result) in zip(by_letter, results.items(), strict=True)
        ],
        "planes": planes.of_results(by_letter) if len(results) > 1 and not differences else [],
        "differences": differences,
    }
    templates = {name: _environment().get_template(f"{name}.j2") for name in ("index.html", "summary.md")}
    pages = {name: template.render(context) for name, template in templates.items()}
    return pages | csv_tables.of_results(results) | csv_tables.of_pair(paired)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=lambda name: name is not None and "html" in name,
    )
    environment.filters |= {"num": words.number, "whole": words.whole, "span": words.span, "cell": words.markdown_cell}
    environment.tests |= {"small": plots.is_small, "other": is_other, "of_latency": _is_of_latency}
    environment.globals |= {
        "worst_group": _worst_group, "columns_of": document.columns_of, "costliest": _costliest, "board_of": _board_of,
        "command": _command, "meaning": meaning, "plots": plots, "words": words, "half_width": HALF_WIDTH,
        "NO_GROUPS": NO_GROUPS,
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


def _is_of_latency(reason: str) -> bool:
    """Whether a reason for which a result is not valid touches its latency only."""
    return reason.startswith("latency: ")


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
        flags += ["--held-out", "images.txt"] if data["left_out"] else []
        flags += ["--allow-seen"] if part["seen"] else []
        kinds = dict.fromkeys(row["kind"] for row in part["changes"])
        if len(kinds) < len({change.kind for change in CHANGES}):
            flags += [word for kind in kinds for word in ("--only", kind)]
        words = ["robustness", "-m", part["model"], data["name"], *flags, "-o", "robustness.json"]
        return shlex.join(["edge-bench", *map(str, words)])
    source = ["predictions.csv", "--data", data["name"]]
    if "y_true" in result["predictions"].get("columns", ()):  # a table with its own classes
        source, flags = [data["name"]], []
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
    words = ["score", *source, *flags, "-o", "results.json"]
    return shlex.join(["edge-bench", *map(str, words)])


# Several results


def _paired(results: list[dict[str, Any]]) -> dict[str, Any] | None:
    """B minus A; None where `edge-bench compare` refuses them, as for other clusters."""
    try:
        return compare.compare(*results)
    except EdgeError:
        return None


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
