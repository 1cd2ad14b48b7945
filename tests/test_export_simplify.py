import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sample_images import TINY_MODEL

from export.graph import session_of
from export.to_onnx import clean_up, simplify


def padded_model(*, value=0.0, amounts=(0, 0, 1, 2, 0, 0, 3, 0), is_shared=False, **attributes):
    """A Pad, whose amounts two nodes compute, and a convolution, whose weight comes by an Identity."""
    tensors = {
        "half": np.array(amounts[:4]), "other": np.array(amounts[4:]), "value": np.float32(value),
        "weight": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Concat", ["half", "other"], ["amounts"], axis=0),
        helper.make_node("Cast", ["amounts"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Pad", ["images", "whole", "value"], ["padded"], **attributes),
        helper.make_node("Identity", ["weight"], ["same"]),
        helper.make_node("Conv", ["padded", "same"], ["conv"], pads=[1, 0, 0, 1], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["padded" if is_shared else "conv"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "padded",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("conv", "logits")],
        [numpy_helper.from_array(np.asarray(tensor), name) for name, tensor in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("options", "operators"),
    [
        ({}, ["Conv", "GlobalAveragePool"]),
        ({"mode": "constant"}, ["Conv", "GlobalAveragePool"]),
        ({"value": 1.0}, ["Concat", "Cast", "Pad", "Conv", "GlobalAveragePool"]),
        ({"mode": "edge"}, ["Concat", "Cast", "Pad", "Conv", "GlobalAveragePool"]),
        ({"amounts": (0, 0, -1, 2, 0, 0, 3, 0)}, ["Concat", "Cast", "Pad", "Conv", "GlobalAveragePool"]),
        ({"is_shared": True}, ["Concat", "Cast", "Pad", "Conv", "GlobalAveragePool"]),
    ],
)
def test_zeros_around_a_picture_become_padding_of_the_convolution(options, operators):
    model = padded_model(**options)
    cleaned = clean_up(model)
    assert [node.op_type for node in cleaned.graph.node] == operators
    images = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    before, after = (session_of(m).run(["conv"], {"images": images})[0] for m in (model, cleaned))
    assert np.allclose(before, after, atol=1e-5) and before.std() > 0.1


def test_simplified_or_left_alone_with_a_reason(monkeypatch):
    model = onnx.load(TINY_MODEL)
    simplified, remark = simplify(model)
    assert remark is None and len(simplified.graph.node) == len(model.graph.node)
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    assert simplify(model) == (model, "onnxsim is not installed: graph left as exported")


def test_a_failure_is_a_remark(monkeypatch):
    import onnxsim

    def fail(model):
        raise RuntimeError("no\nway")

    model = onnx.load(TINY_MODEL)
    monkeypatch.setattr(onnxsim, "simplify", fail)
    assert simplify(model) == (model, "onnxsim failed (no): graph left as exported")
    monkeypatch.setattr(onnxsim, "simplify", lambda model: (onnx.ModelProto(), False))
    assert simplify(model) == (model, "onnxsim changed the outputs: graph left as exported")
