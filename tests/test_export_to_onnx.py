import json
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from sample_networks import random_network, relative_error, small_lite

from edge.classifier import DEFAULT_MODEL
from edge.errors import EdgeError
from edge.photo.preprocess import Preprocess
from export import to_onnx as module
from export.to_onnx import InferenceGraph, to_onnx
from train.networks.head import to_linear

CLASSES = {"classes": '["ash", "birch", "Cedar"]'}
PREPROCESS = Preprocess(size_px=64, scale=(1 / 255, 1 / 200, 1 / 300))


@pytest.fixture(scope="module")
def exported():
    return to_onnx(random_network(num_conv_branches=1), preprocess=PREPROCESS, metadata=CLASSES)[0]


def pictures(num_images, side, *, seed=0):
    """Smooth fields, not noise: their logits differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_images, side // 16, side // 16, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(16, axis=1).repeat(16, axis=2))


def logits_of(content, images, *, threads=1, output="logits"):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # bad neighbours on busy cores
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda first, last: session.run([output], {"images": images[first:last]})[0]


def assert_batch_invariant(content, side):
    images = pictures(8, side)
    alone = logits_of(content, images)
    expected = np.concatenate([alone(i, i + 1) for i in range(8)])
    assert len(np.unique(expected, axis=0)) == 8
    for threads in (1, 2, 4):
        logits = logits_of(content, images, threads=threads)
        for batch_size in (1, 2, 3, 4, 5, 8):
            for first in range(0, 8, batch_size):
                last = min(8, first + batch_size)
                assert np.array_equal(logits(first, last), expected[first:last]), (threads, batch_size, first)


def test_contract(exported):
    (images,), (logits, features) = exported.graph.input, exported.graph.output
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    assert (features.name, features.type.tensor_type.elem_type) == ("features", onnx.TensorProto.FLOAT)
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["N", 64, 64, 3]
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["N", 3]
    assert [d.dim_param or d.dim_value for d in features.type.tensor_type.shape.dim] == ["N", 1024]
    operators = [node.op_type for node in exported.graph.node]
    last = ["GlobalAveragePool", "Conv", "Flatten", "Flatten"]
    assert operators == ["Transpose", "Cast", *["Conv", "Relu"] * 43, *last]
    assert [(entry.domain, entry.version) for entry in exported.opset_import] == [("", 18)]


def test_metadata_is_ours_alone(exported):
    metadata = {entry.key: entry.value for entry in exported.metadata_props}
    assert metadata == {"fairedge.schema": "edge-model/1", "preprocess": PREPROCESS.to_json(), **CLASSES}
    assert Preprocess.from_json(metadata["preprocess"]) == PREPROCESS
    assert not any(node.doc_string or node.metadata_props for node in exported.graph.node)


@pytest.mark.parametrize(
    ("variant", "head"),
    [
        ("mobileone_s0", {"head": "cosine"}),
        *(pytest.param(f"mobileone_s{i}", {"neck": True}, marks=pytest.mark.slow) for i in (1, 2, 3, 4)),
        ("mobilenet_v2", {"distill_head": True}),
        ("mobilenet_v3_small", {"head": "cosine", "neck": True, "distill_head": True}),
        ("efficientnet_lite0", {"neck": True}),
    ],
)
def test_equals_pytorch(variant, head):
    assert_equals_pytorch(random_network(variant, **head))


def assert_equals_pytorch(model):
    file, remark = to_onnx(model, preprocess=PREPROCESS, metadata=CLASSES)
    images = pictures(3, 64)
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2) * torch.tensor(PREPROCESS.scale).view(3, 1, 1)
    with torch.no_grad():
        features = model.embed(scaled)
        expected, trained = to_linear(model.head)(features).numpy(), model(scaled).numpy()
    assert (remark is None) == (sys.modules.get("onnxsim", True) is not None)
    logits = logits_of(file.SerializeToString(), images)(0, 3)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    assert (logits.argmax(axis=1) == trained.argmax(axis=1)).all()
    pooled = logits_of(file.SerializeToString(), images, output="features")(0, 3)
    assert np.abs(pooled - features.numpy()).max() < 1e-4 * features.numpy().max()
    return file


@pytest.mark.parametrize("has_onnxsim", [True, False])
def test_padding_and_clipping_survive_with_and_without_onnxsim(has_onnxsim, monkeypatch):
    if not has_onnxsim:
        monkeypatch.setitem(sys.modules, "onnxsim", None)
    graph = assert_equals_pytorch(small_lite(neck=True)).graph
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    layers = ["Conv", "Clip", "Conv", "Clip", "Conv", "Add", *["Conv", "Clip"] * 2, "Conv", *["Conv", "Clip"] * 2]
    last = ["Conv", "Add", "Conv", "Clip", "GlobalAveragePool", "Conv", "Flatten", "Flatten"]
    assert [node.op_type for node in nodes] == ["Transpose", "Cast", *layers, *last]
    found = [{a.name: list(a.ints) for a in node.attribute} for node in nodes if node.op_type == "Conv"]
    strided = [attributes for attributes in found if attributes["strides"] == [2, 2]]
    assert [attributes["pads"] for attributes in strided] == [[0, 0, 1, 1], [1, 1, 2, 2]]  # 3x3, 5x5
    stored = {entry.name: entry for entry in graph.initializer}
    stored |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    for clip in [node for node in nodes if node.op_type == "Clip"]:
        assert [float(numpy_helper.to_array(stored[name])) for name in clip.input[1:]] == [0, 6]


@pytest.mark.parametrize("side", [pytest.param(64, marks=pytest.mark.slow), 128])
def test_logits_do_not_depend_on_batch_or_threads(side):
    model = random_network(num_classes=6, num_conv_branches=1)
    file, _ = to_onnx(model, preprocess=Preprocess(size_px=side), metadata=CLASSES)
    assert_batch_invariant(file.SerializeToString(), side)


def test_the_bundled_model_does_not_depend_on_batch_or_threads():
    assert_batch_invariant(DEFAULT_MODEL.read_bytes(), 128)


def test_a_wrong_graph_is_refused(monkeypatch):
    monkeypatch.setattr(module, "fold_scale", lambda body, scale: None)
    with pytest.raises(EdgeError, match="logits differ from PyTorch's by .*, expected at most") as caught:
        to_onnx(small_lite(), preprocess=PREPROCESS, metadata=CLASSES)
    assert caught.value.exit_status == 6


def test_wrong_features_are_refused(monkeypatch):
    forward = InferenceGraph.forward

    def changed(self, images):
        logits, features = forward(self, images)
        return logits, 1.001 * features

    monkeypatch.setattr(InferenceGraph, "forward", changed)
    with pytest.raises(EdgeError, match="features differ from PyTorch's by .*, expected at most"):
        to_onnx(small_lite(), preprocess=PREPROCESS, metadata=CLASSES)


def test_description_is_what_pytorch_counts():
    model = small_lite()
    file, _ = to_onnx(model, preprocess=PREPROCESS, metadata=CLASSES, variant="any")
    graph, macs = InferenceGraph(model, 1.0), []
    for layer in [layer for layer in graph.modules() if isinstance(layer, torch.nn.Conv2d)]:
        layer.register_forward_hook(lambda layer, _, output: macs.append(output[0].numel() * layer.weight[0].numel()))
    graph(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    # The factor of a BatchNorm goes into the weights before it, and its shift becomes their bias.
    factors = [layer.weight for layer in graph.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    parameters = sum(p.numel() for p in graph.parameters()) - sum(p.numel() for p in factors)
    described = json.loads({entry.key: entry.value for entry in file.metadata_props}["model"])
    assert described == {"variant": "any", "parameters": parameters, "macs": sum(macs)}


@pytest.mark.parametrize("scale", [1 / 255, (1 / 58.4, 1 / 57.1, 0.3)])
def test_the_scale_is_folded_into_a_copy(scale):
    model = small_lite()
    pixels = torch.from_numpy(pictures(2, 48))
    factors = torch.tensor(scale if isinstance(scale, tuple) else [scale] * 3).view(3, 1, 1)
    with torch.no_grad():
        folded = InferenceGraph(model, scale)(pixels)[0]
        assert relative_error(folded, model(pixels.permute(0, 3, 1, 2) * factors)) < 1e-4
