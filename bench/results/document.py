"""Files of results (`edge-bench/1`): written whole or not at all, and checked when they are read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.output_files import write_output

from ..metrics.contest import PROFILES

SCHEMA = "edge-bench/1"

_RESULTS = "expected the JSON of `edge-bench score -o`"
_SAMPLES = ("path", "group", "cluster", "label", "prediction", "status")
_LATENCY: dict[str, type | tuple[type, ...]] = {
    "seconds_per_100": (int, float),
    "images": int,
    "protocol": dict,
    "samples": dict,
    "stages_ms": dict,
    "by_size": dict,
    "ratio_to_bound": dict,
    "score": (int, float),
    "spread": (int, float),
    "first_result_s": (int, float),
}
_LATENCY_FILE: dict[str, type | tuple[type, ...]] = {
    "valid": bool,
    "reasons": list,
    "model": (dict, type(None)),
    "machine": (dict, type(None)),
}
"""What a result takes over and a report shows: without it `score` would write what `report` refuses."""


def read_json(path: Path, expected: str) -> Any:
    """What a JSON file holds; `expected` says which command writes such a file.

    Raises:
      EdgeError: no such file, or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise EdgeError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EdgeError(f"{path}: not JSON ({error}), {expected}") from error


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes a results file that is whole or absent.

    Raises:
      EdgeError: what was taken over from another file (a meta, a latency) is nothing that JSON can hold.
    """
    try:
        content = (json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (ValueError, RecursionError) as error:
        raise EdgeError(f"{path}: not written, the results hold what JSON cannot: {error}") from error
    write_output(path, content)


def load(path: Path) -> dict[str, Any]:
    """Reads a results file of `edge-bench score`, whose groups are those of the first column it was scored by.

    Raises:
      EdgeError: no such file, no JSON, another schema, or one without whole samples.
    """
    result = read_json(path, _RESULTS)
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        got = result.get("schema") if isinstance(result, dict) else type(result).__name__
        raise EdgeError(f"{path}: got schema {got!r}, expected {SCHEMA!r}")
    _check(result, path)
    return result


def load_latency(path: Path) -> dict[str, Any]:
    """Reads a results file of `edge-bench latency`.

    Raises:
      EdgeError: no such file, no JSON, a part that `edge-bench latency` writes is missing or of another type; the
        latency of the null network.
    """
    expected = "expected the JSON of `edge-bench latency -o`"
    result = read_json(path, expected)
    result = result if isinstance(result, dict) else {}
    latency = result["latency"] if isinstance(result.get("latency"), dict) else {}
    for where, values, parts in (("latency.", latency, _LATENCY), ("", result, _LATENCY_FILE)):
        for name, types in parts.items():
            value: Any = values.get(name)
            is_right = isinstance(value, types) and isinstance(value, bool) is (types is bool)
            if not is_right or name == "seconds_per_100" and not 0 <= value < math.inf:
                raise EdgeError(f"{path}: got {where}{name} {repr(value)[:40]}, {expected}")
    if not all(isinstance(reason, str) for reason in result["reasons"]) or latency["images"] < 1:
        raise EdgeError(f"{path}: got reasons that are no texts, or no images, {expected}")
    if (result.get("model") or {}).get("name") == "null":
        raise EdgeError(f"{path}: is the latency of the null network, expected a model's")
    return result


def columns_of(result: dict[str, Any]) -> list[str]:
    """The columns of groups that a result was scored by; the first is the one that its score compares."""
    data, further = result.get("data"), result.get("groupings")
    first = str(data.get("group_column", "group")) if isinstance(data, dict) else "group"
    return [first, *(further if isinstance(further, dict) else [])]


def check_columns(result: dict[str, Any], columns: Sequence[str], path: Path) -> None:
    """Refuses columns that a result was not scored by.

    Raises:
      EdgeError: it was not scored by one.
    """
    known = columns_of(result)
    for column in columns:
        if column not in known:
            raise EdgeError(f"{path}: was not scored by {column}, got {', '.join(known)} (edge-bench score --group)")


def by_column(result: dict[str, Any], column: str, path: Path) -> dict[str, Any]:
    """A loaded result as if `column`, one of those it was scored by, were the first; its figures stay as they are.

    Raises:
      EdgeError: it was not scored by that column; it is damaged.
    """
    check_columns(result, [column], path)
    if column == columns_of(result)[0]:
        return result
    try:
        part = result["groupings"][column]
        own = {name: part["fairness"][name] for name in ("reference_group", "excluded_groups")}
        found = {**result, "samples": {**result["samples"], **part["samples"]}, "score": {**result["score"], **own}}
    except (LookupError, TypeError) as error:
        what = f"{type(error).__name__} {error}"
        raise EdgeError(f"{path}: groupings: {column}: not as `edge-bench score` writes it: {what}") from error
    _check(found, path)
    return found


def _check(result: dict[str, Any], path: Path) -> None:
    samples, contest = result.get("samples"), result.get("score")
    if not isinstance(samples, dict) or not isinstance(contest, dict) or "classes" not in result:
        raise EdgeError(f"{path}: has no samples, {_RESULTS}")
    for name in _SAMPLES:
        allowed = {str, type(None)} if name == "prediction" else {str}
        if not isinstance(samples.get(name), list) or set(map(type, samples[name])) - allowed:
            raise EdgeError(f"{path}: samples.{name}: expected a list of texts, as `edge-bench score` writes it")
    lengths = {name: len(samples[name]) for name in _SAMPLES}
    if len(set(lengths.values())) != 1 or not lengths["path"]:
        raise EdgeError(f"{path}: got samples {lengths}, expected equally many of each, at least one")
    profile, reference, excluded = map(contest.get, ("profile", "reference_group", "excluded_groups"))
    if not isinstance(profile, str) or profile not in PROFILES:
        raise EdgeError(f"{path}: got profile {repr(profile)[:40]}, expected one of {', '.join(PROFILES)}")
    for key, names in (("classes", result["classes"]), ("excluded_groups", excluded), ("reference_group", [reference])):
        if not isinstance(names, list) or set(map(type, names)) - {str}:
            raise EdgeError(f"{path}: got {key} {repr(names)[:40]}, expected names")
    if reference in contest["excluded_groups"]:
        raise EdgeError(f"{path}: the group {reference!r} is both the reference and excluded")
