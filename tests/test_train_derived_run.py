import csv
import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from sample_networks import dataset

from train import checkpoint as checkpoints
from train.cli import main

pytestmark = pytest.mark.usefixtures("small_networks")

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
    out = tmp_path / "corrected"
    assert main(["prior", str(place / "data"), str(place / "other"), str(leaky), "--out", str(out), "-q"]) == 0
    assert checkpoints.load(out).leaky and json.loads((out / "prior.json").read_text())["leaky"] is True
    assert (out / "LEAKY.txt").read_text() == "comes of the leaky run leaky\n"


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


def test_refit_to_other_labels(place, tmp_path):
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


def test_prior_adds_the_offsets_and_measures_anew(place, tmp_path, capsys, monkeypatch):
    out, data, run = tmp_path / "corrected", str(place / "data"), str(place / "other")
    monkeypatch.setattr("train.after.prior_correction._best", lambda *_: (0.5, np.array([20.0, -10.0, -10.0])))
    assert main(["prior", data, run, str(place / "start"), "--out", str(out)]) == 0
    found, said = json.loads((out / "prior.json").read_text()), capsys.readouterr().out
    assert found["images"] == 12 and found["folds"] == [0] and found["tau"] == 0.5
    assert found["classes"] == ["ash", "birch", "Cedar"] and found["offsets"] == [20.0, -10.0, -10.0]
    assert f"accuracy {found['before']:.4f}, with the number fitted on other folds {found['after']:.4f}" in said
    assert "+0.500" in said and "ash" in said
    old, new = checkpoints.load(place / "other"), checkpoints.load(out)
    assert torch.equal(new.weights["head.fc.bias"], old.weights["head.fc.bias"] + torch.tensor(found["offsets"]))
    assert all(torch.equal(t, old.weights[name]) for name, t in new.weights.items() if name != "head.fc.bias")
    assert new.recipe == "smoke with a prior correction (tau 0.5)" and new.metrics["accuracy"]["n"] == 12
    assert new.sources["offsets"] == hashlib.sha256((out / "prior.json").read_bytes()).hexdigest()
    with (out / "heldout_predictions.csv").open(newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"ash"}
    assert main(["prior", data, run, str(place / "start"), "--out", str(out)]) == 2


def test_prior_refuses_what_it_cannot_be_fitted_on(place, tmp_path, capsys):
    def status(run, *others):
        return main(["prior", str(place / "data"), *(str(place / name) for name in (run, *others)), "--out", str(out)])

    out, bare, coarse, folds = (tmp_path / name for name in ("x", "bare", "coarse", "folds"))
    for copy in (bare, coarse, folds):
        shutil.copytree(place / "start", copy)
    (bare / "heldout_predictions.csv").unlink()
    state = checkpoints.load(coarse)
    checkpoints.save(dataclasses.replace(state, classes=["a", "b", "c"]), coarse / "checkpoint.pt")
    checkpoints.save(dataclasses.replace(state, folds_sha256="0" * 64), folds / "checkpoint.pt")
    for names, wanted, said in (
        (("other", "start", "other"), 6, "other: predicts the held-out images of fold 2; "),
        (("other", folds), 6, "fold 0 of another folds file; "),
        (("1", "other"), 4, "has cosines for logits"),
        (("other", "1", "2"), 3, "is held out by two of the runs, expected runs of different folds"),
        (("other", bare), 4, "no held-out predictions of ash, birch, Cedar, expected a finished run's"),
        (("other", coarse), 4, "no held-out predictions of ash, birch, Cedar, expected a finished run's"),
    ):
        assert status(*names) == wanted
        assert said in (message := capsys.readouterr().err) and message.count("\n") == 1 and not out.exists()


def test_a_prior_is_added_once(place, tmp_path, capsys):
    out, data, start = tmp_path / "x", str(place / "data"), str(place / "start")
    prior = ["prior", data, str(place / "other"), start, "--out"]
    assert main([*prior, str(out)]) == 0
    assert main(["prior", data, str(out), start, "--out", str(tmp_path / "y")]) == 4
    assert "has a prior correction already" in capsys.readouterr().err
    assert main([*prior, str(place / "other"), "--force"]) == 2  # itself


def test_a_new_run_is_there_whole_or_not_at_all(place, tmp_path, capsys, monkeypatch):
    out, data = tmp_path / "x", tmp_path / "data"
    shutil.copytree(place / "data", data)
    prior = ["prior", str(data), str(place / "other"), str(place / "start"), "--out", str(out)]
    assert main([*prior, "--label", "group"]) == 3
    assert "got an image of the class 'g1', expected one of ash, birch, Cedar" in capsys.readouterr().err
    named = data / (place / "other" / "heldout.txt").read_text().splitlines()[0]
    named.write_bytes(b"")
    assert main(prior) == 3 and not (out / "checkpoint.pt").exists()
    assert named.name in capsys.readouterr().err
    manifest = data / "manifest.csv"
    rows = manifest.read_text().splitlines()
    manifest.write_text("".join(f"{row}\n" for row in rows if named.name not in row))
    assert main(prior) == 3
    assert "1 of 12 images are not in the data set" in capsys.readouterr().err

    def interrupted(*_):
        raise KeyboardInterrupt

    manifest.write_text("".join(f"{row}\n" for row in rows))
    shutil.copyfile(place / "data" / named.relative_to(data), named)
    monkeypatch.setattr("train.after.derived_run.write_metrics", interrupted)
    assert main(prior) == 130 and not list(out.glob("*"))
    monkeypatch.undo()
    out.mkdir(exist_ok=True)
    for name in ("LEAKY.txt", "log.csv", "mine.txt"):
        (out / name).write_text("old")
    assert main(prior) == 2  # no run: somebody's folder
    (out / "config.json").write_text('{"recipe": "default"}')
    assert main(prior) == 0
    assert {path.name for path in out.iterdir()} == {
        "checkpoint.pt", "config.json", "heldout.txt", "heldout_predictions.csv", "metrics.json", "mine.txt",
        "prior.json",
    }
