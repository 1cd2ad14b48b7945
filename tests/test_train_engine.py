import csv
import dataclasses

import pytest
import torch
from sample_networks import COLOURS, labelled_images

from edge.preprocess import Preprocess
from train import checkpoint as checkpoints
from train.config import TrainConfig
from train.engine import TrainingError, fit, learning_rate, start

CONFIG = TrainConfig(num_conv_branches=1, sizes_px=(32,), batch_size=6, epochs=4, ema_decay=0.9, lr=1e-3)
IMAGES, LABELS = labelled_images(12)


def blank(config=CONFIG):
    return start(
        config,
        recipe="plain",
        classes=list(COLOURS),
        preprocess=Preprocess(size_px=config.sizes_px[-1]).to_json(),
        data_name="colours",
        cluster_sha256="0" * 64,
        folds_sha256=None,
        hold_out=None,
        commit="unknown",
    )


def tensors_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_20_steps_lower_the_loss_and_the_seed_decides(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=10)
    (tmp_path / "again").mkdir()
    losses = [row.loss for row in fit(blank(config), IMAGES, LABELS, out=tmp_path, quiet=True)]
    assert losses[-1] < 0.7 * losses[0]
    again = fit(blank(config), IMAGES, LABELS, out=tmp_path / "again", quiet=True)
    assert [next(again).loss, next(again).loss] == losses[:2]
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(2, 21, 2))


def test_resuming_equals_not_stopping(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    config = dataclasses.replace(CONFIG, sizes_px=(32, 40), class_power=0.5)
    list(fit(blank(config), IMAGES, LABELS, out=unbroken, quiet=True))
    run = fit(blank(config), IMAGES, LABELS, out=broken, quiet=True)
    next(run), next(run)
    run.close()
    with open(broken / "log.csv", "a") as file:
        file.write("3,6,40,0.1,0.1,0.1\n")  # a row whose epoch never reached its checkpoint
    list(fit(checkpoints.load(broken), IMAGES, LABELS, out=broken, quiet=True))
    one, other = checkpoints.load(unbroken), checkpoints.load(broken)
    assert tensors_equal(one.model, other.model)
    assert tensors_equal(one.ema, other.ema)
    assert torch.equal(one.generator, other.generator)
    assert (one.epoch, one.step) == (other.epoch, other.step) == (4, 8)
    logs = [(folder / "log.csv").read_text().splitlines() for folder in (unbroken, broken)]
    assert len(logs[0]) == 5
    assert [line.rsplit(",", 1)[0] for line in logs[0]] == [line.rsplit(",", 1)[0] for line in logs[1]]


def test_nan_stops_with_the_step_and_keeps_the_checkpoint(tmp_path):
    run = fit(blank(), IMAGES, LABELS, out=tmp_path, quiet=True)
    next(run)
    run.close()
    state = checkpoints.load(tmp_path)
    state.model["head.fc.bias"][0] = float("nan")
    with pytest.raises(TrainingError, match=r"loss is nan at step 2 \(epoch 2, .* checkpoint of epoch 1 is kept"):
        list(fit(state, IMAGES, LABELS, out=tmp_path, quiet=True))
    assert checkpoints.load(tmp_path).epoch == 1


def test_learning_rate_rises_then_falls():
    config = TrainConfig(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates.index(max(rates)) == 10 and max(rates) == 1
    assert 0 < rates[0] < 0.1 and 0 < rates[-1] < 1e-3
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
