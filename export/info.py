"""What a model file says of itself, and what it is: each layer with its size and its cost.

The graph is read, not run, so a file that the runtime refuses is described as well, with the reason.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from bench.provenance import SEALED
from edge.classifier import Classifier
from edge.errors import ModelError

from .graph import attribute_of, stored

SCHEMA = "edge-info/1"

_WEIGHT_INPUTS = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "ConvInteger": (1,), "QLinearConv": (3, 8),
    "Gemm": (1, 2), "MatMul": (1,), "MatMulInteger": (1,), "QLinearMatMul": (3,),
}
"""Operators whose multiply-adds are counted, and which inputs are weights, then bias."""
_CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv")
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_INT8 = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def read(path: Path) -> dict[str, Any]:
    """Describes a model file, of ours or any other.

    Returns:
      JSON-ready: `file`, `bytes`, `sha256`, `metadata` (what is JSON parsed), `opset`, `ir_version`, what `describe`
      gives, and `remarks`.

    Raises:
      ModelError: no such file, or no valid ONNX model.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such model file") from error
    except OSError as error:
        raise ModelError(f"{path}: model cannot be read: {error.strerror}") from error
    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's have no common base but Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(f"{path}: no valid ONNX model ({len(content)} bytes): {reason}") from error
    if not model.graph.node:
        raise ModelError(f"{path}: got a model without operators, expected a network")
    remarks = []
    try:
        Classifier(path, content)
    except ModelError as error:
        remarks.append(f"the runtime refuses it: {str(error).removeprefix(f'{path}: ')}")
    return {
        "schema": SCHEMA,
        "file": path.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "metadata": {entry.key: _parsed(entry.value) for entry in model.metadata_props},
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
        "ir_version": model.ir_version,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        **describe(model),
        "remarks": remarks,
    }


def describe(model: onnx.ModelProto) -> dict[str, Any]:
    """What a graph is; a batch whose size is open counts as one image.

    Returns:
      JSON-ready: `precision` ("float", "int8" or "mixed"), `inputs`, `outputs`, `totals` (`macs`, `parameters`,
      `weight_bytes`; `layers`, `int8_layers`), `operators` (name -> how many) and `layers`. What cannot be known is
      None.
    """
    layers, weights = _layers(model), stored(model)
    kernels = [layer for layer in layers if layer["int8"] is not None]
    num_int8 = sum(layer["int8"] for layer in kernels)
    macs = [layer["macs"] for layer in layers]
    return {
        "precision": "float" if not num_int8 else "int8" if num_int8 == len(kernels) else "mixed",
        "inputs": [_value(value) for value in model.graph.input if value.name not in weights],
        "outputs": [_value(value) for value in model.graph.output],
        "totals": {
            "macs": None if None in macs else sum(macs),
            "parameters": sum(layer["parameters"] for layer in layers),
            "weight_bytes": sum(layer["bytes"] for layer in layers),
            "layers": len(kernels),
            "int8_layers": num_int8,
        },
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "layers": layers,
    }


def _layers(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Every node but those that only bring a weight into its layer, where the weight is counted."""
    constants = [node for node in model.graph.node if node.op_type == "Constant" and node.attribute[0].HasField("t")]
    weights = stored(model) | {node.output[0]: node.attribute[0].t for node in constants}
    sizes = {name: math.prod(tensor.dims) for name, tensor in weights.items()}
    itemsizes = {n: onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize for n, tensor in weights.items()}
    shapes = _shapes(model)
    made_by = {output: node for node in model.graph.node for output in node.output}

    def way_to(name: str) -> list[str]:
        """What is stored on the way to a tensor that is quantised or renamed, its own values last."""
        on_the_way: list[str] = []
        while name not in weights and name in made_by and made_by[name].op_type in (*_QUANTISERS, "Identity"):
            name, *rest = made_by[name].input
            on_the_way += [scale for scale in rest if scale in weights]
        return [*on_the_way, name]

    counted: set[str] = set()
    layers = []
    for node in model.graph.node:
        ways = [way_to(name) for name in node.input]
        if node.op_type == "Constant" or (node.op_type in _QUANTISERS and ways[0][-1] in weights):
            continue
        own = dict.fromkeys(name for way in ways if way[-1] in weights for name in way if name not in counted)
        counted.update(own)
        parameters = [ways[i][-1] for i in _WEIGHT_INPUTS.get(node.op_type, ()) if i < len(ways)]
        kernel = weights.get(parameters[0]) if parameters else None
        if kernel is not None and len(kernel.dims) < 2:
            kernel = None  # a scalar product with a vector: too little to be called a layer
        is_convolution = kernel is not None and node.op_type in _CONVOLUTIONS
        layers.append({
            "name": node.name or node.output[0],
            "op": node.op_type,
            "shape": shapes.get(node.output[0]),
            "macs": 0 if kernel is None else _macs(node, kernel, shapes),
            "parameters": 0 if kernel is None else sum(sizes[name] for name in parameters if name in own),
            "bytes": sum(sizes[name] * itemsizes[name] for name in own),
            "int8": None if kernel is None else kernel.data_type in _INT8,
            "kernel": list(kernel.dims[2:]) if kernel is not None and is_convolution else None,
            "groups": attribute_of(node, "group", 1) if is_convolution else None,
        })
    return layers


def table(info: dict[str, Any]) -> Iterator[str]:
    """The lines a person reads: metadata, totals, the layers with weights, what else there is."""
    yield f"{info['file']}: {info['bytes']} bytes, sha256 {info['sha256']}"
    for key, value in info["metadata"].items():
        shown = f"{len(value)} characters" if key == SEALED else value
        yield f"{key}: {shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)}"
    opset = ", ".join(f"{domain} {version}" for domain, version in info["opset"].items())
    yield f"opset {opset}, IR version {info['ir_version']}"
    for what in ("inputs", "outputs"):
        yield f"{what}: " + ", ".join(f"{value['name']} {value['type']} {value['shape']}" for value in info[what])
    totals = info["totals"]
    yield (
        f"{info['precision']}: {totals['int8_layers']} of {totals['layers']} layers with weights are int8; "
        f"{_number(totals['macs'])} multiply-adds, {totals['parameters']:,} parameters, "
        f"{totals['weight_bytes']:,} bytes of weights"
    )
    shown = [layer for layer in info["layers"] if layer["int8"] is not None]
    width = max((len(layer["name"]) for layer in shown), default=0)
    row = "{:{width}}  {:14} {:>18} {:>14} {:>11} {:>10}"
    yield row.format("layer", "op", "output", "multiply-adds", "parameters", "bytes", width=width)
    for layer in shown:
        op = layer["op"] + (" int8" if layer["int8"] else "")
        shape = "?" if layer["shape"] is None else "x".join(map(str, layer["shape"][1:]))
        numbers = (_number(layer[key]) for key in ("macs", "parameters", "bytes"))
        yield row.format(layer["name"], op, shape, *numbers, width=width)
    kinds = {layer["op"] for layer in shown}
    others = [f"{count} {name}" for name, count in info["operators"].items() if name not in kinds]
    if others:
        yield f"besides: {', '.join(others)}"


def _shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Inferred shapes by name; a batch of open size counts as 1, what else is open as None."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    del fixed.graph.value_info[:]  # an exporter's may name the open batch, which would stay open
    for value in fixed.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except Exception:  # a C++ library, which raises RuntimeError and ValueError alike: the table has gaps instead
        inferred = fixed.graph
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }


def _macs(node: onnx.NodeProto, kernel: onnx.TensorProto, shapes: dict[str, list[int | None]]) -> int | None:
    """Multiply-adds: per output value (transposed convolution: per input value) one per weight that it meets."""
    known = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
    if known is None or None in known:
        return None
    num_values = math.prod(size for size in known if size is not None)
    dims: list[int] = list(kernel.dims)
    if node.op_type in _CONVOLUTIONS:
        return num_values * math.prod(dims[1:])
    is_transposed = node.op_type == "Gemm" and attribute_of(node, "transB", 0) == 1
    return num_values * dims[1 if is_transposed else -2]


def _value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = [dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim]
    return {"name": value.name, "type": onnx.TensorProto.DataType.Name(tensor.elem_type).lower(), "shape": shape}


def _parsed(text: str) -> Any:
    """A JSON object or list as what it is, all else as the text it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict | list) else text


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"
