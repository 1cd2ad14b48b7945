"""Clean-up of an exported graph: ours, which int8 and the runtime need, then onnxsim's, and what happens without it.

PyTorch's exporter writes a padding that differs from side to side as a Pad with ten nodes that compute its amounts, and
gives one weight to two layers by an Identity; both go here. Beyond that a network fused in PyTorch gains little (stray
Constant nodes), and branches must never be left to a simplifier: onnxsim leaves an unfused MobileOne at 454 nodes. So a
missing or failing onnxsim costs nothing but a remark.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from .int8.calibrate import consumers_of, session_of


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str | None]:
    """Simplifies a model.

    Returns:
      The simplified model and None; or the model after the first step, and one line that says why.
    """
    model = clean_up(model)
    try:
        import onnxsim
    except ImportError:
        return model, "onnxsim is not installed: graph left as exported"
    try:
        simplified, is_same = onnxsim.simplify(model)
    except Exception as error:  # a C++ library: any failure leaves a model that already works
        return model, f"onnxsim failed ({str(error).strip().splitlines()[0][:120]}): graph left as exported"
    if not is_same:
        return model, "onnxsim changed the outputs: graph left as exported"
    return simplified, None


def clean_up(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without Identity, and without a Pad that can be padding of the convolution after it.

    A Pad stays where it adds anything but zeros, to other axes than a picture's or by an amount that depends on the
    input, and where anything else reads what it gives.
    """
    cleaned = onnx.ModelProto()
    cleaned.CopyFrom(model)
    graph = cleaned.graph
    outputs = [output.name for output in graph.output]
    original: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [original.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            original[node.output[0]] = node.input[0]
    readers = consumers_of(cleaned)
    for pad in [node for node in graph.node if node.op_type == "Pad" and node.output[0] not in outputs]:
        found = readers.get(pad.output[0], [])
        amounts = _amounts(cleaned, pad)
        if amounts is not None and [node.op_type for node in found] == ["Conv"]:
            _add_padding(found[0], amounts)
            found[0].input[0] = pad.input[0]
    needed = _ancestors(graph, outputs)
    del graph.node[:]
    graph.node.extend(needed)
    return cleaned


def _add_padding(convolution: onnx.NodeProto, amounts: np.ndarray) -> None:
    for attribute in [attribute for attribute in convolution.attribute if attribute.name == "pads"]:
        amounts = amounts + attribute.ints
        convolution.attribute.remove(attribute)
    convolution.attribute.append(onnx.helper.make_attribute("pads", amounts.tolist()))


def _amounts(model: onnx.ModelProto, pad: onnx.NodeProto) -> np.ndarray | None:
    """(4,) zeros that a Pad puts above, left, below and right; None where it does anything else."""
    names = [name for name in pad.input[1:] if name]
    nodes = _ancestors(model.graph, names)
    used = {*names, *(name for node in nodes for name in node.input)}
    is_constant = used.isdisjoint(entry.name for entry in model.graph.input)
    if not is_constant or len(pad.input) > 3 or any(attribute.s != b"constant" for attribute in pad.attribute):
        return None
    given = [onnx.ValueInfoProto(name=name) for name in names]
    stored = [entry for entry in model.graph.initializer if entry.name in used]
    graph = onnx.helper.make_graph(nodes, "amounts", [], given, stored)
    constants = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    amounts, *values = session_of(constants).run(None, {})
    is_around = len(amounts) == 8 and not amounts[[0, 1, 4, 5]].any() and (amounts >= 0).all()
    return amounts[[2, 3, 6, 7]] if is_around and not np.any(values) else None


def _ancestors(graph: onnx.GraphProto, names: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that tensors are computed with, in the order of the graph."""
    needed, nodes = {*names}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    return nodes[::-1]
