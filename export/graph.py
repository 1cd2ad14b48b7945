"""What the steps of an export ask of an ONNX graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from edge.errors import EdgeError


def stored(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The stored tensors by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def store(tensors: Mapping[str, onnx.TensorProto], name: str, value: np.ndarray) -> None:
    """Puts another value in the place of a stored tensor's."""
    tensors[name].CopyFrom(onnx.numpy_helper.from_array(value, name))


def readers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def attribute_of(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute."""
    found = (onnx.helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name)
    return next(found, default)


def way_to(model: onnx.ModelProto, names: Collection[str], known: Collection[str] = ()) -> list[onnx.NodeProto]:
    """The nodes that compute some tensors from known ones, in the order of the graph."""
    needed, nodes = {*names} - {*known}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed |= {*node.input} - {*known}
            nodes.append(node)
    return nodes[::-1]


def prune(model: onnx.ModelProto) -> None:
    """Removes the nodes that no output needs."""
    nodes = way_to(model, [output.name for output in model.graph.output])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def compute(model: onnx.ModelProto, names: Sequence[str], known: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Computes inner tensors from those that are known, by that part of the model that this takes."""
    nodes = way_to(model, names, known)
    used = {*names, *(name for node in nodes for name in node.input)}
    given = {name: value for name, value in known.items() if name in used}
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    graph = onnx.helper.make_graph(nodes, "part", inputs, outputs, weights)
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return [np.asarray(value) for value in session_of(part).run(None, given)]


def session_of(model: onnx.ModelProto, outputs: Sequence[str] = ()) -> ort.InferenceSession:
    """A session of one thread that also gives inner tensors, those of the names `outputs`."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    own = {output.name for output in model.graph.output}
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in own)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(extended.SerializeToString(), options, providers=["CPUExecutionProvider"])


def check(model: onnx.ModelProto, what: str) -> ort.InferenceSession:
    """A session of a model that was just made.

    Raises:
      EdgeError: it is invalid; `what` names it.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        return session_of(model)
    except Exception as error:  # neither library has a common base but Exception
        reason = str(error).strip().splitlines()[0][:200]
        raise EdgeError(f"the {what} model is invalid: {reason}", exit_status=6) from error
