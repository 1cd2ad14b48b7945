"""onnxruntime's quantiser, and the graph it writes: QuantizeLinear and DequantizeLinear around what becomes integer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import cast

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from edge.errors import EdgeError

from .calibrate import Histogram, clipped_range

INTEGER_OPERATORS = sorted({*QLinearOpsRegistry, *QDQRegistry})
"""What onnxruntime quantises."""


def insert(
    model: onnx.ModelProto, histograms: Mapping[str, Histogram], scales: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    """Inserts QuantizeLinear and DequantizeLinear; changes `model`.

    Args:
      model: Prepared, with rounded weights.
      histograms: Of each activation, what range it gets from.
      scales: Name of a convolution -> (D,) float32 steps of its weights, one per output channel; the others stay float.

    Raises:
      EdgeError: onnxruntime refuses the model.
    """
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    bounds = {name: clipped_range(histogram) for name, histogram in histograms.items()}
    bounds[first.input[0]] = 0.0, 255.0  # scale 1, zero point 0: pixels pass unchanged
    overrides = {n.input[1]: _weight_overrides(scales[n.name]) for n in model.graph.node if n.name in scales}
    exclude = [node.name for node in model.graph.node if node.op_type == "Conv" and node.name not in scales]
    # The mean over a picture, where a float layer takes it or the file gives it, is not rounded either.
    outputs = {output.name for output in model.graph.output}
    given = [node.name for node in model.graph.node if node.op_type == "Flatten" and node.output[0] in outputs]
    pools = [
        node.name
        for node in model.graph.node
        if node.op_type == "GlobalAveragePool" and _feeds(model, node, [*exclude, *given])
    ]
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in bounds.items()}
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
            nodes_to_exclude=[*exclude, *pools],
            op_types_to_quantize=INTEGER_OPERATORS,
            extra_options={"TensorQuantOverrides": overrides},
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


def shortened(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in fewer bytes: 0.1 of 1.3 MB are the quantiser's names, shapes and zeros.

    The pixels' Cast to float and QuantizeLinear(1, 0) back cancel out and go as well: DequantizeLinear takes the bytes
    themselves.
    """
    graph = quantized.graph
    by_output = {name: node for node in graph.node for name in node.output}
    values = {entry.name: entry for entry in graph.initializer}
    replaced: dict[str, str] = {}
    removed = []
    for node in graph.node:
        source = by_output.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if source is not None and source.op_type == "Cast" and source.input[0] in by_output:
            replaced[node.output[0]] = source.input[0]
            removed += [node, source]
        elif node.op_type == "DequantizeLinear" and not numpy_helper.to_array(values[node.input[2]]).any():
            if values[node.input[2]].data_type != onnx.TensorProto.UINT8:
                del node.input[2]  # of weights and biases: a missing zero point means zero
    for node in removed:
        graph.node.remove(node)
    outputs = [output.name for output in graph.output]
    used = {replaced.get(name, name) for node in graph.node for name in node.input} | {*outputs}
    for node in [node for node in graph.node if node.op_type == "Constant" and node.output[0] not in used]:
        graph.node.remove(node)  # the bounds of a Clip that became a range
    names = {name: name for name in (graph.input[0].name, *outputs, "")}
    for node in graph.node:
        node.doc_string = ""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = names.setdefault(replaced.get(name, name), f"t{len(names)}")
    kept = [values[name] for name in names if name in values]
    for entry in kept:
        entry.name = names[entry.name]
        entry.doc_string = ""
    del graph.initializer[:], graph.value_info[:], quantized.metadata_props[:], graph.metadata_props[:]
    graph.initializer.extend(kept)
    quantized.doc_string = graph.doc_string = ""
    return quantized


def _feeds(model: onnx.ModelProto, node: onnx.NodeProto, names: list[str]) -> bool:
    """Whether a node's result goes into nodes of these names alone."""
    return all(other.name in names for other in model.graph.node if node.output[0] in other.input)


def _weight_overrides(scales: np.ndarray) -> list[dict[str, object]]:
    zero = np.array(0, np.int8)
    axis = {"axis": 0} if len(scales) > 1 else {}
    return [{"quant_type": QuantType.QInt8, "scale": scale, "zero_point": zero, **axis} for scale in scales]
