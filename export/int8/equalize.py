"""Equalisation and bias correction: what makes a fused network fit for int8, and costs it nothing.

Fusing branches and BatchNorms leaves the channels of a layer with very different ranges, and all of them share one
step of their activations. Between two convolutions with a ReLU, a channel may be scaled by 1 / s and the next layer's
weights for it by s without any change, since relu(x / s) = relu(x) / s for s > 0. Here s is a power of two: floats are
scaled by it without rounding, so the equalised network gives the same bits, and int8 gains as much.

Source: Xiao et al., SmoothQuant, 2022, arXiv 2211.10438; for pairs of convolutions and for biases Nagel et al.,
Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, arXiv 1906.04721.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from .calibrate import batches, consumers_of, mean_outputs, session_of
from .gptq import num_groups

_LEVELS = 255
_STRENGTH = 0.5  # how much of a channel's range moves from its activations to the weights of a pointwise layer
_BIAS_IMAGES = 64


def equalize(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """A copy of a float model whose activations have channels of equal ranges; it computes the same.

    Only pairs Conv-ReLU-Conv whose tensors between go nowhere else are touched: with another activation, a sum or a
    squeeze-and-excitation between, scaling would change the result. A model without such a pair is returned as it was.

    Args:
      model: float32.
      images: (N, S, S, 3) uint8 RGB calibration images.
    """
    equalized = onnx.ModelProto()
    equalized.CopyFrom(model)
    initializers = {entry.name: entry for entry in equalized.graph.initializer}
    pairs = _pairs(equalized, set(initializers))
    values = {
        name: numpy_helper.to_array(initializers[name]).astype(np.float64)
        for pair in pairs
        for node in pair
        for name in node.input[1:]
    }
    for (first, second), largest in zip(pairs, _largest(model, pairs, images), strict=True):
        _scale(values, first, second, _balance(largest, values[second.input[1]], _axis(second)))
    for name, value in values.items():
        initializers[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return equalized


def correct_biases(model: onnx.ModelProto, quantized: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """A copy of an int8 model whose convolutions are right on average, channel by channel.

    Rounding weights and clipping activations moves the mean of a convolution's result; the difference is taken off its
    bias. Layers are corrected in the order of the graph, each on the results of those before it.

    Source: arXiv 1906.04721, section 4.2 and appendix D (empirical bias correction).

    Args:
      model: The float model, as `quantized` was made from it.
      quantized: With int32 biases behind DequantizeLinear nodes.
      images: (N, S, S, 3) uint8 RGB calibration images, of which 64 serve: means need few.
    """
    images = images[:: -(-len(images) // _BIAS_IMAGES)]
    corrected = onnx.ModelProto()
    corrected.CopyFrom(quantized)
    initializers = {entry.name: entry for entry in corrected.graph.initializer}
    producers = {name: node for node in corrected.graph.node for name in node.output}
    outputs = {node.name: node.output[0] for node in model.graph.node if node.op_type == "Conv"}
    layers = [n for n in corrected.graph.node if n.op_type == "Conv" and len(n.input) == 3 and n.input[2] in producers]
    names = [outputs[node.name] for node in layers]
    expected = mean_outputs(session_of(model, names), names, images)
    known = {corrected.graph.input[0].name: images}
    for node, mean in zip(layers, expected, strict=True):
        result = _advance(corrected, node.output[0], known)
        actual = result.mean(axis=(0, 2, 3), dtype=np.float64)
        bias, scale = producers[node.input[2]].input[:2]
        step = numpy_helper.to_array(initializers[scale]).astype(np.float64)
        moved = numpy_helper.to_array(initializers[bias]) + np.round((mean - actual) / step)
        limits = np.iinfo(np.int32)
        moved = np.clip(moved, limits.min, limits.max).astype(np.int32)
        initializers[bias].CopyFrom(numpy_helper.from_array(moved, bias))
    return corrected


def _pairs(model: onnx.ModelProto, constants: set[str]) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Convolutions with nothing but a ReLU between, whose weights no other node reads."""
    consumers = consumers_of(model)
    outputs = {output.name for output in model.graph.output}

    def only_consumer(name: str, operator: str) -> onnx.NodeProto | None:
        nodes = consumers.get(name, [])
        is_only = len(nodes) == 1 and nodes[0].op_type == operator and nodes[0].input[0] == name
        return nodes[0] if is_only and name not in outputs else None

    def is_own(node: onnx.NodeProto) -> bool:
        return all(name in constants and len(consumers[name]) == 1 for name in node.input[1:])

    pairs = []
    for first in model.graph.node:
        if first.op_type != "Conv" or not is_own(first):
            continue
        relu = only_consumer(first.output[0], "Relu")
        second = only_consumer(relu.output[0], "Conv") if relu else None
        if second and is_own(second) and (num_groups(second) == 1 or _is_depthwise(model, second)):
            pairs.append((first, second))
    return pairs


def _axis(node: onnx.NodeProto) -> int:
    """Where a weight has its input channels: (D, C, k, k), but (D, 1, k, k) in a depthwise convolution."""
    return 0 if num_groups(node) > 1 else 1


def _ranges(weight: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis)))


def _balance(largest: np.ndarray, following: np.ndarray, axis: int) -> np.ndarray:
    """(D,) s_i = x_i^a / w_i^(1-a) for the largest activation and weight of a channel: arXiv 2211.10438, equation 4.

    Differs: the nearest power of two; a = 1 before a depthwise convolution, whose channels have weights and steps of
    their own.
    """
    if axis == 0:
        s = _bounded(largest)
    else:
        s = _bounded(largest) ** _STRENGTH / _bounded(_ranges(following, axis)) ** (1 - _STRENGTH)
    return np.asarray(np.exp2(np.round(np.log2(s / np.exp(np.log(s).mean())))))


def _bounded(ranges: np.ndarray) -> np.ndarray:
    """At least one step of the largest: what was lost in rounding anyway has no claim to all levels."""
    top = float(ranges.max())
    return np.maximum(ranges, top / _LEVELS) if top > 0 else np.ones_like(ranges)


def _largest(
    model: onnx.ModelProto, pairs: list[tuple[onnx.NodeProto, onnx.NodeProto]], images: np.ndarray
) -> list[np.ndarray]:
    """The largest activation of every channel between the two layers of each pair."""
    names = [second.input[0] for _, second in pairs]
    session = session_of(model, names)
    largest: list[np.ndarray] = []
    for values in batches(session, names, images):
        tops = [value.max(axis=(0, 2, 3)).astype(np.float64) for value in values]
        largest = [np.maximum(a, b) for a, b in zip(largest, tops, strict=True)] if largest else tops
    return largest


def _scale(values: dict[str, np.ndarray], first: onnx.NodeProto, second: onnx.NodeProto, s: np.ndarray) -> None:
    """Divides what the first layer gives by s, and multiplies what the second makes of it."""
    values[first.input[1]] /= s.reshape(-1, 1, 1, 1)
    for bias in first.input[2:]:
        values[bias] /= s
    values[second.input[1]] *= s.reshape([-1 if i == _axis(second) else 1 for i in range(4)])


def _is_depthwise(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    weight = next(entry for entry in model.graph.initializer if entry.name == node.input[1])
    return bool(num_groups(node) == weight.dims[0])


def _advance(model: onnx.ModelProto, target: str, known: dict[str, np.ndarray]) -> np.ndarray:
    """Computes one tensor from the nearest known ones; the uint8 tensors on the way become known, too.

    So each layer runs twice, whatever the depth: before its bias is corrected, and after.
    """
    needed, passed, nodes = {target}, [], []
    for node in reversed(model.graph.node):
        name = node.output[0]
        if name in needed and name not in known:
            needed |= set(node.input)
            nodes.append(node)
            if node.op_type == "QuantizeLinear":
                passed.append(name)
    inputs = [name for name in known if name in needed]
    graph = onnx.helper.make_graph(
        nodes[::-1],
        "segment",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, known[name].shape) for name in inputs],
        [onnx.ValueInfoProto(name=name) for name in (target, *passed)],
        [entry for entry in model.graph.initializer if entry.name in needed],
    )
    segment = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    values = session_of(segment).run(None, {name: known[name] for name in inputs})
    known.update(zip(passed, values[1:], strict=True))
    return np.asarray(values[0])
