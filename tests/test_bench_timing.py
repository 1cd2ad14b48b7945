"""A latency that a result takes over: what is read, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from simulated_results import latency

from bench.results.document import load_latency
from edge.errors import EdgeError


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "l.json"
    path.write_text(json.dumps(latency(12.5)))
    assert load_latency(path) == latency(12.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": 5}, "got model 5, expected the JSON of `edge-bench latency -o`"),
        ({"machine": []}, r"got machine \[\]"),
        ({"reasons": 5}, "got reasons 5"),
        ({"reasons": [5]}, "got reasons that are no texts"),
        ({"valid": 1}, "got valid 1"),
        ({"latency": {"images": True}}, "got latency.images True"),
        ({"latency": {"images": 0}}, "or no images"),
        ({"latency": {"stages_ms": None}}, "got latency.stages_ms None"),
        ({"model": {"name": "null"}}, "of the null network"),
    ],
)
def test_a_latency_that_no_report_could_show_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    found = latency(1)
    for key, value in changes.items():
        found[key] = {**found[key], **value} if key == "latency" else value
    (tmp_path / "l.json").write_text(json.dumps(found))
    with pytest.raises(EdgeError, match=message):
        load_latency(tmp_path / "l.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "l.json: cannot be read: No such file"),
        ("", "l.json: not JSON"),
        ("[]", "got latency.seconds_per_100 None, expected the JSON of `edge-bench latency -o`"),
        ('{"latency": 3}', "seconds_per_100 None"),
        ('{"latency": {"seconds_per_100": "3"}}', "seconds_per_100 '3'"),
        ('{"latency": {"seconds_per_100": true}}', "seconds_per_100 True"),
        ('{"latency": {"seconds_per_100": -1}}', "seconds_per_100 -1"),
        ('{"latency": {"seconds_per_100": NaN}}', "seconds_per_100 nan"),
        ('{"latency": {"seconds_per_100": 1}}', "got latency.images None"),
        ("[" * 100_000, "l.json: not JSON"),
    ],
)
def test_read_refuses(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "l.json").write_text(text)
    with pytest.raises(EdgeError, match=message):
        load_latency(tmp_path / "l.json")
