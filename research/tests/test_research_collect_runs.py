"""Runs -> evidence: what they held out, what they tell of themselves, and what is refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from sample_networks import dataset

from edge.predictions import read
from research import evidence
from research.__main__ import main as research
from research.collect_runs import command_of
from research.tables import markdown
from train import checkpoint as checkpoints
from train.cli import main
from train.networks.teacher import load_teacher
from train.recipes import RECIPES

FAST = ["--recipe", "smoke", "--network", "mobilenet_v3_small", "--batch-size", "6", "--epochs", "1"]
FAST += ["--steps-per-epoch", "2", "-q"]


@pytest.fixture(scope="module")
def place(small_networks, tmp_path_factory):
    """A data set, two folds, a run for each of them from a start, and one of another seed."""
    root = tmp_path_factory.mktemp("collect")
    data, folds = dataset(root / "data", 36), root / "folds.csv"
    assert main(["folds", str(data), "-o", str(folds), "--folds", "2", "-q"]) == 0
    fit = ["fit", str(data), "--folds", str(folds), *FAST]
    assert main([*fit, "--hold-out", "0", "--out", str(root / "f0")]) == 0
    assert main([*fit, "--hold-out", "1", "--out", str(root / "f1")]) == 0
    assert main([*fit, "--hold-out", "1", "--seed", "5", "--weights", str(root / "f1"), "--out", str(root / "s5")]) == 0
    return root


def collect(place, out, *runs, name="plain"):
    return research(["collect", str(place / "data"), *map(str, runs), "--name", name, "--out", str(out)])


def test_every_image_is_there_once_as_the_run_that_held_it_out_predicted(place, tmp_path, capsys):
    runs = [place / "f1", place / "f0"]
    assert collect(place, tmp_path / "set", *runs) == 0
    assert "plain_seed0.csv.gz: 36 images of folds 0, 1; edge-train fit data " in capsys.readouterr().err
    found = evidence.read(tmp_path / "set", "plain_seed0")
    expected = {row.path: (1 - fold, row) for fold, run in enumerate(runs)
                for row in read(run / "heldout_predictions.csv").rows}
    assert len(expected) == len(found.paths) == 36
    for path, fold, ppm in zip(found.paths, found.folds.tolist(), found.ppm):
        held_out, row = expected[path]
        assert fold == held_out and ppm.argmax() == row.label_index
        np.testing.assert_allclose(ppm / 1e6, row.probabilities, atol=1.5e-6)
    protocol = {"reference": None, "exclude": [], "mask": [], "configurations": ["plain"], "differences": [],
                "coverage": ["plain"]}
    (tmp_path / "set" / "protocol.json").write_text(json.dumps(protocol))
    assert "| plain | 36 | 1 |" in markdown(tmp_path / "set")
    assert collect(place, tmp_path / "set", *runs) == 2


def test_records_are_what_the_runs_tell(place, tmp_path):
    assert collect(place, tmp_path, place / "s5") == 0
    assert collect(place, tmp_path, place / "f1", name="start") == 0
    found, (start,) = evidence.read(tmp_path, "plain_seed5"), evidence.read(tmp_path, "start_seed0").runs
    (record,) = found.runs
    state, log = checkpoints.load(place / "s5"), (place / "s5" / "log.jsonl").read_text()
    assert (record.fold, record.images, record.steps, record.images_seen) == (1, 18, 2, 12)
    assert record.seconds == pytest.approx(json.loads(log)["seconds"], abs=0.06)
    assert record.pytorch == torch.__version__ and record.machine.endswith(" cores")
    assert (record.commit, record.folds_sha256) == (state.commit, state.folds_sha256)
    assert record.weights_sha256 == start.checkpoint_sha256 and record.teacher_sha256 is None
    assert record.identity == load_teacher([place / "s5"], classes=state.classes).sha256
    assert found.config == state.config


def test_the_command_names_what_differs_from_the_recipe(place):
    state = checkpoints.load(place / "s5")
    words = command_of(state, label_column="coarse")
    assert words == (
        "edge-train fit data --label coarse --folds FOLDS --hold-out K --recipe smoke --weights WEIGHTS "
        "--network mobilenet_v3_small --steps-per-epoch 2 --epochs 1 --batch-size 6 --seed 5"
    )
    assert command_of(state, label_column="coarse", group_column="sex").startswith(
        "edge-train fit data --label coarse --group sex --folds"
    )
    changed = RECIPES["smoke"].changed(quarter_turns=False, sizes_px=(64, 96), neck=True, p_light=0.5).to_dict()
    words = command_of(dataclasses.replace(state, config=changed, sources={}), label_column="class")
    assert words == (
        "edge-train fit data --folds FOLDS --hold-out K --recipe smoke --neck --sizes-px 64,96 --no-quarter-turns "
        "--set p_light=0.5"
    )
    assert command_of(dataclasses.replace(state, recipe="soup of smoke"), label_column="class") == "soup of smoke"


def changed(place, tmp_path, **changes):
    run = tmp_path / "changed"
    shutil.copytree(place / "f1", run)
    checkpoints.save(dataclasses.replace(checkpoints.load(run), **changes), run / "checkpoint.pt")
    return run


@pytest.mark.parametrize(
    ("second", "status", "message"),
    [
        (lambda place, _: place / "s5", 4, "got seed 5, expected 0"),
        (lambda place, _: place / "f0", 3, "is held out by two of the runs"),
        (lambda place, _: place / "absent", 4, "no such checkpoint"),
        (lambda place, tmp_path: changed(place, tmp_path, recipe="other"), 4, "got recipe other, expected smoke"),
        (lambda place, tmp_path: changed(place, tmp_path, metrics=None), 4, "expected a finished run's"),
        (lambda place, tmp_path: changed(place, tmp_path, folds_sha256="0"), 4, "got folds_sha256 0, expected"),
        (lambda place, tmp_path: changed(place, tmp_path, leaky=True), 6, "is LEAKY"),
        (lambda place, tmp_path: changed(place, tmp_path, config={}), 4, "a checkpoint of another version"),
        (lambda place, tmp_path: changed(place, tmp_path, sources={"offsets": "0"}), 4, "has a prior correction"),
        (lambda place, tmp_path: changed(place, tmp_path, hold_out=None), 4, "held no fold out"),
    ],
)
def test_what_would_not_be_one_configuration_is_refused(place, tmp_path, capsys, second, status, message):
    run = second(place, tmp_path)
    capsys.readouterr()
    assert collect(place, tmp_path / "set", place / "f0", run) == status
    assert message in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_a_run_that_saw_what_it_held_out_is_refused_though_it_has_no_mark(place, tmp_path, capsys):
    state = checkpoints.load(place / "f1")
    run = changed(place, tmp_path, pictures=checkpoints.load(place / "f0").pictures)
    assert state.pictures != checkpoints.load(run).pictures
    assert collect(place, tmp_path / "set", place / "f0", run) == 6
    assert "was trained on 18 of the pictures held out" in capsys.readouterr().err


def test_a_run_cut_short_or_of_other_data_is_refused(place, tmp_path, capsys):
    run = tmp_path / "cut"
    shutil.copytree(place / "f1", run)
    lines = (run / "heldout_predictions.csv").read_text().splitlines(keepends=True)
    (run / "heldout_predictions.csv").write_text("".join(lines[:-1]))
    assert collect(place, tmp_path / "set", run) == 4
    assert "got predictions of 17 of 18 images held out" in capsys.readouterr().err
    (run / "heldout_predictions.csv").write_text("".join(lines).replace("img", "foto"))
    assert collect(place, tmp_path / "set", run) == 3
    assert "are for no sample of the data set" in capsys.readouterr().err
    shutil.copytree(place / "f1", tmp_path / "log")
    (tmp_path / "log" / "log.jsonl").write_text("{")
    assert collect(place, tmp_path / "set", tmp_path / "log") == 4
    assert "log.jsonl cannot be read" in capsys.readouterr().err
    (place / "data" / "manifest.csv").rename(place / "data" / "kept")
    try:
        assert collect(place, tmp_path / "set", place / "f0") == 0  # the tree has the same images, and clusters of one
    finally:
        (place / "data" / "kept").rename(place / "data" / "manifest.csv")
    assert collect(place, tmp_path / "set", place / "f1", name="other") == 3
    assert "is of other images, labels, groups or clusters" in capsys.readouterr().err
