"""The regions as they run on a board, and edge-bench board, here on a machine that is none."""

import gc
import json

import pytest
from sample_images import TINY_MODEL, encoded, photo

from bench import images
from bench.cli import main
from bench.pi4b import measured, regions
from bench.pi4b.regions import Spec
from edge.classifier import Classifier

SMALL_MIX = (images.SizeClass(100, ((64, 48, 50), (96, 64, 50))),)


@pytest.fixture
def small_photos(monkeypatch):
    monkeypatch.setattr("bench.pi4b.contest.ESFAIR", SMALL_MIX)
    monkeypatch.setattr(images, "ESFAIR", SMALL_MIX)


def test_regions_run_the_shipped_code(tmp_path):
    path = tmp_path / "ä photo.jpg"
    path.write_bytes(encoded(photo(640, 480)))
    preprocess = Classifier.load(TINY_MODEL).preprocess
    found = list(regions.regions(Spec((str(path),), preprocess.to_json(), (str(TINY_MODEL),), (1, 3))))
    assert [region.kind for region in found] == ["decode", "resize", "infer", "infer"]
    for region in found:
        region.run()  # a second call does the same again
    _, resize, one, three = (region.run() for region in found)
    assert resize.size == preprocess.fill_size(640, 480)
    assert (one.shape[0], three.shape[0]) == (1, 3)
    pixels, offset = preprocess(str(path)), (preprocess.size_px - resize.height) // 2
    assert pixels[offset : offset + resize.height].tobytes() == resize.tobytes()


def test_program_names_what_it_marks(tmp_path, capsys):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(photo()))
    spec = {"photos": [str(path)], "models": [str(TINY_MODEL)], "batches": [2]}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    try:
        assert regions.main([str(tmp_path / "spec.json")]) == 0
    finally:
        gc.enable()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [["decode", str(path), 1], ["resize", str(path), 1], ["infer", str(TINY_MODEL), 2]]


def test_layers_are_those_of_the_network():
    found = measured.layers(TINY_MODEL, runs=2)
    assert len(found) > 2 and all(layer["ms"] >= 0 for layer in found)
    assert any(layer["operator"] in ("Conv", "FusedConv") for layer in found)


def test_board_writes_a_report_that_only_a_pi_4_may_calibrate_with(small_photos, tmp_path, capsys):
    out = tmp_path / "board.json"
    options = ["--photos", str(tmp_path / "photos"), "--runs", "2", "-o", str(out)]
    command = ["board", "-q", "-m", str(TINY_MODEL), *options]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "self_test: ok" in said and "decode 64x48.jpg" in said and "slowest of" in said and "valid: NO" in said
    report = json.loads(out.read_bytes())
    assert {region["name"] for region in report["regions"]} == {"64x48.jpg", "96x64.jpg", TINY_MODEL.name}
    assert all(region["low_ms"] <= region["ms"] <= region["high_ms"] for region in report["regions"])
    assert report["latency"]["images"] == 100
    assert main(command) == 2  # it exists
    assert main(["pi4b", "--calibrate", str(out)]) == 3
    assert "expected a Raspberry Pi 4 Model B" in capsys.readouterr().err
