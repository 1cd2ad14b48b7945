import json

import numpy as np
import onnx
import pytest
import torch
from make_tiny import PATH as TINY
from onnx import TensorProto, helper, numpy_helper
from sample_networks import random_network
from torch import nn

from edge.classifier import Classifier
from edge.errors import ModelError
from edge.photo.preprocess import Preprocess
from export.info import describe, read, table
from export.to_onnx import to_onnx
from train.networks.head import Head
from train.networks.network import Network

CLASSES = {"classes": '["ash", "birch", "Cedar"]'}


def quantised():
    """A convolution and a classifier with int8 weights between QuantizeLinear and DequantizeLinear, one float."""
    rng = np.random.default_rng(0)
    stored = {
        "w1": rng.integers(-9, 9, (4, 3, 3, 3), np.int8), "b1": np.zeros(4, np.float32),
        "w2": rng.normal(size=(5, 4, 1, 1)).astype(np.float32),
        "s": np.float32(0.5), "z": np.int8(0), "sx": np.float32(1), "zx": np.uint8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["qx"]),
        helper.make_node("DequantizeLinear", ["qx", "sx", "zx"], ["dx"]),
        helper.make_node("DequantizeLinear", ["w1", "s", "z"], ["dw1"]),
        helper.make_node("Conv", ["dx", "dw1", "b1"], ["y"], name="first", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["y", "w2"], ["out"], name="second"),
    ]
    graph = helper.make_graph(
        nodes, "q",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 5, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_file_of_ours_by_hand():
    info = read(TINY)
    assert json.loads(json.dumps(info)) == info
    assert info["metadata"]["classes"] == ["ash", "birch", "cedar"]
    assert info["metadata"]["fairedge.schema"] == "edge-model/1"
    assert info["remarks"] == [] and info["opset"] == {"ai.onnx": 18} and info["precision"] == "float"
    first, second = (layer for layer in info["layers"] if layer["op"] == "Conv")
    assert first["shape"] == [1, 8, 7, 7] and second["shape"] == [1, 3, 1, 1]  # (32 - 5) // 4 + 1 = 7
    assert (first["macs"], second["macs"]) == (8 * 7 * 7 * 3 * 5 * 5, 3 * 8)
    assert (first["parameters"], second["parameters"]) == (8 * 75 + 8, 3 * 8 + 3)
    assert info["totals"] == {
        "macs": first["macs"] + 24, "parameters": 635, "weight_bytes": 4 * 635, "layers": 2, "int8_layers": 0,
    }
    lines = list(table(info))
    assert any("Conv" in line and "8x7x7" in line for line in lines)
    assert lines[-1] == "besides: 1 Transpose, 1 Cast, 1 Relu, 1 GlobalAveragePool, 1 Flatten"


def test_totals_are_those_that_the_export_writes():
    model = random_network(num_classes=6, num_conv_branches=1)
    metadata = {"classes": json.dumps([*"abcdef"])}
    file, _ = to_onnx(model, preprocess=Preprocess(size_px=128), metadata=metadata, variant="mobileone_s0")
    found = describe(file)
    described = json.loads({entry.key: entry.value for entry in file.metadata_props}["model"])
    assert described == {"variant": "mobileone_s0", "parameters": 1_059_654, "macs": 89_503_744}
    assert (found["totals"]["macs"], found["totals"]["parameters"]) == (89_503_744, 1_059_654)
    assert [(o["name"], o["shape"]) for o in found["outputs"]] == [("logits", ["N", 6]), ("features", ["N", 1024])]


def test_weights_behind_dequantisers_are_counted_in_their_layer():
    found = describe(quantised())
    first, second = (layer for layer in found["layers"] if layer["op"] == "Conv")
    assert (first["int8"], second["int8"], found["precision"]) == (True, False, "mixed")
    assert first["parameters"] == 4 * 27 + 4 and first["macs"] == 4 * 16 * 27
    assert first["bytes"] == 4 * 27 + 4 + 1 + 4 * 4  # int8 weights, their scale and zero point, float bias
    assert second["bytes"] == 4 * 20
    assert [layer["op"] for layer in found["layers"]] == ["QuantizeLinear", "DequantizeLinear", "Conv", "Conv"]


def test_a_file_without_metadata_is_described_with_the_reason(tmp_path):
    path = tmp_path / "foreign.onnx"
    onnx.save(quantised(), path)
    info = read(path)
    assert info["remarks"][0].startswith("the runtime refuses it: the model does not describe itself: no metadata")
    assert info["totals"]["layers"] == 2
    assert info["inputs"] == [{"name": "x", "type": "float", "shape": ["N", 3, 8, 8]}]


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x09", b"\xff\xd8\xff" * 99])
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx: no valid ONNX model") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="no such model file"):
        read(tmp_path / "absent.onnx")


def test_unknown_shapes_are_said_not_guessed():
    model = quantised()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "H"
    for dim in model.graph.output[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "H"
    info = describe(model)
    assert info["totals"]["macs"] is None and info["totals"]["parameters"] == 132
    everything = {"file": "m", "bytes": 9, "sha256": "0", "metadata": {}, "opset": {}, "ir_version": 9, "remarks": []}
    assert "?" in "".join(table(everything | info))


def test_a_network_of_the_users_own(tmp_path):
    class Body(nn.Sequential):
        num_features = 24

    body = Body(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU(),
        nn.Conv2d(16, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU(),
    )
    for module in body:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    torch.manual_seed(0)
    model = Network(body, Head(24, 3)).eval()
    nn.init.normal_(model.head.fc.weight)
    preprocess = Preprocess(size_px=32, scale=1 / 127)
    file, _ = to_onnx(model, preprocess=preprocess, metadata=CLASSES)
    path = tmp_path / "own.onnx"
    onnx.save(file, path)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 127).numpy()
    assert np.allclose(Classifier.load(path).logits(images), expected, atol=1e-4 * np.abs(expected).max())
    assert read(path)["totals"]["parameters"] == 3 * 16 * 9 + 16 + 16 * 24 * 9 + 24 + 24 * 3 + 3
