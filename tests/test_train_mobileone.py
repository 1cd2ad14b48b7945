import pytest
import torch
from sample_networks import COLOURS, labelled_images, relative_error
from torch import nn
from torch.nn import functional

from train.networks.mobileone import VARIANTS, MobileOne, MobileOneBlock, reparameterize

# Millions of parameters for 1000 classes in inference form. Source: arXiv 2206.04040, table 3.
PAPER_PARAMETERS = {"s0": 2.1, "s1": 4.8, "s2": 7.8, "s3": 10.1, "s4": 14.8}


def random_body(variant="s0"):
    """In evaluation mode, with BatchNorms far from the identity: fresh ones would hide errors."""
    torch.manual_seed(0)
    model = MobileOne(variant)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.3, 1.2)
            norm.weight[::7] *= -1
            norm.bias.normal_(0, 0.3)
            norm.momentum = 1.0
        model(functional.interpolate(torch.rand(4, 3, 8, 8), size=64))  # statistics of images, or 43 layers forget them
        for norm in norms:
            norm.running_var.clamp_(min=0.2 * norm.running_var.mean())  # a dead channel would be amplified without end
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn(norm.num_features)
            norm.running_var *= torch.empty(norm.num_features).uniform_(0.7, 1.4)
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_forms_agree(variant):
    model = random_body(variant)
    blocks = torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    images = functional.interpolate(blocks, size=(64, 48))
    with torch.no_grad():
        expected = model(images)
        actual = reparameterize(model)(images)
        assert expected.shape == (2, model.num_features, 2, 2)
        exact = reparameterize(model.double())(images.double()), model(images.double())
    assert (expected[0] - expected[1]).abs().max() > 0.02 * expected.abs().max()
    assert relative_error(actual, expected) < 1e-4
    assert relative_error(*exact) < 1e-10


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("num_groups", [1, 8])
@pytest.mark.parametrize("use_se", [False, True])
def test_blocks_agree(stride, kernel_size, num_groups, use_se):
    torch.manual_seed(0)
    block = MobileOneBlock(
        16, 16, kernel_size, stride=stride, num_groups=num_groups, num_conv_branches=3, use_se=use_se
    )
    for _ in range(3):
        block(torch.randn(8, 16, 9, 7) * 2 + 1)  # moves the running statistics
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    block.eval()
    x = torch.randn(2, 16, 9, 7)
    with torch.no_grad():
        expected = block(x)
        block.reparameterize()
        assert relative_error(block(x), expected) < 1e-5
    assert (block.conv_branches, block.scale, block.identity) == (None, None, None)


def test_what_holds_the_body_is_copied():
    model = nn.Sequential(MobileOne("s0", num_conv_branches=1), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in model.train().state_dict().items()}
    fused = reparameterize(model)
    assert all(block.fused is not None for block in fused.modules() if isinstance(block, MobileOneBlock))
    assert not fused.training and model.training
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert reparameterize(fused).state_dict().keys() == fused.state_dict().keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_are_the_papers(variant):
    fused = reparameterize(MobileOne(variant))
    classifier = 1000 * (fused.num_features + 1)
    millions = (sum(parameter.numel() for parameter in fused.parameters()) + classifier) / 1e6
    assert millions == pytest.approx(PAPER_PARAMETERS[variant], abs=0.06)


def test_module_names_and_shapes():
    s4, s0 = MobileOne("s4").state_dict(), MobileOne("s0").state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in s4.items()}
    assert shapes["stem.conv_branches.0.conv.weight"] == (64, 3, 3, 3)
    assert shapes["stem.scale.conv.weight"] == (64, 3, 1, 1)
    assert "stem.identity.weight" not in shapes and "stem.conv_branches.1.conv.weight" not in shapes
    assert shapes["stages.0.0.conv_branches.0.conv.weight"] == (64, 1, 3, 3)
    assert shapes["stages.0.1.conv_branches.0.bn.running_mean"] == (192,)
    assert shapes["stages.2.19.identity.weight"] == (896,)
    assert {name.split(".")[0] for name in shapes} == {"stem", "stages"}
    with_se = {tuple(map(int, name.split(".")[1:3])) for name in shapes if ".se.reduce.weight" in name}
    assert with_se == {(2, i) for i in range(10, 20)} | {(3, 0), (3, 1)}
    assert shapes["stages.3.1.se.reduce.weight"] == (2048 // 16, 2048, 1, 1)
    assert "stages.0.0.conv_branches.3.conv.weight" in s0
    assert "stages.0.0.conv_branches.4.conv.weight" not in s0
    assert "stem.conv_branches.1.conv.weight" not in s0
    assert not any(".se." in name for name in s0)


def test_branches_beside_an_identity_start_small():
    model = MobileOne("s0")
    assert model.stages[1][3].conv_branches[0].bn.weight.eq(0.3).all()
    assert model.stages[1][2].scale.bn.weight.eq(0.3).all()
    assert model.stages[1][1].conv_branches[0].bn.weight.eq(1).all()


def test_learns_from_scratch_in_a_few_steps():
    torch.manual_seed(0)
    model = MobileOne("s0", num_conv_branches=2)
    classifier = nn.Linear(model.num_features, len(COLOURS))
    pixels, labels = labelled_images(12)
    images, targets = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).contiguous(), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW([*model.parameters(), *classifier.parameters()], lr=2e-3)
    losses = []
    for step in range(8):
        loss = functional.cross_entropy(classifier(model(images).mean((2, 3))), targets)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            norms = [parameter.grad.norm() for parameter in model.parameters()]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    # From the first step on the gradient reaches the stem, neither vanishing nor exploding on its way.
    stem, last = (block.conv_branches[0].conv.weight for block in (model.stem, model.stages[3][1]))
    sizes = {id(parameter): norm for parameter, norm in zip(model.parameters(), norms)}
    assert 1e-2 < sizes[id(stem)] / sizes[id(last)] < 1e2
    assert all(norm > 0 for norm in norms)


@pytest.mark.parametrize("arguments", [{"variant": "s9"}, {"num_conv_branches": 0}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="got"):
        MobileOne(**{"variant": "s0", **arguments})
