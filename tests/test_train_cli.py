import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from sample_networks import dataset

from train import checkpoint as checkpoints
from train.cli import main
from train.config import TrainConfig
from train.loop.loop import Session
from train.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("small_networks")

FAST = ["--num-conv-branches", "1", "--sizes-px", "32", "--batch-size", "6", "--epochs", "2", "--recipe", "smoke"]
FAST += ["--network", "mobilenet_v3_small"]
FAST += ["--steps-per-epoch", "2"]


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
    score, export = captured.err.splitlines()[-2:]
    assert score == f"edge-train: next: edge-bench score {out}/heldout_predictions.csv --data {data} --subset"
    assert export == f"edge-train: next: edge-export onnx {out} --license 'LICENCE OF THE WEIGHTS' -o model.onnx"
    held_out = (out / "heldout.txt").read_text().splitlines()
    assert len(held_out) == 12 and all((data / path).is_file() for path in held_out)
    assert (out / "heldout_predictions.csv").read_text().count("\n") == 13
    config = json.loads((out / "config.json").read_text())
    assert (config["recipe"], config["input"]["sizes_px"], config["optim"]["epochs"]) == ("smoke", [32], 2)
    state = checkpoints.load(out)
    assert state.metrics == json.loads((out / "metrics.json").read_text())
    assert state.metrics["accuracy"]["n"] == 12 and state.metrics["hold_out"] == 1
    assert (state.step, state.data_name, state.classes) == (4, "data", ["ash", "birch", "Cedar"])
    assert str(tmp_path) not in (out / "config.json").read_text()

    assert main(command) == 2
    assert "exists already (--resume continues that run, --force starts over)" in capsys.readouterr().err
    assert main([*command, "--resume", "-q"]) == 0
    assert main([*command, "--resume", "--lr", "0.1"]) == 4
    assert "the run was started with config {'lr': 0.002}, got {'lr': 0.1}" in capsys.readouterr().err


def test_groups_of_another_column(tmp_path, data, capsys):
    rows = (data / "manifest.csv").read_text().splitlines()
    sexes = ["female", "male", "male", ""]  # of the two images of a cluster the same
    lines = [f"{row},{sexes[i // 6]}" for i, row in enumerate(rows[1:])]
    (data / "manifest.csv").write_text("\n".join([f"{rows[0]},sex", *lines]) + "\n")
    folds = ["--folds", str(tmp_path / "folds.csv")]
    assert main(["folds", str(data), "-o", folds[1], "--folds", "2", "--group", "sex", "-q"]) == 0
    assert main(["fit", str(data), *folds, "--hold-out", "0", "--group", "sex", "--out", str(tmp_path / "run"), *FAST,
                 "--epochs", "1", "-q"]) == 0
    by_group = json.loads((tmp_path / "run" / "metrics.json").read_text())["by_group"]
    assert "male" in by_group and set(by_group) <= {"female", "male", "not stated"}
    assert sum(rate["n"] for rate in by_group.values()) == 12
    capsys.readouterr()
    for command in (["folds", str(data), "-o", str(tmp_path / "x")], ["fit", str(data), "--out", str(tmp_path / "x")]):
        assert main([*command, "--group", "age"]) == 3
        assert capsys.readouterr().err.endswith("no column age; got path, class, group, cluster, sex\n")


def test_without_folds_nothing_is_held_out(tmp_path, data, capsys):
    out = tmp_path / "run"
    assert main(["fit", str(data), "--out", str(out), *FAST, "--epochs", "1"]) == 0
    said = capsys.readouterr().err
    assert "no --hold-out: every image is trained on" in said and "next: edge-export onnx" in said
    assert "edge-bench score" not in said
    assert checkpoints.load(out).metrics is None
    assert not (out / "metrics.json").exists()


def test_folds_refuses_to_overwrite(tmp_path, data, capsys):
    folds_file(tmp_path, data)
    assert main(["folds", str(data), "-o", str(tmp_path / "folds.csv")]) == 2
    assert "exists already (--force replaces it)" in capsys.readouterr().err
    assert main(["folds", str(data), "-o", str(tmp_path / "folds.csv"), "--force"]) == 0
    said = capsys.readouterr().err
    assert "24 images, 12 clusters; images per fold: " in said
    assert said.endswith(f"next: edge-train audit {data} --folds {tmp_path / 'folds.csv'}\n")
    assert main(["audit", str(data), "--folds", str(tmp_path / "folds.csv")]) == 0
    where = f"--folds {tmp_path / 'folds.csv'} --hold-out 0 -o RUN"
    assert capsys.readouterr().err.endswith(f"next: edge-train fit {data} {where}\n")


def test_an_interrupted_run_says_what_is_kept(tmp_path, data, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "take", interrupt)
    out = tmp_path / "it's a run"
    command = ["fit", str(data), "--out", str(out), *FAST, "-q"]
    for flags, said in (([], "was not written yet: nothing to go on from"),
                        (["--resume"], "is kept, and the same command with --resume goes on from it"),
                        (["--force"], "is that of the run before: --force had replaced nothing yet")):
        assert main([*command, *flags]) == 130
        said = f"edge-train: {out}/checkpoint.pt {said}"
        assert capsys.readouterr().err.splitlines() == [said, "edge-train: interrupted"]
        (out / "checkpoint.pt").touch()
        monkeypatch.setattr(checkpoints, "start", interrupt)  # before anything is replaced


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "f.csv"], "--folds and --hold-out belong together"),
        (["--resume", "--force"], "--resume and --force exclude each other"),
        (["--power", "2"], "argument --power: got 2.0, expected 0 to 1"),
        (["--teacher", "t"], "--teacher and --distill belong together"),
        (["--folds", "f", "--hold-out", "1", "--search", "1"], "--search and --hold-out name the same fold"),
        (["--margin-type", "arcface"], "argument --margin-type: got 'arcface', expected none with a linear head"),
        (["--sizes-px", "64;96"], "got '64;96', expected whole numbers with commas"),
        (["--epoch", "3"], "unknown argument --epoch (did you mean --epochs?)"),
        (["--recipe", "best"], "invalid choice: 'best'"),
        (["--set", "zoom"], "argument --set: got 'zoom', expected NAME=VALUE, NAME as in the list below the flags"),
        (["--set", "zom=1"], "got 'zom=1', expected NAME=VALUE"),
        (["--set", "zoom=much"], "argument --set: zoom: got 'much', expected a number"),
        (["--set", "channels_last=1"], "argument --set: got '1', expected true or false"),
        (["--set", "zoom=0.3", "--set", "zoom=2"], "argument --set zoom: got 2.0, expected 0 to 1"),
    ],
)
def test_usage_errors(data, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(["fit", str(data), "--out", "run", *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_every_setting_is_a_flag_or_one_of_set(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    said = capsys.readouterr().out
    flags, settings = said.split("settings of --set")
    assert len(set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", flags, re.MULTILINE))) <= 50
    for name in RECIPES["default"].flat():
        assert (f"--{name.replace('_', '-')} " in flags) != (f"\n  {name} " in settings), name


def test_set_changes_any_setting(tmp_path, data):
    values = ["zoom=0.3", "noise_std=0.1,0.2,0.3", "channels_last=true", "pk_images=2", "border=black", "lr=0.01"]
    flags = [word for value in values for word in ("--set", value)]
    out = tmp_path / "run"
    assert main(["fit", str(data), "--out", str(out), *FAST, "--epochs", "1", "-q", *flags]) == 0
    found = TrainConfig.from_dict(checkpoints.load(out).config).flat()
    assert found["noise_std"] == (0.1, 0.2, 0.3) and found["channels_last"] is True and found["border"] == "black"
    assert (found["zoom"], found["pk_images"], found["lr"], found["epochs"]) == (0.3, 2, 0.01, 1)


def test_bad_data_is_one_line(tmp_path, data, capsys):
    def status(*arguments):
        return main(["fit", *map(str, arguments), "--out", str(tmp_path / "run"), *FAST])

    assert status(tmp_path / "absent") == 3
    assert status(data, "--label", "coarse") == 3
    folds = folds_file(tmp_path, data)
    assert status(data, "--folds", folds, "--hold-out", 7) == 3
    assert status(data, "--class-weights", "ash:1,birch:2") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "no such folder" in lines[0]
    assert "no column coarse" in lines[1]
    assert "no fold 7, expected one of 0, 1" in lines[2]
    expected = "expected one for each of the data's Cedar, ash, birch"
    assert f"class_weights: got numbers for ash, birch, {expected}" in lines[3]


def test_without_pytorch(tmp_path, data, capsys, monkeypatch, forget_modules):
    forget_modules("train", kept=("train.cli", "train.config", "train.recipes"))
    for name in ("torch", "cv2"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["folds", str(data), "-o", str(tmp_path / "folds.csv"), "-q"]) == 0
    assert main(["audit", str(data), "-q"]) == 0
    assert "kinds of leak" in capsys.readouterr().out
    assert main(["fit", str(data), "--out", str(tmp_path / "run")]) == 5
    index = "pip install torch --index-url https://download.pytorch.org/whl/cpu"  # the other brings gigabytes of CUDA
    expected = f"{index}, then pip install -e '.[train]' in the checkout (make install-train does all of it)"
    assert capsys.readouterr().err == f"edge-train: needs PyTorch: {expected}\n"


def test_unusable_images_are_listed_skipped_and_counted(tmp_path, data, capsys):
    folds = folds_file(tmp_path, data)
    rows = [line.split(",") for line in folds.read_text().splitlines()[1:]]
    for fold in "01":
        (data / next(row[0] for row in rows if row[-1] == fold)).write_bytes(b"no image")
    out = tmp_path / "run"
    assert main(["fit", str(data), "--folds", str(folds), "--hold-out", "0", "--out", str(out), *FAST]) == 1
    error = capsys.readouterr().err
    assert error.count(".png: not a known image format") == 2 and "skipped 2 images that cannot be used" in error
    assert "11 images to train on, 11 held out" in error
    assert json.loads((out / "metrics.json").read_text())["accuracy"]["n"] == 11


def test_search_fold_is_neither_trained_on_nor_held_out(tmp_path, data):
    folds = tmp_path / "folds.csv"
    assert main(["folds", str(data), "-o", str(folds), "--folds", "3", "-q"]) == 0
    out = tmp_path / "run"
    command = ["fit", str(data), "--folds", str(folds), "--hold-out", "0", "--search", "2", "--out", str(out), *FAST]
    assert main([*command, "-q"]) == 0
    parts = {fold: {line.split(",")[0] for line in folds.read_text().splitlines() if line.endswith(f",{fold}")}
             for fold in range(3)}
    assert {*(out / "search.txt").read_text().splitlines()} == parts[2]
    assert {*(out / "heldout.txt").read_text().splitlines()} == parts[0]
    clusters = {row.split(",")[1] for row in folds.read_text().splitlines() if row.endswith(",1")}
    assert len(checkpoints.load(out).clusters) == len(clusters)


def test_force_starts_over_even_when_it_fails(tmp_path, data, capsys):
    out = tmp_path / "run"
    command = ["fit", str(data), "--out", str(out), *FAST, "-q"]
    assert main(command) == 0
    assert main([*command, "--force", "--class-weights", "ash:1"]) == 2
    assert checkpoints.load(out).step == 4  # nothing was touched
    assert main([*command, "--force", "--lr", "1e30"]) == 6
    assert not (out / "checkpoint.pt").exists()
    capsys.readouterr()


def test_a_search_fold_is_guarded_too(tmp_path, data, capsys):
    folds = tmp_path / "folds.csv"
    assert main(["folds", str(data), "-o", str(folds), "--folds", "3", "-q"]) == 0
    rows = [line.split(",") for line in folds.read_text().splitlines()[1:]]
    first, second = (next(row[0] for row in rows if row[2] == fold) for fold in "12")
    (data / first).write_bytes((data / second).read_bytes())
    command = ["fit", str(data), "--folds", str(folds), "--hold-out", "0", "--out", str(tmp_path / "run"), *FAST, "-q"]
    assert main([*command, "--search", "1"]) == 6
    assert "1 pairs of one file in both parts" in capsys.readouterr().err


def test_teacher_and_weights(tmp_path, data, capsys):
    folds = tmp_path / "folds.csv"
    assert main(["folds", str(data), "-o", str(folds), "--folds", "2", "-q"]) == 0
    common = [str(data), "--folds", str(folds), *FAST, "-q"]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert main(["fit", *common, "--hold-out", "0", "--out", str(teacher)]) == 0
    learn = ["--teacher", str(teacher), "--weights", str(teacher), "--distill", "kl"]
    assert main(["fit", *common, "--hold-out", "0", "--out", str(student), *learn]) == 0
    assert sorted(checkpoints.load(student).sources) == ["labels", "origin", "teacher", "weights"]
    for view in ("same", "fixed"):
        out = tmp_path / view
        learn = ["--teacher", str(teacher), "--distill", "kl", "--distill-view", view]
        assert main(["fit", *common, "--hold-out", "0", "--out", str(out), *learn]) == 0
        assert json.loads((out / "log.jsonl").read_text().splitlines()[0])["distill"] > 0
    capsys.readouterr()
    for source in (["--teacher", str(teacher), "--distill", "kl"], ["--weights", str(teacher)]):
        assert main(["fit", *common, "--hold-out", "1", "--out", str(tmp_path / "leak"), *source]) == 6
        assert "was trained on" in capsys.readouterr().err
    assert main(["fit", *common, "--hold-out", "1", "--out", str(tmp_path / "leak"), *source, "--allow-leak"]) == 0
    assert checkpoints.load(tmp_path / "leak").leaky


def test_show(tmp_path, data):
    sheet = tmp_path / "sheet.png"
    assert main(["show", str(data), "-o", str(sheet), "--recipe", "rutgers"]) == 0
    with Image.open(sheet) as image:
        assert image.width > 500


@pytest.mark.slow
def test_killed_and_resumed_equals_unbroken(tmp_path, data):
    command = [sys.executable, "-m", "train", "fit", str(data), *FAST, "--steps-per-epoch", "15", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def fit(out, *more):
        return subprocess.Popen([*command, "--out", str(out), "--checkpoint-minutes", "0", *more], env=environment)

    assert fit(tmp_path / "unbroken").wait() == 0
    broken = tmp_path / "broken"
    for kill in range(3):
        process = fit(broken, "--resume")
        checkpoint = broken / "checkpoint.pt"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.02)
        time.sleep(0.05 * kill)  # at another moment each time
        process.kill()
        process.wait()
    assert 0 < checkpoints.load(broken).step < 30
    assert fit(broken, "--resume").wait() == 0
    one, other = checkpoints.load(tmp_path / "unbroken"), checkpoints.load(broken)
    assert one.step == other.step == 30
    assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())
