"""A float model file -> an int8 one that computes the same on every processor.

Static quantisation in ONNX's QDQ form: activations uint8 with one step per tensor, weights int8 and symmetric with one
step per output channel, biases int32. The runtime turns each convolution with the nodes around it into one of integers.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

import edge
from edge.errors import EdgeError

from ..graph import attribute_of, check, compute, prune, readers_of, store, stored, way_to
from .calibrate import PERCENTILE, activation_ranges, measure
from .weights import equalize, model_scales, round_weights

MIN_CALIBRATION = 16
_INTEGER_OPERATORS = sorted({*QLinearOpsRegistry, *QDQRegistry})
"""What onnxruntime quantises."""
_FLOAT_OPERATORS = ("Cast", "Constant", "HardSigmoid", "HardSwish", "Identity")
"""Operators that may stay float beside those."""
_BIAS_IMAGES = 64


NUM_STAGES = 5
"""Of `quantize`, about equally long."""


def quantize(
    model: onnx.ModelProto, calibration: np.ndarray, *, marks_sha256: str = "",
    done: Callable[[int], None] = lambda _: None,
) -> onnx.ModelProto:
    """Quantises a model; the same arguments give the same bytes.

    Args:
      model: A float model file of ours.
      calibration: (N, S, S, 3) uint8 RGB, at least 16 images.
      marks_sha256: Hash of the clusters of the calibration images, for the metadata.
      done: Takes how many of the stages are done.

    Raises:
      EdgeError: too few images, or of another size; the model is quantised already, has weights that are not finite, or
        an operator that cannot be quantised; the result is invalid.
    """
    _check_model(model)
    _check_images(model, calibration)
    named = _named(model)
    equalized = equalize(named, calibration)
    done(1)
    scales = model_scales(equalized)
    rounded = round_weights(equalized, calibration, scales)
    done(2)
    ranges = activation_ranges(equalized, calibration)
    done(3)
    quantized = shortened(insert(rounded, ranges, scales))
    done(4)
    quantized = correct_biases(equalized, quantized, calibration)
    done(NUM_STAGES)
    description = {
        "scheme": "U8S8 QDQ, per channel",
        "ranges": f"percentile-{PERCENTILE}",
        "equalized": "activations",
        "rounded_jointly": True,
        "biases_corrected": True,
        "calibration": {"images": len(calibration), "cluster_sha256": marks_sha256},
        "float_layers": [node.name for node in _convolutions(named) if node.name not in scales],
        "versions": {"fairedge": edge.__version__, "onnx": onnx.__version__, "onnxruntime": ort.__version__},
    }
    properties = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(quantized, {**properties, "quantization": json.dumps(description)})
    check(quantized, "int8")
    return quantized


def _convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def _check_model(model: onnx.ModelProto) -> None:
    def unfit(reason: str) -> EdgeError:
        return EdgeError(f"the model cannot be quantised: {reason}", exit_status=4)

    operators = {node.op_type for node in model.graph.node}
    if any("Quantize" in operator or "Integer" in operator or "QLinear" in operator for operator in operators):
        raise EdgeError("the model is quantised already, expected the float model it was made from", exit_status=4)
    ours = "expected a network of edge-export onnx"
    if others := sorted(operators - {*_INTEGER_OPERATORS, *_FLOAT_OPERATORS}):
        raise unfit(f"got the operator {', '.join(others)}, {ours}")
    layers, weights = _convolutions(model), stored(model)
    if not layers:
        raise unfit(f"got no convolution, {ours}")
    if len(layers) == 1:
        raise unfit("got one convolution, the classifier, which stays float, expected two or more")
    for node in layers:
        padding = attribute_of(node, "auto_pad", b"NOTSET")
        if padding != b"NOTSET" or not {*node.input[1:]} <= weights.keys():
            got = "a weight that is computed" if padding == b"NOTSET" else f"auto_pad {padding.decode()}"
            raise unfit(f"got {got} in {node.name}, {ours}")
    for name, tensor in weights.items():
        if not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise unfit(f"{name} holds values that are not finite")


def _check_images(model: onnx.ModelProto, images: np.ndarray) -> None:
    shape = tuple(dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        expected = f"(N, {', '.join(map(str, shape))}) uint8"
        raise EdgeError(f"calibration images: got {images.shape} {images.dtype}, expected {expected}")
    if len(images) < MIN_CALIBRATION:
        raise EdgeError(f"calibration images: got {len(images)}, expected at least {MIN_CALIBRATION}")
    if (images == images[:1]).all():
        raise EdgeError("calibration images: got the same picture every time, expected different ones")


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes all have a name of their own, which ONNX does not ask for: layers are known by it here."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    counts = Counter(node.name for node in named.graph.node)
    for i, node in enumerate(named.graph.node):
        if not node.name or counts[node.name] > 1:
            node.name = f"{node.name or node.op_type}#{i}"
    return named


def insert(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]], scales: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    """Puts QuantizeLinear and DequantizeLinear around what becomes integer; changes `model`.

    Args:
      model: With rounded weights.
      ranges: Of each activation.
      scales: Name of a convolution -> (D,) float32 steps of its weights; other convolutions stay float.

    Raises:
      EdgeError: onnxruntime refuses the model.
    """
    layers, readers = _convolutions(model), readers_of(model)
    ranges = {**ranges, layers[0].input[0]: (0.0, 255.0)}  # scale 1, zero point 0: pixels pass unchanged
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    exclude = [node.name for node in layers if node.name not in scales]
    # The mean over a picture, where a float layer takes it or the file gives it, is not rounded either.
    outputs = {output.name for output in model.graph.output}
    given = [node.name for node in model.graph.node if node.op_type == "Flatten" and node.output[0] in outputs]
    pools = [node for node in model.graph.node if node.op_type == "GlobalAveragePool"]
    floats = {*exclude, *given}
    exclude += [pool.name for pool in pools if floats.issuperset(n.name for n in readers.get(pool.output[0], []))]
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises, on the root logger, to preprocess what is preprocessed
    try:
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=[],
            nodes_to_exclude=exclude,
            op_types_to_quantize=_INTEGER_OPERATORS,
            extra_options={
                "TensorQuantOverrides": {n.input[1]: _steps(scales[n.name]) for n in layers if n.name in scales}
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    except OSError:
        raise
    except Exception as error:  # its errors have no common base but Exception
        reason = " ".join(str(error).split())[:200]
        raise EdgeError(f"onnxruntime cannot quantise the model: {reason}", exit_status=4) from error
    finally:
        logging.getLogger().setLevel(level)
    return cast(onnx.ModelProto, quantizer.model.model)


def _steps(scales: np.ndarray) -> list[dict[str, object]]:
    """The weights' steps as onnxruntime takes them."""
    axis = {"axis": 0} if len(scales) > 1 else {}
    zero = np.array(0, np.int8)
    return [{"quant_type": QuantType.QInt8, "scale": scale, "zero_point": zero, **axis} for scale in scales]


def shortened(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in fewer bytes: 0.1 of 1.3 MB are the quantiser's names, shapes and zeros.

    The pixels' Cast to float and QuantizeLinear(1, 0) back cancel out and go as well: DequantizeLinear takes the bytes
    themselves.
    """
    graph = quantized.graph
    by_output = {name: node for node in graph.node for name in node.output}
    values = stored(quantized)
    replaced: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [replaced.get(name, name) for name in node.input]
        source = by_output.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if source is not None and source.op_type == "Cast" and source.input[0] in by_output:
            replaced[node.output[0]] = source.input[0]
        elif node.op_type == "DequantizeLinear" and not numpy_helper.to_array(values[node.input[2]]).any():
            if values[node.input[2]].data_type != onnx.TensorProto.UINT8:
                del node.input[2]  # of weights and biases: a missing zero point means zero
    prune(quantized)  # takes the bounds of a Clip that became a range as well
    names = {name: name for name in (graph.input[0].name, *(output.name for output in graph.output), "")}
    for node in graph.node:
        node.doc_string = ""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = names.setdefault(name, f"t{len(names)}")
    kept = [values[name] for name in names if name in values]
    for entry in kept:
        entry.name = names[entry.name]
        entry.doc_string = ""
    del graph.initializer[:], graph.value_info[:], quantized.metadata_props[:], graph.metadata_props[:]
    graph.initializer.extend(kept)
    quantized.doc_string = graph.doc_string = ""
    return quantized


def correct_biases(model: onnx.ModelProto, quantized: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """Makes the convolutions of an int8 model right on average, channel by channel; changes `quantized`.

    Rounding weights and clipping activations moves the mean of a convolution's result; the difference is taken off its
    bias. Layers are corrected in the order of the graph, each on the results of those before it.

    Source: Nagel et al., 2019, arXiv 1906.04721, section 4.2 and appendix D (empirical bias correction).

    Args:
      model: The float model, as `quantized` was made from it.
      quantized: With int32 biases behind DequantizeLinear nodes.
      images: (N, S, S, 3) uint8 RGB calibration images, of which 64 serve: means need few.
    """
    images = images[:: -(-len(images) // _BIAS_IMAGES)]
    tensors = stored(quantized)
    makers = {name: node for node in quantized.graph.node for name in node.output}
    outputs = {node.name: node.output[0] for node in _convolutions(model)}
    layers = [node for node in _convolutions(quantized) if len(node.input) == 3 and node.input[2] in makers]
    sums = measure(
        model, [outputs[node.name] for node in layers], images,
        lambda _, values: values.mean(axis=(2, 3), dtype=np.float64).sum(axis=0),
    )
    known = {quantized.graph.input[0].name: images}
    for node, total in zip(layers, sums, strict=True):
        # Each layer runs twice, whatever the depth: before its bias is corrected, and after, on the way to the next
        # one, which begins at the uint8 tensors nearest to it.
        way = way_to(quantized, node.output, known)
        passed = [n.output[0] for n in reversed(way) if n.op_type == "QuantizeLinear"]
        result, *integers = compute(quantized, [node.output[0], *passed], known)
        known.update(zip(passed, integers, strict=True))
        difference = total / len(images) - result.mean(axis=(0, 2, 3), dtype=np.float64)
        bias, scale = makers[node.input[2]].input[:2]
        step = numpy_helper.to_array(tensors[scale]).astype(np.float64)
        moved = numpy_helper.to_array(tensors[bias]) + np.round(difference / step)
        limits = np.iinfo(np.int32)
        store(tensors, bias, np.clip(moved, limits.min, limits.max).astype(np.int32))
    return quantized
