import pytest
import torch
from sample_networks import random_network, relative_error

from export.fold import fold_scale
from train.networks.mobileone import reparameterize


@pytest.mark.parametrize("scale", [1 / 255, (1 / 58.4, 1 / 57.1, 0.3)])
def test_folded_network_takes_pixels(scale):
    fused = reparameterize(random_network())
    pixels = torch.randint(0, 256, (2, 3, 48, 40), generator=torch.Generator().manual_seed(0)).float()
    factors = torch.tensor(scale if isinstance(scale, tuple) else [scale] * 3).view(3, 1, 1)
    with torch.no_grad():
        assert relative_error(fold_scale(fused, scale)(pixels), fused(pixels * factors)) < 1e-4


def test_argument_is_not_changed_and_must_be_fused():
    model = random_network()
    with pytest.raises(ValueError, match="training form"):
        fold_scale(model, 2.0)
    fused = reparameterize(model)
    before = fused.body.stem.fused.weight.clone()
    fold_scale(fused, 2.0)
    assert torch.equal(fused.body.stem.fused.weight, before)
