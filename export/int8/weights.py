"""The weights of a float network, made fit for int8: channels of equal ranges, steps, and rounding to these."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from ..graph import attribute_of, readers_of, store, stored
from .calibrate import measure

_LEVELS = 255
_STRENGTH = 0.5  # how much of a channel's range moves from its activations to the weights of a pointwise layer
_DAMPING = 0.01  # of the mean diagonal of H, added to it: keeps weights of dead inputs from running away
_MAX_WEIGHT = 127
_MAX_SUM = 128  # of two neighbouring weights of one sign: 255 * 128 fits in 16 bits


def equalize(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """A copy of a float32 model whose activations have channels of equal ranges; it computes the same bits.

    Fusing branches and BatchNorms leaves channels of very different ranges, and all of a layer share one step. Between
    two convolutions with a ReLU, a channel may be scaled by 1 / s and the next layer's weights for it by s, since
    relu(x / s) = relu(x) / s for s > 0; s is a power of two, which rounds no float. With a sum, say, between them,
    scaling would change the result.

    Source: Xiao et al., SmoothQuant, 2022, arXiv 2211.10438; for pairs of convolutions Nagel et al., 2019, arXiv
    1906.04721.
    """
    equalized = onnx.ModelProto()
    equalized.CopyFrom(model)
    tensors = stored(equalized)
    pairs = _pairs(equalized)
    names = {name for pair in pairs for node in pair for name in node.input[1:]}
    values = {name: numpy_helper.to_array(tensors[name]).astype(np.float64) for name in names}
    inner = [second.input[0] for _, second in pairs]
    largest = measure(model, inner, images, lambda _, x: x.max(axis=(0, 2, 3)).astype(np.float64), np.maximum)
    for (first, second), top in zip(pairs, largest, strict=True):
        axis = 0 if attribute_of(second, "group", 1) > 1 else 1  # of the channels: a depthwise weight is (D, 1, k, k)
        s = _balance(top, values[second.input[1]], axis)
        values[first.input[1]] /= s.reshape(-1, 1, 1, 1)
        for bias in first.input[2:]:
            values[bias] /= s
        values[second.input[1]] *= s.reshape((-1, 1, 1, 1) if axis == 0 else (1, -1, 1, 1))
    for name, value in values.items():
        store(tensors, name, value.astype(np.float32))
    return equalized


def _pairs(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Convolutions with nothing but a ReLU between, whose weights no other node reads."""
    tensors, readers = stored(model), readers_of(model)
    outputs = {output.name for output in model.graph.output}

    def only_reader(name: str, operator: str) -> onnx.NodeProto | None:
        nodes = readers.get(name, [])
        is_only = len(nodes) == 1 and nodes[0].op_type == operator and nodes[0].input[0] == name
        return nodes[0] if is_only and name not in outputs else None

    def is_own(node: onnx.NodeProto) -> bool:
        return all(name in tensors and len(readers[name]) == 1 for name in node.input[1:])

    pairs = []
    for first in model.graph.node:
        if first.op_type != "Conv" or not is_own(first):
            continue
        relu = only_reader(first.output[0], "Relu")
        second = only_reader(relu.output[0], "Conv") if relu else None
        if second and is_own(second) and attribute_of(second, "group", 1) in (1, tensors[second.input[1]].dims[0]):
            pairs.append((first, second))
    return pairs


def _balance(largest: np.ndarray, following: np.ndarray, axis: int) -> np.ndarray:
    """(D,) s_i = x_i^a / w_i^(1-a) for the largest activation and weight of a channel: arXiv 2211.10438, equation 4.

    Differs: the nearest power of two; a = 1 before a depthwise convolution, whose channels have weights and steps of
    their own.
    """
    s = _bounded(largest)
    if axis == 1:
        s = s**_STRENGTH / _bounded(np.abs(following).max(axis=(0, 2, 3))) ** (1 - _STRENGTH)
    return np.asarray(np.exp2(np.round(np.log2(s / np.exp(np.log(s).mean())))))


def _bounded(ranges: np.ndarray) -> np.ndarray:
    """At least one step of the largest: what was lost in rounding anyway has no claim to all levels."""
    top = float(ranges.max())
    return np.maximum(ranges, top / _LEVELS) if top > 0 else np.ones_like(ranges)


def weight_scales(weight: np.ndarray, *, num_groups: int) -> np.ndarray:
    """(D,) float32 steps of a convolution's (D, C / groups, k, k) weights, so large that no neighbours can saturate.

    Where a processor lacks VNNI, x86 adds two neighbouring products u8 x s8 in 16 bits. Neighbours are the inputs 2i
    and 2i+1 of a pointwise convolution. The order of a larger kernel's weights differs from engine to engine, so there
    any two count, as in groups of several channels. A depthwise convolution multiplies in 16 bits and adds in 32.
    """
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    largest = np.abs(flat).max(axis=1)
    is_depthwise = num_groups > 1 and weight.shape[1] == 1
    if not is_depthwise and flat.shape[1] > 1:
        if num_groups == 1 and weight.shape[2:] == (1, 1):
            padded = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2)))
            sums = np.abs(padded[:, 0::2] + padded[:, 1::2]).max(axis=1)
        else:
            ordered = np.sort(flat, axis=1)
            sums = np.maximum(ordered[:, -2:].sum(axis=1), -ordered[:, :2].sum(axis=1))
        largest = np.maximum(largest, sums)  # over 127: rounding may add 1 to a sum, and 128 still fits
    return np.asarray(np.maximum(largest, max(1e-8 * largest.max(), 1e-30)) / _MAX_WEIGHT, np.float32)


def model_scales(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The steps of the weights of each convolution but the last, the classifier, by its name."""
    tensors = stored(model)
    layers = [node for node in model.graph.node if node.op_type == "Conv"][:-1]
    weights = [numpy_helper.to_array(tensors[node.input[1]]) for node in layers]
    groups = [attribute_of(node, "group", 1) for node in layers]
    return {n.name: weight_scales(w, num_groups=g) for n, w, g in zip(layers, weights, groups, strict=True)}


def round_weights(model: onnx.ModelProto, images: np.ndarray, scales: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of a float32 model whose weights lie on the steps of int8.

    Rounding to the nearest step is best for one weight and poor for a sum of them: the errors add up to a shift where
    the input is not centred, as after a ReLU or in the pixels themselves. With the second moments H = E[x x^T] of the
    inputs known from images, the expected squared error of an output is e^T H e, which is minimised one weight after
    the other, without training.

    Source: Frantar et al., GPTQ, 2022, arXiv 2210.17323, section 3 (there for language models).

    Args:
      model: float32.
      images: (N, S, S, 3) uint8 RGB.
      scales: Name of a convolution -> (D,) steps of its weights.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    tensors = stored(rounded)
    nodes = [node for node in model.graph.node if node.name in scales]
    weights = [numpy_helper.to_array(tensors[node.input[1]]).astype(np.float64) for node in nodes]

    def moments(index: int, values: np.ndarray) -> np.ndarray:
        """(G, K, K) sum of x x^T over all positions: G the convolution's groups, K the inputs of one output."""
        columns = _columns(nodes[index], values, weights[index].shape[2:])
        return np.asarray(columns @ columns.transpose(0, 2, 1), np.float64)

    sums = measure(model, [node.input[0] for node in nodes], images, moments)
    for node, weight, moment in zip(nodes, weights, sums, strict=True):
        step = scales[node.name].astype(np.float64)
        flat = (weight.reshape(len(weight), -1) / step[:, None]).reshape(len(moment), -1, moment.shape[-1])
        is_pointwise = weight.shape[2:] == (1, 1) and len(moment) == 1
        is_depthwise = weight.shape[1] == 1 and len(moment) > 1
        levels = round_levels(flat, moment, 2 if is_pointwise else 1 if is_depthwise else flat.shape[-1])
        value = levels.reshape(len(weight), -1) * step[:, None]
        store(tensors, node.input[1], value.reshape(weight.shape).astype(np.float32))
    return rounded


def round_levels(weight: np.ndarray, moment: np.ndarray, neighbours: int = 1) -> np.ndarray:
    """Integers near the rows of `weight` that minimise e^T H e.

    Args:
      weight: (G, R, K) in steps: R rows of K inputs for each group of a convolution.
      moment: (G, K, K) H.
      neighbours: Weights of one sign within so many consecutive ones must not sum to more than 128 in pairs.
    """
    size = moment.shape[-1]
    damping = np.maximum(_DAMPING * np.trace(moment, axis1=1, axis2=2) / size, 1e-12)
    # Row k of the factor says how the weights after k make up for an error of weight k (equation 3 of the paper, by
    # the Cholesky factor of section 3.3, step 3).
    factor = np.linalg.cholesky(np.linalg.inv(moment + np.eye(size) * damping[:, None, None])).transpose(0, 2, 1)
    left, levels = weight.copy(), np.zeros_like(weight)
    high, low = np.zeros(weight.shape[:2]), np.zeros(weight.shape[:2])
    for k in range(size):
        if k % neighbours == 0:
            high[:], low[:] = 0, 0
        top, bottom = np.minimum(_MAX_WEIGHT, _MAX_SUM - high), np.maximum(-_MAX_WEIGHT, -_MAX_SUM - low)
        levels[..., k] = np.clip(np.round(left[..., k]), bottom, top)
        high, low = np.maximum(high, levels[..., k]), np.minimum(low, levels[..., k])
        error = (left[..., k] - levels[..., k]) / factor[:, k, k, None]
        left[..., k + 1 :] -= error[..., None] * factor[:, None, k, k + 1 :]
    return levels


def _columns(node: onnx.NodeProto, values: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray:
    """(N, C, H, W) -> (G, C / G * kh * kw, positions) of what a convolution sees."""
    strides, dilations = attribute_of(node, "strides", [1, 1]), attribute_of(node, "dilations", [1, 1])
    top, left, bottom, right = attribute_of(node, "pads", [0] * 4)
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = tuple(dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))[:, :, :: strides[0], :: strides[1]]
    ordered = windows[..., :: dilations[0], :: dilations[1]].transpose(1, 4, 5, 0, 2, 3)  # (C, kh, kw, N, h, w)
    return ordered.reshape(attribute_of(node, "group", 1), -1, math.prod(ordered.shape[3:]))
