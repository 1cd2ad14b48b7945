"""The int8 weights of a convolution: their steps, and their rounding, which lets each make up for those before it.

Rounding to the nearest step is best for one weight and poor for a sum of them: the errors of a convolution's first
weights add up to a shift wherever its input is not centred, as after a ReLU or in the pixels themselves. With the
second moments H = E[x x^T] of its inputs known from calibration images, the expected squared error of an output is
e^T H e, and minimising it one weight after the other needs no training.

Source: Frantar et al., GPTQ, 2022, arXiv 2210.17323, section 3 (there for language models); it replaces AdaRound
(arXiv 2004.10568), which minimises the same error by some thousand steps of gradient descent per layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from .calibrate import batches, session_of

_DAMPING = 0.01  # of the mean diagonal of H, added to it: keeps weights of dead inputs from running away
_MAX_WEIGHT = 127
_MAX_SUM = 128  # of two neighbouring weights of one sign: 255 * 128 fits in 16 bits


def num_groups(node: onnx.NodeProto) -> int:
    """Groups of a convolution."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def weight_scales(weight: np.ndarray, *, num_groups: int) -> np.ndarray:
    """The steps of a convolution's int8 weights, so large that neighbouring products cannot saturate.

    Where a processor lacks VNNI, x86 adds two neighbouring products u8 x s8 in 16 bits. Neighbours are the inputs 2i
    and 2i+1 of a pointwise convolution. The order of a larger kernel's weights differs from engine to engine, so there
    any two count, as in groups of several channels. A depthwise convolution multiplies in 16 bits and adds in 32.

    Args:
      weight: (D, C / groups, k, k).
      num_groups: Of the convolution.

    Returns:
      (D,) float32, positive: one per output channel.
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


def model_scales(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The steps of the weights of the convolutions of these names."""
    values = {entry.name: entry for entry in model.graph.initializer}
    return {
        node.name: weight_scales(numpy_helper.to_array(values[node.input[1]]), num_groups=num_groups(node))
        for node in model.graph.node
        if node.op_type == "Conv" and node.name in names
    }


def round_weights(model: onnx.ModelProto, images: np.ndarray, scales: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of a float model whose weights lie on the steps of int8.

    Args:
      model: float32.
      images: (N, S, S, 3) uint8 RGB calibration images.
      scales: (D,) steps of the weights of each convolution to round, by its name.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    initializers = {entry.name: entry for entry in rounded.graph.initializer}
    nodes = [node for node in model.graph.node if node.name in scales]
    weights = [numpy_helper.to_array(initializers[node.input[1]]).astype(np.float64) for node in nodes]
    moments = _second_moments(model, nodes, [weight.shape[2:] for weight in weights], images)
    for node, weight, moment in zip(nodes, weights, moments, strict=True):
        step = scales[node.name].astype(np.float64)
        flat = weight.reshape(len(weight), -1) / step[:, None]
        if len(moment) == 1:
            neighbours = 2 if weight.shape[2:] == (1, 1) else flat.shape[1]
        else:
            neighbours = 1 if weight.shape[1] == 1 else flat.shape[1]
        parts = zip(np.split(flat, len(moment)), moment, strict=True)  # the rows of each group
        levels = np.concatenate([_round(rows, h, neighbours=neighbours) for rows, h in parts])
        value = (levels * step[:, None]).reshape(weight.shape).astype(np.float32)
        initializers[node.input[1]].CopyFrom(numpy_helper.from_array(value, node.input[1]))
    return rounded


def _round(weight: np.ndarray, moment: np.ndarray, *, neighbours: int = 1) -> np.ndarray:
    """Integers near the rows of `weight` that minimise e^T H e.

    Args:
      weight: (D, K) in steps.
      moment: (K, K) H.
      neighbours: Weights of one sign within so many consecutive ones must not sum to more than 128 in pairs.
    """
    size = len(moment)
    damped = moment + np.eye(size) * max(_DAMPING * np.trace(moment) / size, 1e-12)
    # Row k of the factor tells how the weights after k make up for an error of weight k (equation 3 of the paper, by
    # the Cholesky factor of section 3.3, step 3).
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, levels = weight.copy(), np.zeros_like(weight)
    high, low = np.zeros(len(weight)), np.zeros(len(weight))
    for k in range(size):
        if k % neighbours == 0:
            high[:], low[:] = 0, 0
        top = np.minimum(_MAX_WEIGHT, _MAX_SUM - high) if neighbours > 1 else _MAX_WEIGHT
        bottom = np.maximum(-_MAX_WEIGHT, -_MAX_SUM - low) if neighbours > 1 else -_MAX_WEIGHT
        levels[:, k] = np.clip(np.round(left[:, k]), bottom, top)
        high, low = np.maximum(high, levels[:, k]), np.minimum(low, levels[:, k])
        error = (left[:, k] - levels[:, k]) / factor[k, k]
        left[:, k + 1 :] -= error[:, None] * factor[k, k + 1 :]
    return levels


def _second_moments(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], kernels: Sequence[tuple[int, ...]], images: np.ndarray
) -> list[np.ndarray]:
    """(G, K, K) sums of x x^T over all positions, for each node: G its groups, K the inputs of one output."""
    names = [node.input[0] for node in nodes]
    session = session_of(model, names)
    totals: list[np.ndarray] = []
    for values in batches(session, names, images):
        sums = []
        for node, kernel, value in zip(nodes, kernels, values, strict=True):
            attributes = {attribute.name: list(attribute.ints) for attribute in node.attribute}
            strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
            patches = _patches(value, kernel, strides, dilations, attributes.get("pads", [0] * 4))
            columns = patches.reshape(num_groups(node), -1, patches.shape[-1])
            sums.append(np.matmul(columns, columns.transpose(0, 2, 1)).astype(np.float64))
        totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
    return totals


def _patches(
    value: np.ndarray, kernel: tuple[int, ...], strides: list[int], dilations: list[int], pads: list[int]
) -> np.ndarray:
    """(N, C, H, W) -> (C, kh * kw, positions) of what a convolution sees."""
    top, left, bottom, right = pads
    padded = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = tuple(dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))[:, :, :: strides[0], :: strides[1]]
    ordered = windows[..., :: dilations[0], :: dilations[1]].transpose(1, 4, 5, 0, 2, 3)
    return ordered.reshape(value.shape[1], kernel[0] * kernel[1], -1)
