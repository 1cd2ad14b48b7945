import json
import sys

import pytest
from sample_networks import dataset

from train import checkpoint as checkpoints
from train.cli import main

FAST = ["--num-conv-branches", "1", "--sizes-px", "32", "--batch-size", "6", "--epochs", "2"]


@pytest.fixture
def data(tmp_path):
    return dataset(tmp_path / "data")


def folds_file(tmp_path, data):
    assert main(["folds", str(data), "-o", str(tmp_path / "folds.csv"), "--folds", "2", "-q"]) == 0
    return tmp_path / "folds.csv"


def test_folds_then_fit_then_resume(tmp_path, data, capsys):
    out = tmp_path / "run"
    folds = folds_file(tmp_path, data)
    command = ["fit", str(data), "--folds", str(folds), "--hold-out", "1", "--out", str(out), *FAST]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "12 images to train on, 12 held out, classes ash, birch, Cedar" in captured.err
    assert "epoch 2/2 32 px loss" in captured.err
    assert "held-out balanced_accuracy: " in captured.err
    held_out = (out / "heldout.txt").read_text().splitlines()
    assert len(held_out) == 12 and all((data / path).is_file() for path in held_out)
    assert (out / "heldout_predictions.csv").read_text().count("\n") == 13
    config = json.loads((out / "config.json").read_text())
    assert (config["recipe"], config["sizes_px"], config["epochs"]) == ("plain", [32], 2)
    state = checkpoints.load(out)
    assert state.metrics == json.loads((out / "metrics.json").read_text())
    assert state.metrics["accuracy"]["n"] == 12 and state.metrics["hold_out"] == 1
    assert (state.epoch, state.data_name, state.classes) == (2, "data", ["ash", "birch", "Cedar"])
    assert str(tmp_path) not in (out / "config.json").read_text()

    assert main(command) == 2
    assert "exists already (--resume continues that run, --force starts over)" in capsys.readouterr().err
    assert main([*command, "--resume", "-q"]) == 0
    assert main([*command, "--resume", "--lr", "0.1"]) == 4
    assert "the run was started with config {'lr': 0.002}, got {'lr': 0.1}" in capsys.readouterr().err


def test_without_folds_nothing_is_held_out(tmp_path, data):
    out = tmp_path / "run"
    assert main(["fit", str(data), "--out", str(out), *FAST, "--epochs", "1", "-q"]) == 0
    assert checkpoints.load(out).metrics is None
    assert not (out / "metrics.json").exists()


def test_folds_refuses_to_overwrite(tmp_path, data, capsys):
    folds_file(tmp_path, data)
    assert main(["folds", str(data), "-o", str(tmp_path / "folds.csv")]) == 2
    assert "exists already (--force replaces it)" in capsys.readouterr().err
    assert main(["folds", str(data), "-o", str(tmp_path / "folds.csv"), "--force"]) == 0
    assert "24 images, 12 clusters; images per fold: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "f.csv"], "--folds and --hold-out belong together"),
        (["--resume", "--force"], "--resume and --force exclude each other"),
        (["--class-power", "2"], "argument --class-power: got 2.0, expected 0 to 1"),
        (["--sizes-px", "64;96"], "got '64;96', expected whole numbers with commas"),
        (["--epoch", "3"], "unknown argument --epoch (did you mean --epochs?)"),
        (["--recipe", "best"], "invalid choice: 'best'"),
    ],
)
def test_usage_errors(data, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(["fit", str(data), "--out", "run", *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_bad_data_is_one_line(tmp_path, data, capsys):
    def status(*arguments):
        return main(["fit", *map(str, arguments), "--out", str(tmp_path / "run"), *FAST])

    assert status(tmp_path / "absent") == 3
    assert status(data, "--label", "coarse") == 3
    folds = folds_file(tmp_path, data)
    assert status(data, "--folds", folds, "--hold-out", 7) == 3
    (data / "g1/ash/img0.png").write_bytes(b"no image")
    assert status(data) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "no such folder" in lines[0]
    assert "no column coarse" in lines[1]
    assert "no fold 7, expected one of 0, 1" in lines[2]
    assert "img0.png: not a known image format" in lines[3]


def test_without_pytorch(tmp_path, data, capsys, monkeypatch):
    kept = ("train.cli", "train.config")
    for name in [name for name in sys.modules if name.startswith("train.") and name not in kept]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["fit", str(data), "--out", str(tmp_path / "run")]) == 5
    assert capsys.readouterr().err == "edge-train: needs PyTorch: pip install 'fairedge[train]'\n"


def test_an_unusable_held_out_image_is_found_before_the_training(tmp_path, data, capsys):
    folds = folds_file(tmp_path, data)
    rows = [line.split(",") for line in folds.read_text().splitlines()[1:]]
    held_out = next(row[0] for row in rows if row[-1] == "0")
    (data / held_out).write_bytes(b"no image")
    run_folder = tmp_path / "run"
    assert main(["fit", str(data), "--folds", str(folds), "--hold-out", "0", "--out", str(run_folder), *FAST]) == 3
    assert "not a known image format" in capsys.readouterr().err
    assert not (run_folder / "checkpoint.pt").exists()
