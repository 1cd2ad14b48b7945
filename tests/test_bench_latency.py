"""The latency protocol: what is timed, what is left out, and when a figure is not to be believed."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from make_tiny import add_outputs
from sample_images import TINY_MODEL, encoded, folder_of_photos, photo

from bench.cli import main
from bench.metrics.contest import latency_score
from bench.speed import latency, peers
from edge import Classifier
from edge.errors import EdgeError
from edge.pipeline import RunOptions
from edge.predictions import Prediction

ROOT = Path(__file__).parents[1]


def bench(*arguments):
    return main(["latency", "-m", str(TINY_MODEL), "-q", *map(str, arguments)])


def timing(wall_s, *, bound_s=0.5, cpu_s=1.0, costs=(1.0, 2.0)):
    predictions = [Prediction("a", width=100, height=100, decode_ms=c, resize_ms=0.1, infer_ms=0.5) for c in costs]
    return latency.Timing(wall_s, cpu_s, bound_s, predictions)


@pytest.mark.parametrize(("seconds", "score"), [(0, 1), (12, 0.88), (100, 0), (250, 0)])
def test_score_is_the_contests_formula(seconds, score):
    assert latency_score(seconds) == pytest.approx(score)


def test_seconds_are_the_mean_scaled_to_100_images(tmp_path):
    paths = [str(p) for p in sorted(folder_of_photos(tmp_path / "photos", 2).iterdir())]
    protocol = latency.Protocol(runs=2, workers=2)
    summary = latency.summarize([timing(0.2), timing(0.4)], paths, [], protocol, 0.1)
    assert summary["seconds_per_100"] == pytest.approx(0.3 * 50)
    assert summary["score"] == pytest.approx(1 - 0.15)
    assert summary["scaled_to_100"] is True
    assert summary["spread"] == pytest.approx(0.2 / 0.3)
    assert summary["ratio_to_bound"]["cpu"]["median"] == pytest.approx(2.0)
    assert summary["ratio_to_bound"]["wall"]["median"] == pytest.approx((0.2 * 2 / 0.5 + 0.4 * 2 / 0.5) / 2)
    stages = summary["stages_ms"]
    assert sum(stage["share"] for stage in stages.values()) == pytest.approx(1)
    assert stages["infer"]["per_image"] == pytest.approx(0.5)
    assert summary["by_size"]["small"]["images"] == 2
    assert summary["by_size"]["small"]["p50_ms"] == pytest.approx(2.0)


def test_draw_is_seeded_and_leaves_out_what_cannot_be_decoded(tmp_path):
    folder = folder_of_photos(tmp_path / "photos", 9)
    (folder / "img4.jpg").write_bytes(b"broken")
    paths = [str(folder / f"img{i}.jpg") for i in range(9)]
    classifier = Classifier.load(TINY_MODEL)
    usable, errors, first_s = latency.draw(classifier, paths, latency.Protocol(sample=8, seed=1))
    assert len(usable) == 8 and len(errors) == 1  # a replacement is drawn for the broken one
    assert errors[0].path.endswith("img4.jpg")
    assert first_s > 0
    assert usable == latency.draw(classifier, paths, latency.Protocol(sample=8, seed=1))[0]
    assert usable != latency.draw(classifier, paths, latency.Protocol(sample=8, seed=2))[0]


def test_the_bound_asks_for_what_the_runtime_asks_for(tmp_path):
    model = onnx.load(TINY_MODEL)
    add_outputs(model)
    path = tmp_path / os.fsdecode(b"\xff.onnx")  # whatever name the file has
    path.write_bytes(model.SerializeToString())
    classifier = Classifier.load(path)
    batch = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert np.array_equal(latency._bare_network(classifier)(batch), classifier.logits(batch))


def test_the_shipped_pipeline_is_what_is_timed(tmp_path, monkeypatch):
    calls = []
    real = latency.run

    def spy(classifier, sources, options):
        calls.append(options)
        return real(classifier, sources, options)

    monkeypatch.setattr(latency, "run", spy)
    folder = folder_of_photos(tmp_path / "photos", 3)
    paths = [str(p) for p in sorted(folder.iterdir())]
    runs = list(latency.timings(Classifier.load(TINY_MODEL), paths, latency.Protocol(runs=2, workers=2, batch_size=3)))
    assert calls == [RunOptions(workers=2, batch_size=3)] * 2
    assert all([p.path for p in timing.predictions] == paths for timing in runs)
    assert all(t.wall_s > 0 and t.cpu_s > 0 and t.bound_s > 0 for t in runs)


@pytest.mark.parametrize(
    ("runs", "images", "spread", "expected"),
    [
        (10, 100, 0.05, []),
        (9, 100, 0.05, ["9 runs, expected at least 10"]),
        (10, 34, 0.05, ["34 images, expected at least 100"]),
        (10, 100, 0.2, ["the runs differ by 20%, expected at most 10 %"]),
    ],
)
def test_a_short_or_restless_run_is_not_valid(runs, images, spread, expected):
    rows = {"small": {"images": images, "p50_ms": 1.0, "p90_ms": 1.5, "p99_ms": 2.0}}
    summary = {"protocol": {"runs": runs}, "images": images, "spread": spread, "by_size": rows}
    assert list(latency._run_reasons(summary)) == expected


def test_a_disturbed_machine_is_named():
    quiet = {"throttled": None, "governor": None, "swap_used_mb": None, "throttled_reasons": None}
    assert list(latency._machine_reasons(quiet, quiet, 0.1)) == []
    before = {**quiet, "throttled": 0x50000, "swap_used_mb": 5}
    after = {
        "throttled": 0x50004,
        "throttled_reasons": ["throttled"],
        "governor": "ondemand",
        "swap_used_mb": 100,
    }
    assert list(latency._machine_reasons(before, after, 1.5)) == [
        "throttled: throttled",
        "governor is ondemand, expected performance",
        "other processes used 1.5 cores, expected at most 0.5",
        "95 MB went to swap",
    ]
    since_boot = {**quiet, "throttled": 0x50000, "throttled_reasons": ["x"]}
    assert list(latency._machine_reasons(since_boot, since_boot, 0.0)) == []


def test_command_prints_and_writes_the_same_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latency, "cold_start", partial(latency.cold_start, runs=1))
    folder = folder_of_photos(tmp_path / "photos", 6)
    (folder / "bad.jpg").write_bytes(b"")
    out = tmp_path / "latency.json"
    assert bench(folder, "--runs", 2, "-o", out) == 1  # one image cannot be used
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["schema"] == "edge-bench/1"
    assert result["valid"] is False and "2 runs, expected at least 10" in result["reasons"]
    assert result["latency"]["images"] == 6 and len(result["latency"]["unusable"]) == 1
    assert len(result["latency"]["samples"]["wall_s"]) == 2
    assert result["cold_start"]["command_ms"] > result["cold_start"]["python_ms"] > 0
    assert "\n".join(latency.table(result)) + "\n" == printed
    assert "left out, not timed: 1 unusable images" in printed
    assert main(["show", str(out)]) == 0
    assert capsys.readouterr().out == printed
    assert bench(folder, "-o", out) == 2


def test_null_model_measures_the_harness(tmp_path, capsys):
    folder = folder_of_photos(tmp_path / "photos", 2)
    assert bench(folder, "--runs", 1, "--null") == 0
    assert "infer" in capsys.readouterr().out


def test_images_that_cannot_be_timed_are_one_line(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(b"")
    assert bench(tmp_path) == 3
    assert "none of 1 images can be used" in capsys.readouterr().err
    assert bench(tmp_path / "gone") == 3
    assert main(["latency", "-m", str(tmp_path / "a.jpg"), str(tmp_path)]) == 4


def test_interrupted_in_the_middle_leaves_a_result_marked_invalid(tmp_path):
    folder = folder_of_photos(tmp_path / "photos", 1)
    (folder / "img0.jpg").write_bytes(encoded(photo(1600, 1200)))
    out = tmp_path / "latency.json"
    command = [sys.executable, "-m", "bench", "latency", "-m", str(TINY_MODEL), "--runs", "100000", str(folder)]
    ours, theirs = os.openpty()  # a terminal sees progress as soon as there is some
    process = subprocess.Popen([*command, "-o", str(out)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    said = os.read(ours, 1000)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130 and b" run/s " in said, said
    os.close(ours)
    result = json.loads(out.read_text())
    assert result["valid"] is False and result["reasons"][0] != "" and "interrupted" in result["reasons"]
    assert 0 < len(result["latency"]["samples"]["wall_s"]) < 100000


@pytest.mark.parametrize(
    ("part", "error", "status", "reason"),
    [
        ("cold_start", KeyboardInterrupt(), 130, "interrupted"),
        ("cold_start", subprocess.CalledProcessError(1, ["x"]), 5, "Command '['x']' returned non-zero exit status 1."),
        ("interleaved", KeyboardInterrupt(), 130, "interrupted"),
        ("interleaved", EdgeError("naive failed: why", exit_status=5), 5, "naive failed: why"),
    ],
)
def test_what_was_timed_outlives_what_comes_after(tmp_path, monkeypatch, capsys, part, error, status, reason):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(latency if part == "cold_start" else peers, part, stop)
    monkeypatch.setattr("bench.commands.latency.ignore_interrupts", lambda: None)  # the tests are not on their way out
    folder, out = folder_of_photos(tmp_path / "photos", 2), tmp_path / "l.json"
    fewer = [] if part == "cold_start" else ["--no-cold-start"]  # twenty processes that this is not about
    assert bench(folder, "--runs", 2, "--peer", "naive", "-o", out, *fewer) == status
    result = json.loads(out.read_text())
    assert len(result["latency"]["samples"]["wall_s"]) == 2
    assert result["valid"] is False and result["reasons"][-1] == reason
    assert f"{reason})" in capsys.readouterr().out


def test_a_peer_that_cannot_run_is_said_first(tmp_path, monkeypatch, capsys):
    (tmp_path / "cv2.py").write_text("import nothing_of_that_name")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(latency, "timings", lambda *_: pytest.fail("was timed"))
    assert bench(folder_of_photos(tmp_path / "photos", 1), "--peer", "winners") == 5
    assert "winners cannot run: ModuleNotFoundError" in capsys.readouterr().err


def test_photos_and_model_are_not_overwritten(tmp_path, capsys):
    folder = folder_of_photos(tmp_path / "photos", 1)
    assert main(["latency", str(folder), "-m", str(TINY_MODEL), "-o", str(folder / "img0.jpg"), "--force"]) == 2
    assert "img0.jpg: is an input" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"schema": "other"}', b'{"schema": "edge-bench/1"}', b"\xff", b"[" * 100_000]
)
def test_showing_what_is_no_results_file_is_one_line(tmp_path, capsys, content):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    assert main(["show", str(path)]) == 3
    err = capsys.readouterr().err
    assert err.startswith(f"edge-bench: {path}: ") and err.count("\n") == 1
    assert main(["show", str(tmp_path / "gone.json")]) == 5
