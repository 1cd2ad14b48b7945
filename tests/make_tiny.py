"""Writes tests/data/tiny.onnx: a random network of 3 classes on 32 px that obeys the model file's contract.

    python tests/make_tiny.py

The runtime's tests use the committed file, so they need neither torch nor onnx.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.photo.preprocess import Preprocess

PATH = Path(__file__).parent / "data" / "tiny.onnx"
CLASSES = ["ash", "birch", "cedar"]


def add_outputs(model: onnx.ModelProto) -> None:
    """Puts two outputs before the logits: what a reader knows by name, and what none knows."""
    shapes = {"features": ["N", 8], "map": ["N", 3, 1, 1]}
    sources = {"features": ("Flatten", "pooled"), "map": ("Identity", "scores")}
    model.graph.node.extend(helper.make_node(op, [source], [name]) for name, (op, source) in sources.items())
    outputs = [*model.graph.output]
    del model.graph.output[:]
    added = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    model.graph.output.extend([*added, *outputs])


def main() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.2, (8, 3, 5, 5)).astype(np.float32) / 255,
        "b1": rng.normal(0, 0.3, 8).astype(np.float32),
        "w2": rng.normal(0, 4, (3, 8, 1, 1)).astype(np.float32),
        "b2": np.zeros(3, np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["nchw"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "w1", "b1"], ["conv"], strides=[4, 4]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "w2", "b2"], ["scores"]),
        helper.make_node("Flatten", ["scores"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(
        model,
        {
            "fairedge.schema": "edge-model/1",
            "classes": json.dumps(CLASSES),
            "preprocess": Preprocess(size_px=32).to_json(),
        },
    )
    onnx.checker.check_model(model, full_check=True)
    PATH.parent.mkdir(exist_ok=True)
    onnx.save(model, PATH)


if __name__ == "__main__":
    main()
