"""What run_accuracy.sh runs, on predictions that are made up: its numbers against the organisers' arithmetic."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from edge import cli as edge_cli
from edge.classifier import DEFAULT_MODEL
from edge.errors import InputError
from export.submission import accuracy
from export.submission.accuracy import run

SIZES = (("G6", 30, 0.8), ("G7", 24, 0.75), ("G8", 20, 0.7), ("G10", 10, 0.6))
COUNT = 84
CLASSES = ("BCC", "BKL", "MEL", "NV", "unknown", "VASC")


def organisers(root, predicted, reference):
    """Their test.py, in one line after another: every group's correct / total, the sum of distances to the reference's
    accuracy divided by the number of groups, 0 over 0.2. Over all images, where theirs drops an incomplete batch.

    Source: ESFair 2023, sample code, test.py (commit 882a2b6).
    """
    total = total_correct = 0
    accuracies = {}
    for group in sorted(path.name for path in root.iterdir()):
        correct = seen = 0
        for index, name in enumerate(CLASSES):
            folder = root / group / name
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                seen += 1
                if predicted[path.relative_to(root).as_posix()] == index:
                    correct += 1
        accuracies[group] = correct / seen
        total += seen
        total_correct += correct
    spd = 0.0
    for group in accuracies:
        spd += abs(accuracies[group] - accuracies[reference])
    spd = spd / len(accuracies)
    fairness = 0.0 if spd > 0.2 else (0.2 - spd) / 0.2
    return total_correct / total, spd, fairness


@pytest.fixture
def data(tmp_path):
    """Groups of unlike size and class mix; every image is one colour, which says what a stand-in model answers."""
    rng = np.random.default_rng(3)
    for group, count, rate in SIZES:
        for number in range(count):
            label = int(rng.integers(len(CLASSES)))
            answer = label if rng.random() < rate else int(rng.integers(len(CLASSES)))
            path = tmp_path / "data" / group / CLASSES[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (answer, 0, 0)).save(path)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def by_colour(monkeypatch):
    """The network answers by the red of the first pixel: what is tested is everything around it."""

    def logits(self, batch):
        middle = batch.shape[1] // 2
        return np.eye(len(self.classes), dtype=np.float32)[batch[:, middle, middle, 0].astype(int)] * 9

    monkeypatch.setattr("edge.classifier.Classifier.logits", logits)


def go(data, output, reference="G10"):
    said = []
    status = run(data, DEFAULT_MODEL, output, profile="esfair2023", reference=reference, tell=said.append)
    return status, said


def rows(output):
    with open(output / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("missing", [None, "G10", "G6"])
def test_the_organisers_arithmetic_over_all_images_gives_the_same(data, tmp_path, missing):
    if missing:
        shutil.rmtree(data / missing)
    status, said = go(data, tmp_path / "out")
    assert status == 0
    predicted = {row["path"]: int(row["label_index"]) for row in rows(tmp_path / "out")}
    assert len(predicted) == sum(path.is_file() for path in data.rglob("*"))
    reference = "G8" if missing == "G10" else "G10"  # the fewest images
    expected = organisers(data, predicted, reference)
    assert 0 < expected[2] < 1
    contest = json.loads((tmp_path / "out/results.json").read_text())["score"]
    found = [contest[name]["value"] for name in ("accuracy", "spd", "fairness")]
    assert found == pytest.approx(expected, abs=1e-12)
    printed = [float(line.rpartition(" = ")[2]) for line in said[-4:-1]]
    assert printed == pytest.approx(expected, abs=1e-12)
    assert any("no group G10" in line for line in said) == (missing == "G10")


def test_unfair_is_nought(data, tmp_path):
    shutil.rmtree(data / "G10")
    for number, name in enumerate(CLASSES * 3):
        path = data / "G10" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), ((CLASSES.index(name) + 1) % 6, 0, 0)).save(path)
    go(data, tmp_path / "out")
    predicted = {row["path"]: int(row["label_index"]) for row in rows(tmp_path / "out")}
    contest = json.loads((tmp_path / "out/results.json").read_text())["score"]
    assert organisers(data, predicted, "G10")[2] == contest["fairness"]["value"] == 0


def test_odd_names_are_scored(data, tmp_path):
    names = {"G6/NV/IMG.PNG", "G6/NV/a b.png", "G6/NV/läsion.png"}
    for name in names:
        Image.new("RGB", (4, 4), (3, 0, 0)).save(data / name, "PNG")
    status, _ = go(data, tmp_path / "out")
    assert status == 0
    assert [row["label"] for row in rows(tmp_path / "out") if row["path"] in names] == ["NV"] * 3
    assert names <= {*json.loads((tmp_path / "out/results.json").read_text())["samples"]["path"]}


def test_images_outside_class_folders_get_a_row_and_no_score(data, tmp_path):
    image = data / "stray.png"
    Image.new("RGB", (4, 4)).save(image)
    Image.new("RGB", (4, 4)).save(data / "G6/stray too.png")
    status, said = go(data, tmp_path / "out")
    assert status == 0
    assert "2 images lie in no class folder and are not scored, as stray.png" in said
    assert len(rows(tmp_path / "out")) == COUNT + 2
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert len(results["samples"]["path"]) == COUNT
    assert "outside_profile" not in results["predictions"] and results["predictions"]["classes"]  # strays too


def test_a_broken_image_counts_as_wrong(data, tmp_path):
    (data / "G6/NV/broken.png").write_bytes(b"\x89PNG")
    status, said = go(data, tmp_path / "out")
    assert status == 1
    assert said[0] == f"{COUNT + 1} images, 1 of them could not be used"
    assert json.loads((tmp_path / "out/results.json").read_text())["score"]["accuracy"]["n"] == COUNT + 1


def test_groups_without_labels(data, tmp_path):
    for path in list(data.rglob("*.png")):
        path.rename(data / path.parent.parent.name / f"{path.parent.name}-{path.name}")
    for folder in [path for path in data.glob("*/*") if path.is_dir()]:
        folder.rmdir()
    status, said = go(data, tmp_path / "out")
    assert status == 0
    assert len(rows(tmp_path / "out")) == COUNT
    assert "no labels: predictions alone" in said
    assert [line.split(":")[0].strip() for line in said[-4:]] == ["G10", "G6", "G7", "G8"]
    assert not (tmp_path / "out/results.json").exists()


def test_one_folder_of_images_and_no_result_of_an_earlier_run(data, tmp_path):
    go(data, tmp_path / "out")
    assert (tmp_path / "out/results.json").exists()
    status, said = go(data / "G6/NV", tmp_path / "out")
    assert status == 0
    assert said[-1].startswith("  -: ")
    assert not (tmp_path / "out/results.json").exists()


def test_folders_that_are_no_classes_are_no_labels(data, tmp_path):
    status, said = go(data.parent, tmp_path.parent / "elsewhere")  # data/G6/NV: one folder more than expected
    assert status == 0
    assert "no labels: predictions alone" in said


def test_one_group_has_nothing_to_be_compared_with(data, tmp_path):
    for group in ("G6", "G7", "G8"):
        shutil.rmtree(data / group)
    status, said = go(data, tmp_path / "out")
    assert status == 0
    assert said[-1].startswith("G10 is the only group: there is none to compare it with")


def test_a_class_that_the_model_does_not_know_is_named(data, tmp_path):
    (data / "G6/NV").rename(data / "G6/nevus")
    with pytest.raises(InputError, match="got class 'nevus', expected those of the model: BCC, .*predictions.csv"):
        go(data, tmp_path / "out")
    assert len(rows(tmp_path / "out")) == COUNT


def test_a_manifest_is_taken_for_labels(data, tmp_path):
    names = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))
    lines = [f"{name},{name.split('/')[1]},{name.split('/')[0]}\n" for name in names]
    (data / "manifest.csv").write_text("path,class,group\n" + "".join(lines))
    assert go(data, tmp_path / "out")[0] == 0
    (data / "manifest.csv").write_text("path,group\n")
    with pytest.raises(ValueError, match="no column class"):
        go(data, tmp_path / "out")


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        go(tmp_path / "absent", tmp_path / "out")


def test_no_images(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert go(tmp_path / "empty", tmp_path / "out")[0] == 3
    assert "no images" in capsys.readouterr().err


def test_an_interruption_keeps_its_status(data, tmp_path, monkeypatch):
    monkeypatch.setattr(edge_cli, "main", lambda argv: 130)
    assert go(data, tmp_path / "out") == (130, [])
    assert accuracy.PREDICTIONS not in {path.name for path in (tmp_path / "out").iterdir()}
