import pytest
import torch
from sample_networks import COLOURS, labelled_images
from torch.nn import functional

from train.networks.mobilenet import MobileNetV2, MobileNetV3Small, multiple_of_8

BODIES = {MobileNetV2: 1280, MobileNetV3Small: 576}


def derived_v2_size():
    """Parameters of arXiv 1801.04381, table 2, by hand: weights of the convolutions, and 2 per channel of BatchNorm."""
    total, channels = 27 * 32 + 2 * 32, 32
    for factor, out, repeats in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for _ in range(repeats):
            inner = factor * channels
            total += (channels * inner + 2 * inner) * (factor > 1) + 9 * inner + 2 * inner + inner * out + 2 * out
            channels = out
    return total + channels * 1280 + 2 * 1280


def derived_v3_small_size():
    """Parameters of arXiv 1905.02244, table 2: kernel, expanded, channels and the attention's reduced channels."""
    rows = [(3, 16, 16, 8), (3, 72, 24, 0), (3, 88, 24, 0), (5, 96, 40, 24), (5, 240, 40, 64), (5, 240, 40, 64)]
    rows += [(5, 120, 48, 32), (5, 144, 48, 40), (5, 288, 96, 72), (5, 576, 96, 144), (5, 576, 96, 144)]
    total, channels = 27 * 16 + 2 * 16, 16
    for kernel, inner, out, reduced in rows:
        total += (channels * inner + 2 * inner) * (inner != channels) + (kernel**2 + 2) * inner + (inner + 2) * out
        total += (inner * reduced + reduced + reduced * inner + inner) * (reduced > 0)
        channels = out
    return total + channels * 576 + 2 * 576


@pytest.mark.parametrize(
    "body,published,derived",
    [(MobileNetV2, 2_223_872, derived_v2_size()), (MobileNetV3Small, 927_008, derived_v3_small_size())],
)
def test_sizes_are_the_published(body, published, derived):
    assert sum(parameter.numel() for parameter in body().parameters()) == published == derived


@pytest.mark.parametrize("body", BODIES)
def test_shapes(body):
    model = body().eval()
    assert model.num_features == BODIES[body]
    with torch.no_grad():
        assert model(torch.rand(2, 3, 64, 96)).shape == (2, BODIES[body], 2, 3)


def test_where_the_input_is_added():
    adds = [block.adds_input for block in MobileNetV2().blocks]
    assert [i for i, added in enumerate(adds) if added] == [2, 4, 5, 7, 8, 9, 11, 12, 14, 15]
    adds = [block.adds_input for block in MobileNetV3Small().blocks]
    assert [i for i, added in enumerate(adds) if added] == [2, 4, 5, 7, 9, 10]


def test_reduced_channels():
    assert [multiple_of_8(x) for x in (4, 24, 60, 30, 36, 72, 144, 18, 11)] == [8, 24, 64, 32, 40, 72, 144, 24, 16]


@pytest.mark.parametrize("body", BODIES)
def test_learns_in_a_few_steps(body):
    torch.manual_seed(0)
    model = body()
    classifier = torch.nn.Linear(model.num_features, len(COLOURS))
    pixels, labels = labelled_images(12)
    images, targets = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).contiguous(), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW([*model.parameters(), *classifier.parameters()], lr=2e-3)
    losses = []
    for _ in range(8):
        loss = functional.cross_entropy(classifier(model(images).mean((2, 3))), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())
