import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from sample_networks import dataset

from train import checkpoint as checkpoints
from train.checkpoint import CheckpointError
from train.cli import main
from train.bias import class_bias

FAST = ["--recipe", "smoke", "--network", "mobilenet_v3_small", "--batch-size", "6", "--epochs", "1"]
FAST += ["--steps-per-epoch", "2", "-q"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set, three folds, a start, two runs from it that keep fold 1 for search, and a run that holds out 2."""
    root = tmp_path_factory.mktemp("derive")
    data = dataset(root / "data", 36)
    folds = root / "folds.csv"
    assert main(["folds", str(data), "-o", str(folds), "--folds", "3", "-q"]) == 0
    fit = ["fit", str(data), "--folds", str(folds), *FAST]
    apart = ["--hold-out", "0", "--search", "1"]
    assert main([*fit, *apart, "--out", str(root / "start")]) == 0
    for seed in "12":
        command = [*fit, *apart, "--weights", str(root / "start"), "--seed", seed, "--out", str(root / seed)]
        assert main([*command, "--head", "cosine", "--neck"]) == 0
    assert main([*fit, "--hold-out", "2", "--out", str(root / "other")]) == 0
    return root


def test_what_comes_of_a_leaky_run_is_leaky(place, tmp_path):
    leaky = tmp_path / "leaky"
    shutil.copytree(place / "2", leaky)
    checkpoints.save(dataclasses.replace(checkpoints.load(leaky), leaky=True), leaky / "checkpoint.pt")
    out = tmp_path / "refit"
    assert main(["refit", str(place / "data"), str(leaky), "--out", str(out), "-q"]) == 0
    state = checkpoints.load(out)
    assert state.leaky and state.data_name == "data (LEAKY)" and (out / "LEAKY.txt").exists()
    assert all(json.loads((out / name).read_text())["leaky"] for name in ("config.json", "metrics.json"))
    runs = [leaky, place / "other"]
    found = class_bias(place / "data", runs, label_column="class", objective="balanced")
    assert found["leaky"] is True


def test_a_list_of_held_out_images_that_lies_is_found(place, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(place / "1", run)
    (run / "heldout.txt").write_text((place / "other" / "heldout.txt").read_text())
    assert main(["refit", str(place / "data"), str(run), "--out", str(tmp_path / "x")]) == 6
    assert "was trained on" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_refit_replaces_the_head_alone(place, tmp_path):
    out = tmp_path / "refit"
    assert main(["refit", str(place / "data"), str(place / "1"), "--out", str(out)]) == 0
    state, old = checkpoints.load(out), checkpoints.load(place / "1")
    assert state.config["model"]["head"] == "linear" and not state.config["model"]["neck"]
    assert all(torch.equal(t, old.weights[name]) for name, t in state.weights.items() if name.startswith("body."))
    assert sorted(n for n in state.weights if n.startswith("head.")) == ["head.fc.bias", "head.fc.weight"]
    assert state.metrics["accuracy"]["n"] == 12


def test_refit_to_other_labels(place, tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "coarse"
    shutil.copytree(place / "data", data)
    with (data / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (data / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "coarse"])
        writer.writeheader()
        writer.writerows({**row, "coarse": "conifer" if row["class"] == "Cedar" else "broadleaf"} for row in rows)
    refit = ["refit", str(data), str(place / "other"), "--label", "coarse", "--balance", "none", "--out", str(out)]
    assert main(refit) == 0
    state = checkpoints.load(out)
    assert state.classes == ["broadleaf", "conifer"] and state.weights["head.fc.weight"].shape[0] == 2
    assert state.recipe == "refit (--label coarse --balance none) of smoke"
    assert sorted(state.metrics["by_class"]) == state.classes and state.metrics["accuracy"]["n"] == 12
    evidence = ["collect", str(data), str(out), "--label", "coarse", "--name", "coarse", "--out", str(tmp_path / "set")]
    assert main(evidence) == 0 and "refit (--label coarse" in capsys.readouterr().err


def test_class_bias_of_out_of_fold_predictions(place, tmp_path, capsys):
    out = tmp_path / "bias.json"
    runs = [str(place / "1"), str(place / "other")]
    assert main(["bias", str(place / "data"), *runs, "-o", str(out), "--objective", "balanced"]) == 0
    found = json.loads(out.read_text())
    assert found["images"] == 24 and found["folds"] == [0, 2] and found["classes"] == ["ash", "birch", "Cedar"]
    assert len(found["bias"]) == 3 and abs(np.sum(found["bias"])) < 1e-5
    assert f"balanced {found['before']:.4f}, with offsets" in capsys.readouterr().out
    by_label = ["bias", str(place / "data"), *runs, "-o", str(out), "--force", "--group", "class"]
    assert main([*by_label, "--reference", "birch"]) == 0 and json.loads(out.read_text())["objective"] == "contest"
    capsys.readouterr()
    assert main(["bias", str(place / "data"), str(place / "1"), str(place / "2"), "-o", str(out), "--force"]) == 3
    assert "held out by two of the runs" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no held-out predictions"):
        (tmp_path / "bare").mkdir()
        (tmp_path / "bare" / "checkpoint.pt").write_bytes((place / "1" / "checkpoint.pt").read_bytes())
        class_bias(place / "data", [tmp_path / "bare"], label_column="class", objective="contest")


def test_shift_adds_the_offsets_and_measures_anew(place, tmp_path, capsys):
    bias, out = tmp_path / "bias.json", tmp_path / "shifted"
    data, run = str(place / "data"), str(place / "other")
    fitted = ["bias", data, str(place / "start"), "-o", str(bias), "--objective", "accuracy", "--form", "prior"]
    assert main(fitted) == 0
    found = json.loads(bias.read_text())
    assert found["folds"] == [0] and found["form"] == "prior"
    found["bias"] = [20.0, -10.0, -10.0]  # all are ash now
    bias.write_text(json.dumps(found))
    assert main(["shift", data, run, "--bias", str(bias), "--out", str(out)]) == 0
    old, new = checkpoints.load(place / "other"), checkpoints.load(out)
    assert torch.equal(new.weights["head.fc.bias"], old.weights["head.fc.bias"] + torch.tensor(found["bias"]))
    assert all(torch.equal(t, old.weights[name]) for name, t in new.weights.items() if name != "head.fc.bias")
    assert new.recipe == "smoke with class offsets (accuracy, prior)"
    assert new.metrics["accuracy"]["n"] == 12
    with (out / "heldout_predictions.csv").open(newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"ash"}
    assert main(["shift", data, run, "--bias", str(bias), "--out", str(out)]) == 2


def test_shift_refuses_offsets_fitted_on_what_it_is_measured_on(place, tmp_path, capsys):
    bias, good = tmp_path / "bias.json", tmp_path / "good.json"
    data, shifted = str(place / "data"), ["--out", str(tmp_path / "x")]
    assert main(["bias", data, str(place / "start"), str(place / "other"), "-o", str(bias)]) == 0
    assert main(["shift", data, str(place / "other"), "--bias", str(bias), *shifted]) == 6
    assert "fitted on the held-out images of folds 0, 2" in capsys.readouterr().err
    assert main(["bias", data, str(place / "start"), "-o", str(good)]) == 0
    found = json.loads(good.read_text())
    assert main(["shift", data, str(place / "1"), "--bias", str(good), *shifted]) == 4
    assert "has cosines for logits" in capsys.readouterr().err
    for content, said in ((b"", "no JSON"), (b"\xff", "no JSON"), (b"[]", "got a list"), (b"[" * 99999, "no JSON")):
        bias.write_bytes(content)
        assert main(["shift", data, str(place / "other"), "--bias", str(bias), *shifted]) == 3
        assert f"{said}, expected a file of edge-train bias" in capsys.readouterr().err
    for damage, status, said in (
        ({"folds_sha256": ["0" * 64]}, 6, "of another folds file"),
        ({"classes": ["ash"], "bias": [0.5]}, 4, "offsets of ash, expected those of ash, birch, Cedar"),
        ({"bias": [0.0, float("nan"), 0.0]}, 3, "bias: got 0, nan, 0, expected a finite number for each"),
        ({"bias": [True, False, True]}, 3, "expected a list of float"),
        ({"folds": []}, 3, "folds: got '[]', expected a list of int or null"),
        ({"folds": "12"}, 3, "folds: got '12'"),
        ({"objective": "a\nb"}, 3, "expected contest or balanced or accuracy"),
        ({"leaky": "no"}, 3, "leaky: got 'no', expected true or false"),
    ):
        bias.write_text(json.dumps({**found, **damage}))
        assert main(["shift", data, str(place / "other"), "--bias", str(bias), *shifted]) == status
        assert said in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_offsets_of_a_leaky_run_make_a_leaky_run(place, tmp_path):
    bias, out = tmp_path / "bias.json", tmp_path / "x"
    assert main(["bias", str(place / "data"), str(place / "start"), "-o", str(bias)]) == 0
    bias.write_text(json.dumps({**json.loads(bias.read_text()), "leaky": True}))
    assert main(["shift", str(place / "data"), str(place / "other"), "--bias", str(bias), "--out", str(out)]) == 0
    assert checkpoints.load(out).leaky and "bias.json" in (out / "LEAKY.txt").read_text()


def test_offsets_are_added_once_and_told_by_the_tables_alone(place, tmp_path, capsys):
    bias, out, data = tmp_path / "bias.json", tmp_path / "x", str(place / "data")
    assert main(["bias", data, str(place / "start"), "-o", str(bias)]) == 0
    shift = ["shift", data, str(place / "other"), "--bias", str(bias), "--out"]
    assert main([*shift, str(out)]) == 0
    assert main(["shift", data, str(out), "--bias", str(bias), "--out", str(tmp_path / "y")]) == 4
    assert main(["collect", data, str(out), "--name", "x", "--out", str(tmp_path / "set")]) == 4
    assert capsys.readouterr().err.count("has class offsets") == 2
    assert main([*shift, str(place / "other"), "--force"]) == 2  # itself


def test_a_new_run_is_there_whole_or_not_at_all(place, tmp_path, capsys, monkeypatch):
    bias, out, data = tmp_path / "bias.json", tmp_path / "x", tmp_path / "data"
    shutil.copytree(place / "data", data)
    assert main(["bias", str(data), str(place / "start"), "-o", str(bias)]) == 0
    shift = ["shift", str(data), str(place / "other"), "--bias", str(bias), "--out", str(out)]
    assert main([*shift, "--label", "group"]) == 3
    assert "got an image of the class 'g1', expected one of ash, birch, Cedar" in capsys.readouterr().err
    named = data / (place / "other" / "heldout.txt").read_text().splitlines()[0]
    named.write_bytes(b"")
    assert main(shift) == 3 and not (out / "checkpoint.pt").exists()
    assert named.name in capsys.readouterr().err
    manifest = data / "manifest.csv"
    rows = manifest.read_text().splitlines()
    manifest.write_text("".join(f"{row}\n" for row in rows if named.name not in row))
    assert main(shift) == 3
    assert "1 of 12 images are not in the data set" in capsys.readouterr().err

    def interrupted(*_):
        raise KeyboardInterrupt

    manifest.write_text("".join(f"{row}\n" for row in rows))
    shutil.copyfile(place / "data" / named.relative_to(data), named)
    monkeypatch.setattr("train.derive.write_metrics", interrupted)
    assert main(shift) == 130 and not list(out.glob("*"))
    monkeypatch.undo()
    out.mkdir(exist_ok=True)
    for name in ("LEAKY.txt", "log.csv", "mine.txt"):
        (out / name).write_text("old")
    assert main(shift) == 0
    assert {path.name for path in out.iterdir()} == {
        "checkpoint.pt", "config.json", "heldout.txt", "heldout_predictions.csv", "metrics.json", "mine.txt"
    }


def test_class_bias_compares_no_group_that_is_not_stated(place, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(place / "data", data)
    rows = (data / "manifest.csv").read_text().splitlines()
    held_out = {path for run in ("1", "other") for path in (place / run / "heldout.txt").read_text().splitlines()}

    def fit(sex_of, *arguments):
        lines = [f"{row},{sex_of(row.split(',')[0], i)}" for i, row in enumerate(rows[1:])]
        (data / "manifest.csv").write_text("\n".join([f"{rows[0]},sex", *lines]) + "\n")
        runs = [str(place / "1"), str(place / "other")]
        return main(["bias", str(data), *runs, "-o", str(tmp_path / "b.json"), "--force", "--group", "sex", *arguments])

    assert fit(lambda path, i: ("female", "male", "")[i % 3]) == 0
    stated = sum(row.split(",")[0] in held_out for i, row in enumerate(rows[1:]) if i % 3 != 2)
    assert json.loads((tmp_path / "b.json").read_text())["images"] == stated < 24
    assert fit(lambda path, i: ("female", "male", "")[i % 3], "--objective", "accuracy") == 0
    assert json.loads((tmp_path / "b.json").read_text())["images"] == 24
    capsys.readouterr()
    assert fit(lambda path, i: "male" if path in held_out else "female") == 3  # the reference was never held out
    message = capsys.readouterr().err
    assert "no offsets can be fitted on 24 images, reference group female" in message and message.count("\n") == 1
