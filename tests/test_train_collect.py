"""Runs -> evidence: what they held out, what they tell of themselves, and what is refused. Offsets fitted elsewhere."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from sample_evidence import CLASSES, evidence_of, folder_of, samples_of
from sample_networks import dataset

from bench import evidence
from bench.evidence import RunRecord
from bench.tables import markdown
from edge.predictions import read
from train import checkpoint as checkpoints
from train.cli import main
from train.recipes import RECIPES
from train.record import command_of
from train.teacher import load_teacher
from train.temperature import fit_temperature

FAST = ["--recipe", "smoke", "--network", "mobilenet_v3_small", "--batch-size", "6", "--epochs", "1"]
FAST += ["--steps-per-epoch", "2", "-q"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
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
    return main(["collect", str(place / "data"), *map(str, runs), "--name", name, "--out", str(out)])


def test_every_image_is_there_once_as_the_run_that_held_it_out_predicted(place, tmp_path, capsys):
    runs = [place / "f1", place / "f0"]
    assert collect(place, tmp_path / "set", *runs) == 0
    assert "plain_seed0.csv: 36 images of folds 0, 1; edge-train fit data " in capsys.readouterr().err
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
    changed = RECIPES["smoke"].changed(quarter_turns=False, sizes_px=(64, 96), neck=True).to_dict()
    words = command_of(dataclasses.replace(state, config=changed, sources={}), label_column="class")
    assert words == (
        "edge-train fit data --folds FOLDS --hold-out K --recipe smoke --neck --sizes-px 64,96 --no-quarter-turns"
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


# Offsets


def test_offsets_of_a_fold_come_from_the_others_alone(tmp_path):
    samples = samples_of(600)
    biased = evidence_of(samples, num_folds=3, skill=1.5, temperature=0.9)
    p = biased.probabilities * [8, 1, 1]  # all are ash, and offsets undo it
    biased = dataclasses.replace(biased, ppm=evidence.to_ppm(p / p.sum(1, keepdims=True), p.argmax(1)))
    folder = folder_of(tmp_path / "a", samples, [biased], configurations=["plain", "plain+offsets"], exclude=["g3"])
    assert main(["offsets", str(folder), "plain", "--objective", "balanced"]) == 0
    found = evidence.read(folder, "plain+offsets_seed0")
    labels = np.array([CLASSES.index(sample.label) for sample in samples])
    before, after = ((one.ppm.argmax(1) == labels).mean() for one in (biased, found))
    assert after > before + 0.1
    assert found.offsets["objective"] == "balanced" and set(found.offsets["by_fold"]) == {"0", "1", "2"}
    for run in found.runs:  # one that answers the offsets' logits, fitted as a run fits its own
        rows = found.folds == run.fold
        logits = np.log(np.maximum(biased.probabilities[rows], 1e-12)) + found.offsets["by_fold"][str(run.fold)]
        assert run.temperature == pytest.approx(fit_temperature(logits, labels[rows]), rel=1e-3)
    for fold, bias in found.offsets["by_fold"].items():
        rows = found.folds == int(fold)
        expected = np.log(np.maximum(biased.probabilities[rows], 1e-12)) + bias
        expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
        np.testing.assert_allclose(found.probabilities[rows], expected, atol=3e-6)
    assert "plain+offsets: class offsets, fitted for each fold on the predictions of the others" in markdown(folder)

    # Fold 0 is predicted with the same offsets whatever its own labels are.
    rows = {path for path, fold in zip(biased.paths, biased.folds) if fold == 0}
    other = [dataclasses.replace(s, label="ash") if s.path in rows else s for s in samples]
    again = folder_of(tmp_path / "b", other, [biased], configurations=["plain", "plain+offsets"], exclude=["g3"])
    assert main(["offsets", str(again), "plain", "--objective", "balanced", "-q"]) == 0
    by_fold = evidence.read(again, "plain+offsets_seed0").offsets["by_fold"]
    assert by_fold["0"] == found.offsets["by_fold"]["0"] and by_fold["1"] != found.offsets["by_fold"]["1"]


def test_images_of_no_stated_group_have_no_part_in_the_offsets(tmp_path):
    samples = samples_of(600)
    unstated = [dataclasses.replace(s, group="not stated") if s.group == "g3" else s for s in samples]
    found = []
    for name, these, excluded in (("a", samples, ["g3"]), ("b", unstated, [])):
        one = evidence_of(these, num_folds=3, skill=1.5, group_column="sex")
        names = ["plain", "plain+offsets"]
        folder = folder_of(tmp_path / name, these, [one], configurations=names, exclude=excluded)
        assert main(["offsets", str(folder), "plain", "-q"]) == 0
        found.append(evidence.read(folder, "plain+offsets_seed0"))
    assert found[0].offsets == found[1].offsets and found[1].group_column == "sex"
    assert "in no comparison of groups: not stated." in markdown(folder)


def test_one_number_for_all_classes_has_its_own_name(tmp_path):
    samples = samples_of(600)
    base = evidence_of(samples, num_folds=3, skill=1.5, temperature=0.9)
    folder = folder_of(tmp_path / "a", samples, [base], configurations=["plain", "plain+prior"])
    assert main(["offsets", str(folder), "plain", "--objective", "accuracy", "--form", "prior"]) == 0
    found = evidence.read(folder, "plain+prior_seed0")
    assert found.offsets["form"] == "prior" and "plain+prior: one number" in markdown(folder)
    assert found.command == "edge-train offsets FOLDER plain --objective accuracy --form prior"


def test_offsets_need_evidence_of_two_folds(tmp_path, capsys):
    samples = samples_of(60)
    one = evidence_of(samples, num_folds=1, runs=[RunRecord(0, 60)])
    folder = folder_of(tmp_path, samples, [one])
    assert main(["offsets", str(folder), "plain"]) == 3
    assert "got one fold, expected two at least" in capsys.readouterr().err
    two = evidence_of(samples[:18], "two")  # none of them of the reference, the smallest group
    evidence.write(folder, samples, two, force=False)
    assert main(["offsets", str(folder), "two"]) == 3
    assert "two_seed0: no offsets can be fitted: the contest metric is not defined" in capsys.readouterr().err
    assert main(["offsets", str(folder), "absent"]) == 3
    assert "no evidence of absent" in capsys.readouterr().err
