import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from train.average import RunningMean, greedy_soup, reestimate_batch_norm


def state_of(value, steps=0, dtype=torch.float32):
    return {"weight": torch.full((2, 3), float(value), dtype=dtype), "steps": torch.tensor(steps)}


def test_running_mean_is_the_mean():
    mean = RunningMean()
    generator = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(4, 2, generator=generator), "n": torch.tensor(i)} for i in range(7)]
    for state in states:
        mean.add(state)
    expected = torch.stack([state["w"].double() for state in states]).mean(0)
    torch.testing.assert_close(mean.state()["w"], expected.float(), rtol=1e-7, atol=0)
    assert mean.state()["n"] == 6 and mean.num_added == 7


def test_running_mean_copies_and_keeps_number_types():
    mean, state = RunningMean(), state_of(1, dtype=torch.bfloat16)
    mean.add(state)
    state["weight"].fill_(9)
    assert mean.state()["weight"].eq(1).all() and mean.state()["weight"].dtype == torch.bfloat16
    mean.state()["steps"].fill_(5)
    assert mean.state()["steps"] == 0


def test_running_mean_goes_on_from_a_checkpoint():
    mean = RunningMean.from_dict({})
    for value in (1, 2):
        mean.add(state_of(value, dtype=torch.float64))
    checkpoint = mean.to_dict()
    resumed = RunningMean.from_dict(checkpoint)
    for each in (mean, resumed):
        each.add(state_of(6, steps=4, dtype=torch.float64))
    assert resumed.state()["weight"].eq(3).all() and mean.state()["weight"].eq(3).all() and resumed.num_added == 3
    assert RunningMean.from_dict(checkpoint).state()["weight"].eq(1.5).all()
    mean.state()["weight"].fill_(9)
    assert mean.state()["weight"].eq(3).all()


def test_running_mean_adds_up_where_float32_does_not():
    mean = RunningMean()
    for value in (1e8, 1.0, 1.0, 1.0):
        mean.add(state_of(value))
    assert mean.state()["weight"][0, 0].item() == pytest.approx((1e8 + 3) / 4, rel=1e-7)


def test_running_mean_refuses():
    mean = RunningMean()
    with pytest.raises(ValueError, match="no state"):
        mean.state()
    mean.add(state_of(1))
    with pytest.raises(ValueError, match="differs in other, weight"):
        mean.add({"other": torch.zeros(1), "steps": torch.tensor(0), "weight": torch.zeros(9)})


def test_soup_keeps_what_does_not_harm():
    # Best at a mean of 2. Alone: -1, 0, -8, -1.5; kept in order 1, 0?, 3?, 2?
    states = [state_of(v) for v in (3.0, 2.0, 10.0, 0.5)]

    def score(state):
        return -abs(state["weight"].mean().item() - 2)

    soup, kept = greedy_soup(states, score)
    assert kept == [1] and soup["weight"].eq(2).all()

    soup, kept = greedy_soup([state_of(v) for v in (3.5, 10.0, 1.0)], score)
    assert kept == [2, 0]  # alone -1, together -0.25, with the third -2.8
    assert soup["weight"].eq(2.25).all()


def test_soup_keeps_equals_and_scores_each_average_once():
    calls = []

    def score(state):
        calls.append(state["weight"][0, 0].item())
        return 0.5

    soup, kept = greedy_soup([state_of(1), state_of(3), state_of(5)], score)
    assert kept == [0, 1, 2] and soup["weight"].eq(3).all()
    assert calls == [1, 3, 5, 2, 3]


def test_soup_of_one_and_what_is_refused():
    soup, kept = greedy_soup([state_of(4)], lambda state: -math.inf)
    assert kept == [0] and soup["weight"].eq(4).all()
    with pytest.raises(ValueError, match="no state"):
        greedy_soup([], lambda state: 0.0)
    with pytest.raises(ValueError, match="state 1: got a score of NaN"):
        greedy_soup([state_of(1), state_of(2)], lambda state: math.nan if state["weight"][0, 0] == 2 else 1.0)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5)
    ).double()


def test_statistics_are_the_mean_over_batches():
    model = net().train()
    model[1].eval()
    model[1].running_mean.fill_(7)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    batches = [torch.randn(6, 3, 5, 5, dtype=torch.float64) for _ in range(4)]
    reestimate_batch_norm(model, iter(batches))

    outs = [model[0](batch) for batch in batches]
    torch.testing.assert_close(model[1].running_mean, torch.stack([o.mean((0, 2, 3)) for o in outs]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([o.var((0, 2, 3)) for o in outs]).mean(0))
    # The second norm sees the first one's batch statistics and no dropout.
    inputs = [model[4](functional.batch_norm(o, None, None, training=True).flatten(1)) for o in outs]
    torch.testing.assert_close(model[5].running_mean, torch.stack([i.mean(0) for i in inputs]).mean(0))
    assert [m.training for m in model] == [True, False, True, True, True, True] and model.training
    assert model[1].momentum == model[5].momentum == 0.1
    assert all(torch.equal(p, weights[name]) and p.grad is None for name, p in model.named_parameters())


def test_no_batch_changes_nothing():
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="no batch"):
        reestimate_batch_norm(model, [])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_flags_come_back_after_an_error():
    model = net().eval()
    with pytest.raises(RuntimeError):
        reestimate_batch_norm(model, [torch.zeros(2, 1, 5, 5, dtype=torch.float64)])
    assert not any(m.training for m in model.modules()) and model[1].momentum == 0.1
