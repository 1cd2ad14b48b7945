import math

import pytest
import torch
from torch import nn

from train.loop.optimizer import Ema


def model_of(value, steps=0):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for tensor in (*model.parameters(), model[1].running_mean):
            tensor.fill_(value)
        model[1].num_batches_tracked.fill_(steps)
    return model


def test_decay_0_copies():
    ema = Ema(model_of(0.0), decay=0.0, ramp=10.0)
    ema.update(model_of(4.0))
    assert ema.model[0].weight.eq(4).all()


@pytest.mark.parametrize("ramp", [0.0, 5.0])
def test_ramp_then_decay(ramp):
    ema = Ema(model_of(0.0), decay=0.5, ramp=ramp)
    expected = 0.0
    for update in range(1, 21):
        ema.update(model_of(float(update)))
        decay = 0.5 * (1 - math.exp(-update / ramp)) if ramp else 0.5
        expected = decay * expected + (1 - decay) * update
    assert ema.model[0].bias[0].item() == pytest.approx(expected, rel=1e-6)
    assert ema.model[1].running_mean[0].item() == pytest.approx(expected, rel=1e-6)


def test_integers_are_copied_and_the_shadow_stays_apart():
    model = model_of(1.0, steps=3).train()
    ema = Ema(model, decay=0.9, ramp=10.0)
    ema.update(model_of(2.0, steps=7))
    assert ema.model[1].num_batches_tracked == 7
    assert not ema.model.training and model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert model[0].weight.eq(1).all()
