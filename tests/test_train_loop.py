import contextlib
import csv
import json

import numpy as np
import pytest
import torch
from sample_networks import COLOURS, labelled_images

from edge.errors import EdgeError
from edge.photo.preprocess import Preprocess
from train import checkpoint as checkpoints
from train.config import TrainConfig
from train.loop.distributed import Ranks
from train.loop.loop import Session, TrainingData, TrainingError, check_config, fit

pytestmark = pytest.mark.usefixtures("small_networks")

ALONE = Ranks(0, 1, torch.device("cpu"))
CONFIG = TrainConfig().changed(
    network="mobilenet_v3_small", sizes_px=(32,), batch_size=6, epochs=4, ema_decay=0.9, lr=1e-2
)
MOBILEONE = CONFIG.changed(network="mobileone_s0", num_conv_branches=1)
EVERYTHING = CONFIG.changed(
    sizes_px=(32, 40), power=0.5, head="cosine", neck=True, dropout=0.2, margin_type="curricular",
    triplet_weight=0.5, bn_batches=2, p_noise=0.5, p_perspective=0.5, p_cutout=0.5,
    optimizer="sgd", schedule="onecycle", lr=0.01, group_weights=True,
    class_weights=tuple(f"{name}:{weight}" for weight, name in enumerate(COLOURS, 1)),
)


def training_data(config=CONFIG, *, num_images=12, **teaching):
    images = {side: labelled_images(num_images, side)[0] for side in config.input.sizes_px}
    labels = np.arange(num_images) % len(COLOURS)
    names = [f"{i}.png" for i in range(num_images)]
    return TrainingData(images, labels, np.arange(num_images) // 2 % 2, names, **teaching)


def blank(config=CONFIG):
    return checkpoints.start(
        config,
        recipe="smoke",
        classes=list(COLOURS),
        preprocess=Preprocess(size_px=config.input.sizes_px[-1]).to_json(),
        data_name="colours",
        clusters=["0123456789abcdef"],
        pictures=[],
        sources={},
        folds_sha256=None,
        hold_out=None,
        commit="unknown",
    )


def train(checkpoint, out, *, config=CONFIG, **options):
    out.mkdir(exist_ok=True)
    data = options.pop("data", None) or training_data(config)
    return fit(checkpoint, data, out=out, ranks=ALONE, quiet=True, **options)


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_20_steps_lower_the_loss_and_the_seed_decides(tmp_path):
    losses = [row.loss for row in train(blank(), tmp_path, data=training_data(num_images=30))]
    assert losses[-1] < 0.8 * losses[0]
    again = train(blank(), tmp_path / "again", data=training_data(num_images=30))
    assert [next(again).loss, next(again).loss] == losses[:2]
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [5, 10, 15, 20]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == losses and lines[0]["triplet"] is None


def test_channels_last_changes_nothing_but_the_speed(tmp_path):
    formats = []
    losses = []
    for is_last in (False, True):
        config = CONFIG.changed(channels_last=is_last, epochs=1)
        session = Session(blank(config), training_data(config), ALONE)
        for block in session.model.body.blocks:
            block.register_forward_hook(lambda module, inputs, output: formats.append(output.is_contiguous()))
        with contextlib.closing(session.batches(0, 32)) as batches:
            losses.append([session.take(batch)["total"] for batch in batches])
        assert all(formats) != is_last
        formats.clear()
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_batch_is_turned_in_all_seven_ways():
    config = CONFIG.changed(turn_weight=1.0)
    session = Session(blank(config), training_data(config), ALONE)
    picture = torch.arange(27.0).view(1, 3, 3, 3)
    expected = {torch.rot90(side, k, (2, 3)).numpy().tobytes() for side in (picture, picture.flip(3)) for k in range(4)}
    found = set()
    for session.step in range(60):
        found.add(session._turned(picture).numpy().tobytes())
    assert found == expected - {picture.numpy().tobytes()}


def test_answers_to_turned_pictures_are_pulled_together():
    apart = []
    for weight in (1e-9, 30.0):
        config = CONFIG.changed(turn_weight=weight)
        session = Session(blank(config), training_data(config), ALONE)
        with contextlib.closing(session.batches(0, 32)) as batches:
            batch = next(batches)
        rows = [session.take(batch) for _ in range(20)]
        assert all(row["total"] == pytest.approx(row["hard"] + weight * row["turn"], rel=1e-5) for row in rows)
        apart.append(sum(row["turn"] for row in rows))
    assert apart[1] < 0.5 * apart[0]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run with all there is, never stopped; and beside its checkpoint those that a kill would have left, by step."""
    out = tmp_path_factory.mktemp("unbroken")

    def save(state, path):
        checkpoints.save(state, path)
        path.with_suffix(f".{state.step}").write_bytes(path.read_bytes())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.loop.loop.save", save)
        rows = list(train(blank(EVERYTHING), out, config=EVERYTHING, checkpoint_s=0.0))
    assert [row.step for row in rows] == [2, 4, 6, 8]
    return out


@pytest.mark.parametrize("killed_at", [4, 5], ids=["after an epoch", "in the middle of one"])
def test_resuming_equals_not_stopping(unbroken, tmp_path, killed_at):
    (tmp_path / "log.csv").write_text((unbroken / "log.csv").read_text())  # two rows are of epochs it has not done
    list(train(checkpoints.load(unbroken / f"checkpoint.{killed_at}"), tmp_path, config=EVERYTHING))
    one, other = checkpoints.load(unbroken), checkpoints.load(tmp_path)
    for name in ("model", "ema", "result", "objective"):
        assert same_tensors(getattr(one, name), getattr(other, name)), name
    assert one.step == other.step == 8 and one.result
    logs = [(folder / "log.csv").read_text().splitlines() for folder in (unbroken, tmp_path)]
    assert len(logs[0]) == 5
    assert [line.split(",")[:8] for line in logs[0]] == [line.split(",")[:8] for line in logs[1]]


def test_result_is_what_was_asked_for(tmp_path):
    plain = list(train(blank(), tmp_path / "plain")) and checkpoints.load(tmp_path / "plain")
    assert not plain.result and same_tensors(plain.weights, plain.ema)
    config = CONFIG.changed(bn_batches=3)
    fresh = list(train(blank(config), tmp_path / "bn", config=config)) and checkpoints.load(tmp_path / "bn")
    assert torch.equal(fresh.weights["head.fc.weight"], plain.ema["head.fc.weight"])
    name = next(name for name in plain.ema if name.endswith("running_mean"))
    assert not torch.equal(fresh.weights[name], plain.ema[name])


def test_nan_stops_with_step_parts_and_files_and_keeps_the_checkpoint(tmp_path):
    run = train(blank(), tmp_path)
    next(run)
    run.close()
    state = checkpoints.load(tmp_path)
    state.model["head.fc.bias"][0] = float("nan")
    message = r"not finite at step 2 \(total nan, hard nan; learning rate .*; images \d+.png, .* and 3 more\)"
    with pytest.raises(TrainingError, match=message):
        list(train(state, tmp_path))
    assert checkpoints.load(tmp_path).step == 2


def test_weights_that_are_no_numbers_are_not_a_result(tmp_path):
    run = train(blank(), tmp_path)
    next(run)
    run.close()
    state = checkpoints.load(tmp_path)
    state.ema["head.fc.bias"][0] = float("inf")  # the loss is of the other weights
    with pytest.raises(TrainingError, match="the weights are not finite after step 4"):
        list(train(state, tmp_path))
    assert checkpoints.load(tmp_path).step == 2


def test_soft_labels_are_learned(tmp_path):
    config = CONFIG.changed(lr=3e-2, distill="kl", hard_weight=0.0, distill_weight=1.0, temperature=1.0)
    wrong = np.full((30, 3), -20.0, np.float32)
    wrong[np.arange(30), (np.arange(30) + 1) % 3] = 0.0  # a teacher that takes each class for the next
    data = training_data(config, num_images=30, soft_labels=wrong)
    rows = list(train(blank(config), tmp_path, config=config, data=data))
    assert rows[-1].distill < 0.5 * rows[0].distill
    assert rows[-1].hard > rows[-1].distill


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    run = train(blank(), tmp_path)
    next(run)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(OSError, match="No space left.*checkpoint.pt"):
        next(run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "log.csv", "log.jsonl"]
    assert checkpoints.load(tmp_path).step == 2


def test_weights_for_other_classes(tmp_path):
    config = CONFIG.changed(class_weights=("ash:1", "birch:2"))
    with pytest.raises(EdgeError, match="class_weights: got numbers for ash, birch, expected one for each of"):
        next(train(blank(config), tmp_path, config=config))


def test_more_processes_than_images_in_a_batch():
    labels, groups = np.arange(12) % 3, np.arange(12) % 2
    with pytest.raises(EdgeError, match="batch_size: got 6 images for 7 processes"):
        check_config(CONFIG, classes=list(COLOURS), labels=labels, groups=groups, num_ranks=7)
