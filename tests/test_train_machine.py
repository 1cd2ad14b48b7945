"""What a run takes of its machine."""

import json
import os

import pytest
import torch

from edge import device
from edge.progress import Progress
from train.loop import machine


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("usable", "cores", "load", "expected"),
    [(4, 4, 0.2, 4), (4, 4, 1.6, 2), (4, 4, 9.0, 1), (2, 64, 30.0, 2), (2, 64, 63.2, 1), (1, 1, 0.0, 1)],
)
def test_threads_are_bounded_by_what_is_free(monkeypatch, usable, cores, load, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "usable_cores", lambda: usable)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0))
    said = []
    machine.bound_threads(None, say=said.append)
    assert torch.get_num_threads() == expected
    assert [f"threads: {expected} of {usable} cores" in line for line in said] == [True] * (expected < usable)


def test_a_run_goes_on_with_its_threads(monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0, 0))
    config = tmp_path / "config.json"
    for content, expected in ((json.dumps({"threads": 3}), 3), ("{}", device.usable_cores()), ("[", None)):
        config.write_text(content)
        machine.bound_threads(config, say=lambda _: None)
        assert torch.get_num_threads() == (expected or device.usable_cores())
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    torch.set_num_threads(2)
    machine.bound_threads(config, say=pytest.fail)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("work", "seconds", "expected"),
    [
        ([1] * 1006, 2.0, "about 33 min to go, at 2.00 s a step now; memory so far: "),
        ([1] * 506 + [4] * 500, 2.0, "about 83 min to go, at 2.00 s a step now"),  # pictures grow
        ([1] * 10_006, 4.0, "about 11 h 7 min to go"),
        ([1] * 10, 2.0, None),
        ([1] * 3, 2.0, None),
    ],
)
def test_forecast(monkeypatch, work, seconds, expected):
    clock = iter(range(10**6))
    monkeypatch.setattr(machine, "monotonic", lambda: next(clock) * seconds)
    said = []
    forecast = machine.Forecast(work, say=said.append, quiet=True)
    for done in range(1, len(work) + 1):
        forecast.update(done)
    assert said[0] == f"{len(work):,} steps" and [expected in line for line in said[1:]] == [True] * bool(expected)


def test_slow_progress_is_in_seconds(capsys, monkeypatch):
    clock = iter([0.0, 20.0, 40.0])
    monkeypatch.setattr("edge.progress.monotonic", lambda: next(clock))
    progress = Progress(10, unit="step")
    progress.update(5)
    progress.update(200)
    assert capsys.readouterr().err.splitlines()[0] == "[5/10] 4.0 s/step ETA 0:20"
