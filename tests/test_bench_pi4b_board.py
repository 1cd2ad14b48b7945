"""The regions as they run on a board, and edge-bench board, here on a machine that is none."""

import gc
import io
import json
import sys
from collections import Counter
from contextlib import redirect_stdout

import pytest
from PIL import Image
from sample_images import TINY_MODEL, encoded, photo

from bench.cli import main
from bench.photos import images
from bench.pi4b import board, count, estimate, pieces
from bench.pi4b.pieces import Spec
from edge.classifier import Classifier
from edge.memory_gate import MemoryGate
from edge.photo.preprocess import Preprocess

SMALL_MIX = (images.SizeClass(100, ((64, 48, 50), (96, 64, 50))),)


@pytest.fixture(scope="module")
def small_photos():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.pi4b.estimate.ESFAIR", SMALL_MIX)
        patch.setattr(images, "ESFAIR", SMALL_MIX)
        yield


@pytest.fixture(scope="module")
def measured(small_photos, tmp_path_factory):
    """The command without its output, the file that it wrote, what it printed."""
    folder = tmp_path_factory.mktemp("board")
    command = ["board", "-q", "-m", str(TINY_MODEL), "--photos", str(folder / "photos"), "--runs", "2", "-o"]
    with redirect_stdout(io.StringIO()) as said:
        assert main([*command, str(folder / "board.json")]) == 0
    return command, folder / "board.json", said.getvalue()


def test_regions_run_the_shipped_code(tmp_path):
    path = tmp_path / "ä photo.jpg"
    path.write_bytes(encoded(photo(640, 480)))
    preprocess = Classifier.load(TINY_MODEL).preprocess
    found = list(pieces.regions(Spec((str(path),), preprocess.to_json(), (str(TINY_MODEL),), (1, 3))))
    assert [region.kind for region in found] == ["decode", "resize", "infer", "infer"]
    for region in found:
        region.run()  # a second call does the same again
    _, resize, one, three = (region.run() for region in found)
    assert (one.shape[0], three.shape[0]) == (1, 3)
    assert resize.tobytes() == preprocess(str(path)).tobytes()


def executed(work):
    """(file, function) -> calls of the runtime's functions and of those of Pillow and numpy that it calls."""
    found = Counter()

    def see(frame, event, argument):
        code = frame.f_code
        if event == "call" and ("/edge/" in code.co_filename or "/PIL/" in code.co_filename):
            found[code.co_filename, code.co_name] += 1

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("kind", ["turned", "transparent", "grey"])
@pytest.mark.parametrize("planted", [False, True])
def test_whatever_the_runtime_does_to_a_photo_is_in_its_regions(kind, resize, planted, monkeypatch, tmp_path):
    """Also a loop around a step that somebody adds to it."""
    picture = photo(300, 200)
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encoded(picture, exif=exif)
    else:
        data = encoded(picture.convert("RGBA" if kind == "transparent" else "L"), "PNG")
    path = tmp_path / "photo"
    path.write_bytes(data)
    if planted:
        for name in ("_place", "_decode"):
            step = getattr(Preprocess, name)
            monkeypatch.setattr(Preprocess, name, lambda *a, step=step: [step(*a) for _ in range(10)][-1])
    preprocess, gate = Preprocess(resize=resize), MemoryGate()

    def shipped():
        with gate.image() as admit:
            return preprocess.load(str(path), admit=admit)

    whole = executed(shipped)
    decode, place = pieces.regions(Spec((str(path),), preprocess.to_json()))
    counted = executed(decode.run) + executed(place.run)
    assert {key: counted[key] for key, number in whole.items() if counted[key] < number} == {}
    resizes = [sum(n for (_, name), n in calls.items() if name == "resize") for calls in (whole, counted)]
    assert resizes[0] == resizes[1] and (resizes[0] >= 10) == planted
    assert place.run().tobytes() == shipped().pixels.tobytes()


def test_program_names_what_it_marks(tmp_path, capsys):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(photo()))
    spec = {"photos": [str(path)], "models": [str(TINY_MODEL)], "batches": [2]}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    try:
        assert pieces.main([str(tmp_path / "spec.json")]) == 0
    finally:
        gc.enable()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [["decode", str(path), 1], ["resize", str(path), 1], ["infer", str(TINY_MODEL), 2]]


def test_layers_are_those_of_the_network():
    found = board.layers(TINY_MODEL, runs=2)
    assert len(found) > 2 and all(layer["ms"] >= 0 for layer in found)
    assert any(layer["operator"] in ("Conv", "FusedConv") for layer in found)


def test_board_writes_a_report_that_only_a_pi_4_may_calibrate_with(measured, capsys):
    command, out, said = measured
    assert "self_test: ok" in said and "decode 64x48.jpg" in said and "slowest of" in said and "valid: NO" in said
    report = json.loads(out.read_bytes())
    assert {region["name"] for region in report["regions"]} == {"64x48.jpg", "96x64.jpg", TINY_MODEL.name}
    assert all(region["low_ms"] <= region["ms"] <= region["high_ms"] for region in report["regions"])
    assert report["latency"]["images"] == 100
    assert main([*command, str(out)]) == 2  # it exists
    assert main(["pi4b", "--calibrate", str(out)]) == 3
    assert "expected a Raspberry Pi 4 Model B" in capsys.readouterr().err


def counts_file(path, model, photos):
    """Counts of a model and photos, each region at 1.8 million cycles of instructions: a millisecond and no more."""
    zeros = ("simd_fma", "simd_int_mac", "simd_float", "simd_int", "branch_misses", "l1_misses", "l2_misses")
    kinds = [("infer", "mine.onnx"), *(("decode", name) for name in photos)]
    regions = [
        {"kind": kind, "name": name, "batch": 1, "instructions": 1_800_000, **dict.fromkeys(zeros, 0)}
        for kind, name in kinds
    ]
    found = {"schema": count.SCHEMA, "versions": {}, "models": {"mine.onnx": model}, "photos": photos}
    path.write_text(json.dumps({**found, "regions": regions}))
    return path


def test_counts_of_another_model_are_refused_before_the_measurement(tmp_path, capsys):
    digest, folder = Classifier.load(TINY_MODEL).sha256, tmp_path / "photos"
    other = counts_file(tmp_path / "other.json", "f00", {})
    options = ["--photos", str(folder), "-o", str(tmp_path / "board.json"), "--counts", str(other)]
    assert main(["board", "-m", str(TINY_MODEL), *options]) == 3
    said = capsys.readouterr().err
    assert f"{other}: counts of mine.onnx, expected tiny.onnx ({digest[:12]}), which is measured" in said
    assert not folder.exists()


def test_counts_beside_a_board_are_of_the_same_content(measured, monkeypatch, tmp_path, capsys):
    """By whatever name: another photo has no time beside it."""
    (command, first, _), out = measured, tmp_path / "board.json"
    monkeypatch.setattr("edge.selftest.environment_problem", lambda: None)  # as the first run has seen
    digest, common = Classifier.load(TINY_MODEL).sha256, [*command, str(out)]
    (path, _), (again, _) = estimate.write_photos(first.parent / "photos" / "sizes")
    photos = {"renamed.jpg": board.digests([str(path)])["64x48.jpg"], again.name: "f00"}
    assert main([*common, "--counts", str(counts_file(tmp_path / "counts.json", digest, photos))]) == 0
    lines = {line.split()[1]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if "decode" in line}
    assert float(lines["64x48.jpg"]) > 0 and lines["96x64.jpg"] == "-"
    assert json.loads(out.read_bytes())["photos"] == board.digests([str(path), str(again)])
