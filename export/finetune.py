"""Quantisation-aware fine-tuning: a fused network learns to live with its rounding, taught by its float self.

The last resort, for networks that calibration alone leaves with too many changed answers. It begins with what
calibration found: weights on their steps, ranges, no BatchNorm (putting one back costs more than it gains,
github.com/DingXiaoH/RepVGG/issues/85). Rounding passes gradients as if it were not there. Labels are not used: what is
learned is to answer as the float model does.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
2017, arXiv 1712.05877, section 3; straight-through estimator, Bengio et al., 2013, arXiv 1308.3432.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from edge.progress import Progress

from .calibrate import consumers_of
from .rounding import MAX_SUM, MAX_WEIGHT, num_groups

_RATE = 0.002
"""Of Adam, in steps of what is moved, so that layers move alike; at 0.02 the bundled model falls apart in 8 updates."""
_MARGIN = 0.49  # of a step: what lies within rounds back
_BATCH_SIZE = 64
_LEVELS = 255

Ranges = Mapping[str, tuple[float, float]]


class UntrainableError(Exception):
    """An operator that cannot be trained through."""


class TrainableGraph(nn.Module):
    """An ONNX graph in PyTorch, its convolutions trainable: (N, S, S, 3) uint8 RGB -> (N, C) float32 logits."""

    def __init__(self, model: onnx.ModelProto, steps: Mapping[str, np.ndarray], ranges: Ranges) -> None:
        """Reads the graph.

        Args:
          model: A float model file of ours.
          steps: (D,) or (1,) step of the int8 weights of each convolution to round, by its name.
          ranges: (low, high) of each activation that the file stores. Both empty: the float network itself.
            Convolutions without steps stay as they are.

        Raises:
          UntrainableError: an operator that is not known here.
        """
        super().__init__()
        check_operators(model)
        self.graph = model.graph
        self.parameters_by_name = nn.ParameterDict()
        self._constants: dict[str, torch.Tensor] = {}
        of_convolutions = {name for node in model.graph.node if node.op_type == "Conv" for name in node.input[1:]}
        for entry in model.graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(entry).copy())
            if entry.name in of_convolutions:
                self.parameters_by_name[_key(entry.name)] = nn.Parameter(value)
            else:
                self._constants[entry.name] = value
        for node in model.graph.node:
            if node.op_type == "Constant":
                value = torch.from_numpy(numpy_helper.to_array(node.attribute[0].t).copy())
                self._constants[node.output[0]] = value
            elif node.op_type == "Conv" and not (node.name in steps and self._may_train(node)):
                self._parameter(node.input[1]).requires_grad_(False)
        self._steps = {name: torch.from_numpy(step).view(-1, 1, 1, 1) for name, step in steps.items()}
        self._readers = consumers_of(model)
        pixels = next(node.input[0] for node in model.graph.node if node.op_type == "Conv")
        self._ranges = {name: values for name, values in ranges.items() if name != pixels}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Runs the network."""
        values: dict[str, Any] = {**self._constants, self.graph.input[0].name: images}
        for node in self.graph.node:
            if node.op_type == "Constant":
                continue
            if node.op_type == "Conv":
                result = self._convolve(node, values[node.input[0]])
            else:
                result = _OPERATORS[node.op_type](node, *(values[name] if name else None for name in node.input))
            if node.output[0] in self._ranges:
                low, high = self._ranges[node.output[0]]
                step = max(high - low, 1e-30) / _LEVELS
                result = torch.fake_quantize_per_tensor_affine(result, step, round(-low / step), 0, _LEVELS)
            values[node.output[0]] = result
        logits: torch.Tensor = values["logits"]
        return logits

    def rounded_weight(self, node: onnx.NodeProto) -> torch.Tensor:
        """The (D, C / groups, k, k) weight of a convolution, on its steps if it has any."""
        weight = self._parameter(node.input[1])
        if node.name not in self._steps:
            return weight
        step = self._steps[node.name]
        levels = weight / step
        whole = levels.detach().round().clamp(-MAX_WEIGHT, MAX_WEIGHT)
        if self._is_pairwise(node):
            whole = _limit(whole)
        return (levels + (whole - levels).detach()) * step  # the gradient passes

    def rates(self) -> list[dict[str, Any]]:
        """The trainable parameters of the rounded layers with their learning rates, as an optimiser takes them."""
        groups: dict[str, dict[str, Any]] = {}  # equal biases of several layers may be one initializer
        for node in self.graph.node:
            if node.op_type == "Conv" and node.name in self._steps:
                steps = [self._steps[node.name].mean().item(), *[self._output_step(node)] * (len(node.input) - 2)]
                for name, step in zip(node.input[1:], steps, strict=True):
                    groups.setdefault(name, {"params": [self._parameter(name)], "lr": _RATE * step})
        return list(groups.values())

    def weights(self) -> dict[str, np.ndarray]:
        """What was learned, by the names of the initializers: weights on their steps, and biases."""
        with torch.no_grad():
            found = {}
            for node in self.graph.node:
                if node.op_type == "Conv":
                    found[node.input[1]] = self.rounded_weight(node).numpy().copy()
                    found.update({name: self._parameter(name).detach().numpy().copy() for name in node.input[2:]})
            return found

    def _convolve(self, node: onnx.NodeProto, x: torch.Tensor) -> torch.Tensor:
        attributes = {attribute.name: list(attribute.ints) for attribute in node.attribute}
        top, left, bottom, right = attributes.get("pads", [0] * 4)
        bias = self._parameter(node.input[2]) if len(node.input) > 2 else None
        return functional.conv2d(
            functional.pad(x, (left, right, top, bottom)),
            self.rounded_weight(node),
            bias,
            stride=tuple(attributes.get("strides", [1, 1])),
            dilation=tuple(attributes.get("dilations", [1, 1])),
            groups=num_groups(node),
        )

    def _parameter(self, name: str) -> torch.Tensor:
        parameter: torch.Tensor = self.parameters_by_name[_key(name)]
        return parameter

    def _is_pairwise(self, node: onnx.NodeProto) -> bool:
        weight = self._parameter(node.input[1])
        return num_groups(node) == 1 and tuple(weight.shape[2:]) == (1, 1)

    def _output_step(self, node: onnx.NodeProto) -> float:
        """The step of what a convolution gives, after its ReLU or Clip if it has one; 0 where it is not stored."""
        name = node.output[0]
        for reader in self._readers.get(name, []):
            name = name if name in self._ranges else reader.output[0]
        if name not in self._ranges:
            return 0.0
        low, high = self._ranges[name]
        return (high - low) / _LEVELS

    def _may_train(self, node: onnx.NodeProto) -> bool:
        """Whether moved weights can be kept from saturating: in a larger dense kernel any two may be neighbours."""
        is_depthwise = num_groups(node) > 1 and self._parameter(node.input[1]).shape[1] == 1
        return is_depthwise or self._is_pairwise(node)


def check_operators(model: onnx.ModelProto) -> None:
    """Whether a graph can be trained through.

    Raises:
      UntrainableError: an operator that is not known here.
    """
    unknown = sorted({node.op_type for node in model.graph.node} - {*_OPERATORS, "Conv", "Constant"})
    if unknown:
        raise UntrainableError(f"got the operator {', '.join(unknown)}, which cannot be trained through")


def finetune(
    rounded: onnx.ModelProto,
    reference: onnx.ModelProto,
    images: np.ndarray,
    steps: Mapping[str, np.ndarray],
    ranges: Ranges,
    *,
    epochs: int,
    seed: int = 0,
    quiet: bool = True,
) -> onnx.ModelProto:
    """A copy of a model with weights, still on their steps, and biases that answer more as a reference does.

    Args:
      rounded: float32, weights on the steps of int8, by calibration.
      reference: The float model.
      images: (N, S, S, 3) uint8 RGB to learn on, in eight orientations.
      steps: Of the weights, by convolution; those of dense kernels over 1x1 stay as they are.
      ranges: Of the activations that the file stores.
      epochs: Passes over the images, under a rate that falls to 0 as a cosine.
      seed: Of the order and the orientations.
      quiet: Whether no progress is shown.

    Raises:
      UntrainableError: an operator that cannot be trained through.
    """
    student = TrainableGraph(_between(rounded, reference, steps), steps, ranges)
    teacher = TrainableGraph(reference, {}, {}).requires_grad_(False)
    optimizer = torch.optim.Adam(student.rates())
    num_steps = epochs * -(-len(images) // _BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, num_steps))
    rng = np.random.default_rng(seed)
    progress = Progress(num_steps, quiet=quiet, unit="step")
    done = 0
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(order), _BATCH_SIZE):
            turn, is_mirrored = int(rng.integers(4)), bool(rng.integers(2))
            batch = np.rot90(images[order[start : start + _BATCH_SIZE]], turn, axes=(1, 2))
            pixels = torch.from_numpy(np.ascontiguousarray(batch[:, :, ::-1] if is_mirrored else batch))
            with torch.no_grad():
                expected = torch.log_softmax(teacher(pixels), dim=1)
            answer = torch.log_softmax(student(pixels), dim=1)
            loss = functional.kl_div(answer, expected, reduction="batchmean", log_target=True)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            progress.update(done)
    progress.close()
    tuned = onnx.ModelProto()
    tuned.CopyFrom(rounded)
    learned = student.weights()
    for entry in tuned.graph.initializer:
        if entry.name in learned:
            entry.CopyFrom(numpy_helper.from_array(learned[entry.name], entry.name))
    return tuned


def _between(
    rounded: onnx.ModelProto, reference: onnx.ModelProto, steps: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    """Weights that round as `rounded` does, but as near the float ones as that allows.

    So those that calibration rounded against their nearest level are the first to turn.
    """
    result = onnx.ModelProto()
    result.CopyFrom(rounded)
    floats = {entry.name: numpy_helper.to_array(entry) for entry in reference.graph.initializer}
    entries = {entry.name: entry for entry in result.graph.initializer}
    for node in rounded.graph.node:
        if node.name in steps:
            entry = entries[node.input[1]]
            step = steps[node.name].reshape(-1, 1, 1, 1)
            level = np.round(numpy_helper.to_array(entry) / step)
            latent = level + np.clip(floats[entry.name] / step - level, -_MARGIN, _MARGIN)
            entry.CopyFrom(numpy_helper.from_array((latent * step).astype(np.float32), entry.name))
    return result


def _limit(levels: torch.Tensor) -> torch.Tensor:
    """(D, C, 1, 1) whole levels, neighbours of one sign drawn back until they sum to at most 128."""
    flat = functional.pad(levels.flatten(1), (0, levels.shape[1] % 2))
    pairs = flat.view(len(flat), -1, 2)
    total = pairs.sum(dim=2, keepdim=True)
    excess = (total.abs() - MAX_SUM).clamp(min=0) * (pairs.prod(dim=2, keepdim=True) > 0)
    limited = pairs - total.sign() * torch.ceil(excess / 2)
    return limited.flatten(1)[:, : levels.shape[1]].view_as(levels)


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    return next((float(attribute.f) for attribute in node.attribute if attribute.name == name), default)


_OPERATORS: dict[str, Callable[..., torch.Tensor]] = {
    "Add": lambda node, a, b: a + b,
    "Cast": lambda node, x: x.float(),
    "Clip": lambda node, x, low, high: x.clamp(low, high),
    "Flatten": lambda node, x: x.flatten(1),
    "GlobalAveragePool": lambda node, x: x.mean(dim=(2, 3), keepdim=True),
    "HardSigmoid": lambda node, x: (
        x * _attribute(node, "alpha", 0.2) + _attribute(node, "beta", 0.5)
    ).clamp(0, 1),
    "HardSwish": lambda node, x: functional.hardswish(x),
    "Identity": lambda node, x: x,
    "Mul": lambda node, a, b: a * b,
    "Relu": lambda node, x: functional.relu(x),
    "Sigmoid": lambda node, x: torch.sigmoid(x),
    "Transpose": lambda node, x: x.permute(list(node.attribute[0].ints)),
}


def _key(name: str) -> str:
    """A name that PyTorch takes: its own must not contain a dot."""
    return name.replace(".", "/")
