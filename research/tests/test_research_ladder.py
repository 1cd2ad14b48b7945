import json
from pathlib import Path

import pytest
from sample_networks import dataset

from research.__main__ import main
from research.ladder import Part, folder_of, parts_of
from research.recipe_ladders import LADDERS, Ladder
from train.cli import main as train
from train.config import TrainConfig

TINY = TrainConfig().changed(
    network="mobilenet_v3_small", sizes_px=(32,), epochs=1, steps_per_epoch=2, batch_size=6, ema_decay=0.5
)


@pytest.fixture
def tiny_ladder(small_networks, monkeypatch):
    steps = {"baseline": TINY, "+KD": TINY.changed(distill="kl")}
    monkeypatch.setitem(LADDERS, "tiny", Ladder(steps, teacher=TINY))


def test_a_ladder_goes_on_where_it_stopped_and_compares_on_the_same_images(tiny_ladder, tmp_path, capsys):
    data, out = dataset(tmp_path / "data", 48), tmp_path / "ladder"
    command = ["ladder", str(data), "--recipe", "tiny", "--out", str(out), "--hold-out", "0", "--hold-out", "1"]
    assert main(command) == 0
    first = capsys.readouterr()
    assert "6/6 fold 1 seed 0 +KD: accuracy" in first.err
    lines = first.out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["baseline", "+KD"]
    assert (out / "ladder.md").read_text() == first.out
    comparisons = json.loads((out / "comparisons.json").read_text())
    held_out = json.loads((out / "baseline.json").read_text())["samples"]["path"]
    assert comparisons["to_previous"]["+KD"]["metrics"]["accuracy"]["difference"]["n"] == len(held_out)

    interrupted = folder_of(out, Part("baseline", 1, 0))
    (interrupted / "checkpoint.pt").unlink()
    (interrupted / "metrics.json").unlink()
    assert main(command) == 0
    second = capsys.readouterr()
    assert second.out == first.out and second.err.count("\n") == 1

    folds = tmp_path / "folds.csv"
    assert train(["folds", str(data), "-o", str(folds), "--folds", "3", "--seed", "7", "-q"]) == 0
    assert main([*command, "--folds", str(folds)]) == 4  # parts of other folds are no parts of this ladder
    assert "the run was started with" in capsys.readouterr().err


def test_parts_come_with_their_teacher_first():
    parts = parts_of(LADDERS["smoke-ladder"], folds=[0, 3], num_seeds=2)
    assert len(parts) == 2 * 2 * 8
    assert [part.step for part in parts[:8]][-2:] == ["teacher", "+KD"]
    assert {(part.fold, part.seed) for part in parts} == {(0, 0), (3, 0), (0, 1), (3, 1)}


@pytest.mark.parametrize("name", LADDERS)
def test_steps_add_up(name):
    ladder = LADDERS[name]
    flat = [config.flat() for config in ladder.steps.values()]
    for before, after in zip(flat, flat[1:]):
        assert before != after
    assert len({str(folder_of(Path(), Part(step, 0, 0))) for step in ladder.steps}) == len(flat)
    assert (ladder.teacher is not None) == any(step["distill"] != "none" for step in flat)
