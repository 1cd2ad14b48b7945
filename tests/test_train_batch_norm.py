import pytest
import torch
from torch import nn
from torch.nn import functional

from train.loop.optimizer import reestimate_batch_norm


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
