"""A float model file -> an int8 one that computes the same on every processor.

Static quantisation in ONNX's QDQ form: activations uint8 with one step per tensor, weights int8 and symmetric with one
step per output channel, biases int32. The runtime turns each convolution with the nodes around it into one of integers.

Weights are kept from saturating: without VNNI, x86 adds two neighbouring products u8 x s8 in 16 bits, which overflow
where two weights of one sign sum to more than 128. A channel's step is therefore as large as neighbours need.
"""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

import edge
from edge.errors import EdgeError

from .calibrate import PERCENTILE, collect
from .equalize import correct_biases, equalize
from .gptq import model_scales, round_weights
from .qdq import INTEGER_OPERATORS, insert, shortened

MIN_CALIBRATION = 16
_FLOAT_OPERATORS = ("Cast", "Constant", "HardSigmoid", "HardSwish", "Identity")
"""Operators that may stay float beside those that onnxruntime quantises."""


def quantize(model: onnx.ModelProto, calibration: np.ndarray, *, marks_sha256: str = "") -> onnx.ModelProto:
    """Quantises a model; the same arguments give the same bytes.

    Args:
      model: A float model file of ours.
      calibration: (N, S, S, 3) uint8 RGB, at least 16 images.
      marks_sha256: Hash of the clusters of the calibration images, for the metadata.

    Raises:
      EdgeError: too few images, or of another size; the model is quantised already, has weights that are not finite, or
        an operator that cannot be quantised; the result is invalid.
    """
    _check(model, calibration)
    model = _named(model)
    *names, classifier = convolutions(model)
    equalized = equalize(model, calibration)
    scales = model_scales(equalized, names)
    rounded = round_weights(equalized, calibration, scales)
    quantized = shortened(insert(rounded, collect(equalized, calibration), scales))
    quantized = correct_biases(equalized, quantized, calibration)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    description = _describe(classifier, len(calibration), marks_sha256)
    onnx.helper.set_model_props(quantized, {**properties, "quantization": description})
    _verify(quantized)
    return quantized


def convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions, in the order of the graph; the last one is the classifier, which stays float."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def _describe(classifier: str, num_images: int, marks_sha256: str) -> str:
    """How the file was made, as JSON."""
    return json.dumps({
        "scheme": "U8S8 QDQ, per channel",
        "ranges": f"percentile-{PERCENTILE}",
        "equalized": "activations",
        "rounded_jointly": True,
        "biases_corrected": True,
        "calibration": {"images": num_images, "cluster_sha256": marks_sha256},
        "float_layers": [classifier],
        "versions": {"fairedge": edge.__version__, "onnx": onnx.__version__, "onnxruntime": ort.__version__},
    })


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes all have a name of their own, which ONNX does not ask for: layers are known by it here."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    counts = Counter(node.name for node in named.graph.node)
    for i, node in enumerate(named.graph.node):
        if not node.name or counts[node.name] > 1:
            node.name = f"{node.name or node.op_type}#{i}"
    return named


def _check(model: onnx.ModelProto, calibration: np.ndarray) -> None:
    operators = {node.op_type for node in model.graph.node}
    if any("Quantize" in operator or "Integer" in operator or "QLinear" in operator for operator in operators):
        raise EdgeError("the model is quantised already, expected the float model it was made from", exit_status=4)
    unfit = sorted(operators - {*INTEGER_OPERATORS, *_FLOAT_OPERATORS})
    if unfit or "Conv" not in operators:
        got = f"the operator {', '.join(unfit)}" if unfit else "no convolution"
        raise _unfit(f"got {got}, expected a network of edge-export onnx")
    if len(convolutions(model)) == 1:
        raise _unfit("got one convolution, the classifier, which stays float, expected two or more")
    constants = {entry.name for entry in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        padding = {attribute.s for attribute in node.attribute if attribute.name == "auto_pad"} - {b"NOTSET"}
        if padding or not {*node.input[1:]} <= constants:
            got = f"auto_pad {padding.pop().decode()}" if padding else "a weight that is computed"
            expected = "a network of edge-export onnx"
            raise _unfit(f"got {got} in {node.name}, expected {expected}")
    for entry in model.graph.initializer:
        if not np.isfinite(numpy_helper.to_array(entry)).all():
            raise _unfit(f"{entry.name} holds values that are not finite")
    shape = tuple(dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    if calibration.dtype != np.uint8 or calibration.shape[1:] != shape:
        expected = f"(N, {', '.join(map(str, shape))}) uint8"
        raise EdgeError(f"calibration images: got {calibration.shape} {calibration.dtype}, expected {expected}")
    if len(calibration) < MIN_CALIBRATION:
        raise EdgeError(f"calibration images: got {len(calibration)}, expected at least {MIN_CALIBRATION}")
    if (calibration == calibration[:1]).all():
        raise EdgeError("calibration images: got the same picture every time, expected different ones")


def _unfit(reason: str) -> EdgeError:
    return EdgeError(f"the model cannot be quantised: {reason}", exit_status=4)


def _verify(quantized: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(quantized, full_check=True)
    except Exception as error:  # several kinds, without a common base
        reason = str(error).strip().splitlines()[0][:200]
        raise EdgeError(f"the int8 model is invalid: {reason}", exit_status=6) from error
