"""The latency that a result takes over from a file of `edge-bench latency`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edge.errors import EdgeError

from .document import read_json

_LATENCY: dict[str, type | tuple[type, ...]] = {
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


def read(path: Path) -> dict[str, Any]:
    """A results file of `edge-bench latency`.

    Raises:
      EdgeError: no such file, no JSON, no `latency.seconds_per_100`, or one that is no number from 0; a part that
        `edge-bench latency` writes is missing or of another type; the latency of the null network.
    """
    result = read_json(path)
    result = result if isinstance(result, dict) else {}
    latency = result["latency"] if isinstance(result.get("latency"), dict) else {}
    seconds = latency.get("seconds_per_100")
    expected = "expected the JSON of `edge-bench latency -o`"
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        raise EdgeError(f"{path}: got latency.seconds_per_100 {repr(seconds)[:40]}, {expected}")
    for where, values, parts in (("latency.", latency, _LATENCY), ("", result, _LATENCY_FILE)):
        for name, types in parts.items():
            value = values.get(name)
            if not isinstance(value, types) or isinstance(value, bool) is not (types is bool):
                raise EdgeError(f"{path}: got {where}{name} {repr(value)[:40]}, {expected}")
    if not all(isinstance(reason, str) for reason in result["reasons"]) or latency["images"] < 1:
        raise EdgeError(f"{path}: got reasons that are no texts, or no images, {expected}")
    if (result.get("model") or {}).get("name") == "null":
        raise EdgeError(f"{path}: is the latency of the null network, expected a model's")
    return result


def add(result: dict[str, Any], timing: dict[str, Any]) -> None:
    """Completes a result with the latency of `edge-bench latency`: the third part, the total, the machine.

    The latency stands without an interval: its runs differ far less than accuracy and fairness do, and the score
    holds for the machine it was measured on.
    """
    from ..speed.latency import latency_score  # onnxruntime, which scoring without a latency does without

    latency, contest = timing["latency"], result["score"]
    value = latency_score(latency["seconds_per_100"])
    contest["latency"] = {"value": value, "low": None, "high": None, "n": latency["images"]}
    contest["thirds"]["latency"] = {**contest["latency"], "value": value / 3}
    two_thirds = contest["total_of_two_thirds"]
    if two_thirds["value"] is not None:
        ends = {key: two_thirds[key] for key in ("value", "low", "high")}
        total = {key: None if end is None else end + value / 3 for key, end in ends.items()}
        contest["total"] = {**total, "n": two_thirds["n"]}
    result["latency"] = latency
    result["machine"] = timing.get("machine")
    # The file may be a result that took its latency from another one, with these reasons.
    reasons = [f"latency: {reason.removeprefix('latency: ')}" for reason in timing["reasons"]]
    if not (timing["valid"] or reasons):
        reasons.append("latency: its file says no more than that it is not valid")
    models = [(timing.get("model") or {}).get("sha256"), result["predictions"].get("model_sha256")]
    if None not in models and models[0] != models[1]:
        reasons.append("latency: measured with another model than the predictions are of")
    result["reasons"] += reasons
    result["valid"] = not result["reasons"]
