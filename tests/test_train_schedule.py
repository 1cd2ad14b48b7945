import pytest
import torch

from train.config import ModelConfig, OptimConfig
from train.loop.optimizer import build_optimizer, learning_rate, set_rates
from train.networks.network import build


def test_cosine_rises_then_falls():
    config = OptimConfig(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates.index(max(rates)) == 10 and max(rates) == 1
    assert 0 < rates[0] < 0.1 and 0 < rates[-1] < 1e-3
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_constant_stays():
    config = OptimConfig(lr=0.3, warmup=0.0, schedule="constant")
    assert {learning_rate(step, 50, config) for step in range(50)} == {0.3}


def test_onecycle_is_pytorchs():
    config = OptimConfig(lr=0.1, warmup=0.1, schedule="onecycle", optimizer="sgd", weight_decay=1e-5)
    model = build(ModelConfig("mobilenet_v3_small"), 3)
    ours = build_optimizer(model, config)
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.1, total_steps=200, pct_start=0.1)
    for step in range(200):
        lr = set_rates(ours, step, 200, config)
        assert lr == pytest.approx(theirs.param_groups[0]["lr"])
        assert ours.param_groups[0]["momentum"] == pytest.approx(theirs.param_groups[0]["momentum"])
        theirs.step()
        schedule.step()


def test_body_rate_and_decay():
    config = OptimConfig(lr=1.0, warmup=0.0, body_lr=0.2, weight_decay=0.3)
    optimizer = build_optimizer(build(ModelConfig("mobilenet_v3_small", neck=True), 3), config)
    set_rates(optimizer, 0, 10, config)
    groups = [(round(g["lr"], 6), g["weight_decay"], {p.ndim > 1 for p in g["params"]}) for g in optimizer.param_groups]
    assert groups == [(0.2, 0.3, {True}), (0.2, 0.0, {False}), (1.0, 0.3, {True}), (1.0, 0.0, {False})]
    counted = sum(len(g["params"]) for g in optimizer.param_groups)
    assert counted == sum(p.requires_grad for p in build(ModelConfig("mobilenet_v3_small", neck=True), 3).parameters())
