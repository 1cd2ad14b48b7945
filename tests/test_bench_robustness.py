"""The streaming run, its figures, its gates and its one-line refusals."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from sample_images import TINY_MODEL, encoded, photo

from bench import dataset, provenance
from bench.cli import main
from bench.metrics.contest import PROFILES
from bench.metrics.evaluation import Frame, Observations, Setting
from bench.report import page as report
from bench.robustness import changes as table_of_changes
from bench.robustness import measure
from bench.robustness.changes import CHANGES, Change
from bench.robustness.result import ask, robustness
from edge.classifier import Classifier
from edge.errors import ModelError

CLASSES = ("ash", "birch", "cedar")
BY_NAME = {change.name: change for change in CHANGES}
FEW = tuple(BY_NAME[name] for name in ("border-black-1:1", "noise-25", "jpeg-30", "turn-90", "turn-mirror-270"))


def command(*arguments):
    try:
        return main(["robustness", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(TINY_MODEL)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 photos: three classes, two groups, two photos in most clusters."""
    root = tmp_path_factory.mktemp("data")
    rows = [["path", "class", "group", "cluster"]]
    for i in range(24):
        label = CLASSES[i % 3]
        path = f"{label}/img{i}.jpg"
        (root / label).mkdir(exist_ok=True)
        (root / path).write_bytes(encoded(photo(64, 48, seed=i)))
        rows.append([path, label, f"g{i // 3 % 2}", f"patient{i // 6}-{i % 3}"])
    with open(root / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture
def few(monkeypatch):
    """The command with a few changes: the whole table has photos of 20 megapixels."""
    monkeypatch.setattr(table_of_changes, "CHANGES", FEW)


@pytest.fixture(scope="module")
def result(classifier, data):
    return robustness(classifier, data, FEW, draws=200)


def test_the_answers_are_those_of_the_runtime_to_the_changed_files(classifier, data):
    samples = dataset.index(data)[:3]
    found = list(ask(classifier, data, samples, FEW, workers=1))
    for sample, probabilities in zip(samples, found, strict=True):
        assert probabilities.shape == (1 + len(FEW), 3)
        with Image.open(data / sample.path) as image:
            files = [change.file_of(image) for change in FEW]
        for own, row in zip(classifier.predict([data / sample.path, *files], workers=1), probabilities, strict=True):
            np.testing.assert_allclose(own.probabilities, row, atol=1e-6)
    assert len({row.tobytes() for row in found[0]}) > len(FEW)  # each change is one


def test_equal_runs_give_equal_bytes_whatever_the_workers(classifier, data, result):
    for workers in (1, 3):
        again = robustness(classifier, data, FEW, draws=200, workers=workers)
        assert json.dumps(again, allow_nan=False) == json.dumps(result, allow_nan=False)
    backwards = [sample.path for sample in dataset.index(data)[::-1]]
    some = robustness(classifier, data, FEW, draws=200, subset=backwards[:12])
    all_of_noise = dict(zip(result["samples"]["path"], result["robustness"]["samples"]["noise-25"], strict=True))
    for path, answer in zip(some["samples"]["path"], some["robustness"]["samples"]["noise-25"], strict=True):
        assert answer == all_of_noise[path]  # noise goes with the picture, not with its place


def test_it_streams(classifier, data):
    taken = []

    def samples():
        for sample in dataset.index(data):
            taken.append(sample)
            yield sample

    answers = ask(classifier, data, samples(), FEW[:1], workers=2)
    next(answers)
    assert len(taken) <= 5  # two for each worker, and the one that is out
    answers.close()


def test_every_change_of_the_table_can_be_asked_about(classifier, data):
    one, = ask(classifier, data, dataset.index(data)[:1], CHANGES)
    assert one.shape == (57, 3) and np.isfinite(one).all()


def test_a_picture_held_sideways_and_one_with_transparency(classifier, data, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    upright = photo(64, 48)
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    upright.save(tmp_path / "up.png")
    clear = upright.convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    Image.new("RGB", (64, 48), "white").save(tmp_path / "white.png")
    samples = [dataset.Sample(name, "ash", "g", name) for name in ("side.png", "up.png", "clear.png", "white.png")]
    side, up, transparent, white = ask(classifier, tmp_path, samples, FEW)
    np.testing.assert_allclose(side[1:], up[1:], atol=1e-6)
    np.testing.assert_allclose(transparent[1:], white[1:], atol=1e-6)


# The figures


def observed(y_true, y_pred, group):
    places = np.arange(len(y_true))
    data = Observations(list(CLASSES), ["g0", "g1"], *map(np.array, (y_true, y_pred, group)), places)
    return data, Frame(data.counts, data.groups, Setting(PROFILES["esfair2023"], "g0", draws=200))


def test_figures_by_hand():
    y_true = np.array([0] * 10 + [1] * 10)
    group = np.tile([0] * 5 + [1] * 5, 2)
    clean = y_true.copy()
    clean[0] = 2  # one of group 0 is wrong as it is
    turned, other = clean.copy(), clean.copy()
    turned[5:10] = 1  # and all of class 0 in group 1, once turned
    other[0] = 0  # right again
    labels = np.stack([clean, turned, other], 1)
    confidences = np.tile(np.float32([0.9, 0.5, 0.8]), (20, 1))
    changes = (Change("turn", "90"), Change("turn", "180"))
    data, frame = observed(y_true, clean, group)
    part = measure.measure(labels, confidences, changes, data, frame)
    assert part["clean"]["accuracy"]["value"] == 0.95
    assert part["clean"]["by_group"]["g1"]["value"] == 1
    first, second = part["changes"]
    assert (first["accuracy"]["value"], second["accuracy"]["value"]) == (0.7, 1)
    assert first["balanced_accuracy"]["value"] == pytest.approx((0.4 + 1) / 2)
    assert first["worst_group"]["value"] == 0.5 and part["clean"]["worst_group"]["value"] == 0.9
    assert first["by_group"] == {"g0": {**first["by_group"]["g0"], "value": 0.9},
                                 "g1": {**first["by_group"]["g1"], "value": 0.5}}
    assert first["difference"]["accuracy"]["value"] == pytest.approx(-0.25)
    assert first["difference"]["worst_group"]["value"] == pytest.approx(-0.4)
    assert first["changed"]["value"] == 0.25 and second["changed"]["value"] == 0.05
    assert first["confidence_change"] == {"value": 0.4, "low": None, "high": None, "n": 20}
    mean = part["turn_mean"]
    assert mean["name"] == "turn-mean"
    assert mean["accuracy"]["value"] == pytest.approx(0.85) and mean["changed"]["value"] == pytest.approx(0.15)
    assert mean["difference"]["accuracy"]["value"] == pytest.approx(-0.1)
    assert mean["confidence_change"]["value"] == pytest.approx(0.25)
    for row in (first, second, mean):
        for metric in (row["accuracy"], row["worst_group"], row["changed"], *row["difference"].values()):
            assert metric["low"] <= metric["value"] <= metric["high"] and metric["n"] == 20
    assert first["difference"]["accuracy"]["high"] < 0 and measure.is_other(first["difference"]["accuracy"])
    assert not measure.is_other(second["difference"]["accuracy"])  # one image of 20


def test_the_files_as_they_are_have_the_figures_of_score(result):
    clean = result["robustness"]["clean"]
    assert clean["accuracy"] == result["accuracy"] and clean["balanced_accuracy"] == result["balanced_accuracy"]
    assert clean["worst_group"] == {key: result["fairness"]["worst_group"][key] for key in clean["worst_group"]}


def test_a_difference_is_known_better_than_its_ends():
    rng = np.random.default_rng(0)
    y_true, group = rng.integers(0, 3, 300), np.arange(300) % 2
    clean = np.where(rng.random(300) < 0.7, y_true, (y_true + 1) % 3)
    changed = np.where(rng.random(300) < 0.03, (clean + 1) % 3, clean)
    data, frame = observed(y_true, clean, group)
    labels, confidences = np.stack([clean, changed], 1), np.ones((300, 2), np.float32)
    row, = measure.measure(labels, confidences, (Change("crop", "1:1"),), data, frame)["changes"]

    def width(metric):
        return metric["high"] - metric["low"]

    assert width(row["difference"]["accuracy"]) < width(row["accuracy"]) / 2
    assert 0 < row["changed"]["value"] < 0.06


def arrange(root, data, samples, group=None):
    """Copies images into a tree, all into one group where it is given."""
    for sample in samples:
        folder = root / (group or sample.group) / sample.label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / Path(sample.path).name).write_bytes((data / sample.path).read_bytes())


def test_an_unusable_picture_is_wrong_everywhere(classifier, data, tmp_path):
    arrange(tmp_path, data, dataset.index(data)[:23])
    (tmp_path / "g1" / "ash" / "broken.jpg").write_bytes(b"\xff\xd8\xff cut")
    found = robustness(classifier, tmp_path, FEW[:2], draws=200)
    assert found["errors"] == {"policy": "wrong", "images": 1} and found["accuracy"]["n"] == 24
    place = found["samples"]["path"].index("g1/ash/broken.jpg")
    assert found["samples"]["prediction"][place] is None
    part = found["robustness"]
    assert all(answers[place] == -1 for answers in part["samples"].values())
    assert part["changes"][0]["confidence_change"]["n"] == 23 and part["changes"][0]["changed"]["n"] == 24
    assert any("1 images cannot be used: wrong in every row, first g1/ash/broken.jpg" in r for r in part["remarks"])


def test_small_groups_are_not_the_worst(classifier, data, tmp_path):
    samples = dataset.index(data)
    arrange(tmp_path, data, samples[:2], "few")
    arrange(tmp_path, data, samples[2:])
    part = robustness(classifier, tmp_path, FEW[:1], draws=200)["robustness"]
    assert part["clean"]["by_group"]["few"]["n"] == 2
    assert part["clean"]["worst_group"]["n"] == 22 and part["clean"]["worst_group"]["low"] is not None
    assert "group few has 2 images, under 10: not in worst group" in part["remarks"]


def test_groups_of_another_column(classifier, data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    sexes = ["sex", *("" if i < 4 else "male" if i % 2 else "female" for i in range(24))]
    lines = (root / "manifest.csv").read_text().splitlines()
    rows = [f"{line},{sex}\n" for line, sex in zip(lines, sexes, strict=True)]
    (root / "manifest.csv").write_text("".join(rows))
    found = robustness(classifier, root, FEW[:1], draws=200, group_column="sex")
    clean = found["robustness"]["clean"]
    assert {group: metric["n"] for group, metric in clean["by_group"].items()} == {
        "female": 10, "male": 10, "not stated": 4
    }
    assert clean["worst_group"]["n"] == 20 and found["data"]["group_column"] == "sex"


def test_one_group_has_no_worst(classifier, data, tmp_path):
    arrange(tmp_path, data, dataset.index(data)[:12], "all")
    found = robustness(classifier, tmp_path, FEW[:1], draws=200)
    part = found["robustness"]
    assert part["clean"]["worst_group"] == {"value": None, "low": None, "high": None, "n": 12}
    assert "fewer than two groups to compare: no worst group" in part["remarks"]
    assert any("fewer than two groups" in line for line in measure.remarks(found))
    assert len(list(measure.table(part))) == 3
    checked, = measure.check_gates(part, {"worst_group": 0.1})
    assert not checked["passed"] and checked["reason"] == "not defined"


# The command


def test_the_table_the_file_and_the_page(few, data, result, tmp_path, capsys, monkeypatch):
    assert command(data, "-m", TINY_MODEL, "-o", tmp_path / "r.json", "--fail-under", "unchanged=0") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 3 + len(FEW) and lines[1].startswith("as they are")
    assert lines[2].startswith("border-black-1:1") and lines[-1].startswith("turn-mean")
    assert "tiny.onnx: which images it was trained on is not known" in captured.err
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved["schema"] == "edge-bench/1" and saved["gates"][0]["passed"]
    assert saved["robustness"]["samples"] == result["robustness"]["samples"]
    assert main(["show", str(tmp_path / "r.json")]) == 0
    assert capsys.readouterr().out == captured.out
    assert command(data, "-m", TINY_MODEL, "-o", tmp_path / "r.json") == 2  # nothing is written over
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("bench.report.plots.svg", lambda name, *_, **__: f'<svg id="{name}"></svg>')  # drawing is slow
    page = report.render(report.load([tmp_path / "r.json"]))
    assert page["index.html"].count("a-robustness-") and "edge-bench robustness -m tiny.onnx" in page["index.html"]
    assert "turn-mirror-270" in page["index.html"] and "noise-25" in page["summary.md"]
    rows = list(csv.DictReader(page["robustness.csv"].splitlines()))
    names = {(row["change"], row["metric"], row["group"]) for row in rows}
    assert {("", "accuracy", "g0"), ("jpeg-30", "difference.worst_group", ""), ("turn-mean", "changed", "")} <= names


def test_a_gate_that_fails_is_said_and_is_status_6(few, data, capsys):
    gate = "--fail-under"
    assert command(data, "-m", TINY_MODEL, "-q", gate, "turn-mean.unchanged=0", gate, "border.accuracy=1") == 6
    assert capsys.readouterr().err.startswith("edge-bench: gate failed: border.accuracy is 0.")


def test_some_changes_alone(few, data, tmp_path):
    asked = ["--only", "border", "--only", "jpeg", "--fail-under", "jpeg.accuracy=0"]
    assert command(data, "-m", TINY_MODEL, "-q", *asked, "-o", tmp_path / "r.json") == 0
    found = json.loads((tmp_path / "r.json").read_text())["robustness"]
    assert {row["kind"] for row in found["changes"]} == {"border-black", "jpeg"} and found["turn_mean"] is None


def test_a_gate_looks_at_the_least_of_what_it_names():
    def row(name, kind, accuracy, changed):
        return {"name": name, "kind": kind, "accuracy": {"value": accuracy}, "changed": {"value": changed}}

    part = {
        "changes": [row("border-edge-1:1", "border-edge", 0.7, 0.1), row("border-edge-3:4", "border-edge", 0.6, 0.4),
                    row("border-black-1:1", "border-black", 0.5, 0.2), row("turn-90", "turn", 0.9, 0.3)],
        "turn_mean": row("turn-mean", "", 0.8, 0.25),
    }
    minima = {"accuracy": 0.5, "border.accuracy": 0.51, "border-edge.accuracy": 0.6, "border-edge-1:1.unchanged": 0.9,
              "turn-mean.unchanged": 0.75, "turn.unchanged": 0.75}
    checked = measure.check_gates(part, minima)
    assert [gate["value"] for gate in checked] == [0.5, 0.5, 0.6, 0.9, 0.75, pytest.approx(0.7)]
    assert [gate["passed"] for gate in checked] == [True, False, True, True, True, False]


def test_names_cannot_become_markup(result):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    hostile = json.loads(json.dumps({**result, "gates": []}).replace("g0", "<script>").replace('"turn-', '"<b>-'))
    contents = report.render({"r": hostile})
    assert "<script>" not in contents["index.html"] and "<b>" not in contents["index.html"].split("robustness", 1)[1]
    assert "&lt;script&gt;" in contents["index.html"] and "&lt;b&gt;-90" in contents["index.html"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--fail-under", "f1=0.5"], 2, "--fail-under f1: got 'f1', expected one of accuracy, balanced_accuracy"),
        (["--fail-under", "rain.accuracy=0.5"], 2, "got 'rain', expected a change by its name in the table, or"),
        (["--only", "rain"], 2, "--only: got 'rain', expected a kind of change, one of border-black"),
        (["--only", "jpeg", "--fail-under", "turn-mean.accuracy=0.1"], 2, "got 'turn-mean', expected a change"),
        (["--fail-under", "accuracy=2"], 2, "expected a number from 0 to 1"),
        (["--fail-under", "accuracy=0.1", "--fail-under", "accuracy=0.2"], 2, "is given twice"),
        (["--subset", "empty.txt"], 3, "empty.txt: is empty, expected paths of images, one a line"),
        (["--subset", "gone.txt"], 3, "gone.txt: cannot be read"),
        (["--subset", "one.txt"], 3, "got 1 images, expected at least 10"),
        (["--subset", "other.txt"], 3, "names 1 paths that are no image of the data, first ash/x.jpg"),
        (["--label", "disease"], 3, "no column disease"),
        (["--group", "age"], 3, "no column age"),
        (["--label", "group"], 3, "the data set has the class 'g0', but the model knows only ash, birch, cedar"),
        (["-m", "gone.onnx"], 4, "gone.onnx: no such model file"),
        (["-o", "gone/r.json"], 5, "gone"),
    ],
)
def test_bad_input_is_one_line(few, data, tmp_path, monkeypatch, capsys, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    for name, content in (("empty", "\n"), ("one", "ash/img0.jpg\n"), ("other", "ash/img0.jpg\nash/x.jpg\n")):
        (tmp_path / f"{name}.txt").write_text(content)
    model = [] if "-m" in arguments else ["-m", TINY_MODEL]
    assert command(data, *model, *arguments, "-q") == status
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1


def test_an_empty_set_and_one_without_a_usable_image(few, classifier, tmp_path, capsys):
    assert command(tmp_path, "-m", TINY_MODEL) == 3
    assert "no images, expected" in capsys.readouterr().err
    for i in range(10):
        (tmp_path / "g" / "ash").mkdir(parents=True, exist_ok=True)
        (tmp_path / "g" / "ash" / f"{i}.jpg").write_bytes(b"no picture")
    assert command(tmp_path, "-m", TINY_MODEL, "-q") == 3
    assert "none of 10 images can be used, first g/ash/0.jpg: not a known image format" in capsys.readouterr().err


# What the model was trained on


def trained(path, marks_of, **quantization):
    model = onnx.load(TINY_MODEL)
    digest = hashlib.sha256("\n".join(sorted(marks_of)).encode()).hexdigest()
    metadata = {"training": json.dumps({"cluster_sha256": digest})}
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def test_pictures_that_the_model_was_trained_on_are_refused(few, data, tmp_path, capsys):
    samples = dataset.index(data)
    held_out = [sample for sample in samples if sample.cluster.startswith(("patient2", "patient3"))]
    rest = provenance.cluster_marks(sample for sample in samples if sample not in held_out)
    model = trained(tmp_path / "model.int8.onnx", rest)
    metadata = Classifier.load(model).metadata
    assert provenance.seen_samples(model, metadata, held_out, samples, data) == []  # all but those asked about
    assert provenance.seen_samples(model, metadata, samples, samples, data) is None
    (tmp_path / "model.heldout.txt").write_text("\n".join(sample.path for sample in held_out))
    assert command(data, "-m", model) == 3
    captured = capsys.readouterr()
    assert "model.int8.onnx: was trained on 12 of the 24 images, or on others of their clusters" in captured.err
    assert captured.out == "" and captured.err.count("\n") == 1
    assert command(data, "-m", model, "--allow-seen", "-o", tmp_path / "seen.json") == 0
    assert "was trained on 12 of these images" in capsys.readouterr().err
    assert json.loads((tmp_path / "seen.json").read_text())["robustness"]["seen"] == 12


def test_what_a_model_was_trained_on_is_found_or_said_to_be_unknown(data, tmp_path):
    samples = dataset.index(data)

    def seen(model, asked):
        found = provenance.seen_samples(model, Classifier.load(model).metadata, asked, samples, data)
        return None if found is None else len(found)

    everything = trained(tmp_path / "a.onnx", provenance.cluster_marks(samples))
    assert (seen(everything, samples), seen(everything, samples[:5])) == (24, 5)
    assert seen(trained(tmp_path / "b.onnx", provenance.cluster_marks(samples[:6])), samples[:6]) == 6
    pictures = provenance.picture_marks(data, samples[6:])  # of a student whose teacher saw the same
    taught = trained(tmp_path / "d.onnx", {*provenance.cluster_marks(samples[6:]), *pictures})
    assert (seen(taught, samples[:6]), seen(taught, samples[6:])) == (0, 18)
    elsewhere = trained(tmp_path / "c.onnx", ["0123456789abcdef"])
    assert seen(elsewhere, samples) is None
    (tmp_path / "c.heldout.txt").write_bytes(b"\xff")  # a list that is none says nothing
    assert seen(elsewhere, samples) is None and seen(TINY_MODEL, samples) is None


def test_logits_that_are_no_numbers_stop_the_run(classifier, data, monkeypatch):
    monkeypatch.setattr(Classifier, "logits", lambda self, batch: np.full((len(batch), 3), np.nan, np.float32))
    with pytest.raises(ModelError, match="tiny.onnx: gives logits that are not finite, for .*img0.jpg"):
        list(ask(classifier, data, dataset.index(data)[:2], FEW[:1]))
