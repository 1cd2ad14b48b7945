"""A float model file -> an int8 one that computes the same on every processor.

Static quantisation in ONNX's QDQ form: activations uint8 with one step per tensor, weights int8 and symmetric with one
step per output channel, biases int32. The runtime turns each convolution with the nodes around it into one of integers.

Weights are kept from saturating: without VNNI, x86 adds two neighbouring products u8 x s8 in 16 bits, which overflow
where two weights of one sign sum to more than 128. A channel's step is therefore as large as neighbours need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

import edge

from .calibrate import RANGES, Histogram, collect
from .equalize import correct_biases, equalize
from .qdq import INTEGER_OPERATORS, UnfitModelError, insert, shortened
from .rounding import model_scales, round_weights
from .to_onnx import ExportError

EQUALIZE = ("activations", "weights", "nothing")
MIN_CALIBRATION = 16
_FLOAT_OPERATORS = ("Cast", "Constant", "HardSigmoid", "HardSwish", "Identity")
"""Operators that may stay float beside those that onnxruntime quantises."""


class CalibrationError(ExportError):
    """Calibration images that a model cannot be quantised with."""

    exit_status = 3


@dataclass(frozen=True)
class Scheme:
    """How to quantise."""

    equalize: str = "activations"
    """What is made equal between neighbouring layers first: "activations", "weights" or "nothing"."""
    ranges: str = "percentile-99.999"
    """How the range of an activation is chosen: a key of `RANGES`."""
    per_channel: bool = True
    """Whether every output channel has a step of its own, or all weights of a layer share one."""
    round_jointly: bool = True
    """Whether the weights of a sum make up for each other's errors, or each is rounded to the nearest step."""
    correct_biases: bool = True
    """Whether the mean error of each channel is taken off its bias."""
    exclude: tuple[str, ...] = ()
    """Names of convolutions that stay float, besides the classifier."""

    def __post_init__(self) -> None:
        if self.ranges not in RANGES:
            raise ValueError(f"ranges: got {self.ranges!r}, expected one of {', '.join(RANGES)}")
        if self.equalize not in EQUALIZE:
            raise ValueError(f"equalize: got {self.equalize!r}, expected one of {', '.join(EQUALIZE)}")


class Quantizer:
    """A float model and its calibration: what all schemes have in common is computed once."""

    def __init__(self, model: onnx.ModelProto, calibration: np.ndarray) -> None:
        """Checks the model and the images.

        Args:
          model: A float model file of ours.
          calibration: (N, S, S, 3) uint8 RGB, at least 16 images.

        Raises:
          CalibrationError: too few images, or of another size.
          UnfitModelError: the model is quantised already, has weights that are not finite, or an operator that cannot
            be quantised.
        """
        _check(model, calibration)
        self.model = model
        self.calibration = calibration
        self._equalized: dict[str, tuple[onnx.ModelProto, dict[str, Histogram]]] = {}
        self._rounded: dict[tuple[str, bool], onnx.ModelProto] = {}

    def __call__(self, scheme: Scheme = Scheme(), *, marks_sha256: str = "") -> onnx.ModelProto:
        """Quantises; the same arguments give the same bytes.

        Args:
          scheme: How.
          marks_sha256: Hash of the clusters of the calibration images, for the metadata.

        Raises:
          UnfitModelError: no convolution has an excluded name, or onnxruntime refuses the model.
          ExportError: the result is invalid.
        """
        exclude = excluded_layers(self.model, scheme)
        model, histograms = self._equalize(scheme.equalize)
        scales = model_scales(model, exclude[-1:], per_channel=scheme.per_channel)
        rounded = self._round(model, scales, scheme) if scheme.round_jointly else model
        weights = {name: scale for name, scale in scales.items() if name not in exclude}
        rounded = _restore(rounded, model, exclude)
        quantized = self._write(rounded, histograms, weights, scheme)
        if scheme.correct_biases:
            quantized = correct_biases(model, quantized, self.calibration)
        properties = {entry.key: entry.value for entry in self.model.metadata_props}
        description = self._describe(scheme, exclude, marks_sha256)
        onnx.helper.set_model_props(quantized, {**properties, "quantization": description})
        _verify(quantized)
        return quantized

    def _write(
        self,
        rounded: onnx.ModelProto,
        histograms: Mapping[str, Histogram],
        weights: Mapping[str, np.ndarray],
        scheme: Scheme,
    ) -> onnx.ModelProto:
        """The int8 model of weights on their steps; `rounded` is not changed."""
        copied = onnx.ModelProto()
        copied.CopyFrom(rounded)
        return shortened(insert(copied, histograms, weights, ranges=scheme.ranges, per_channel=scheme.per_channel))

    def _equalize(self, what: str) -> tuple[onnx.ModelProto, dict[str, Histogram]]:
        if what not in self._equalized:
            model = self.model
            if what != "nothing":
                model = equalize(model, self.calibration if what == "activations" else None)
            self._equalized[what] = model, collect(model, self.calibration)
        return self._equalized[what]

    def _round(self, model: onnx.ModelProto, scales: dict[str, np.ndarray], scheme: Scheme) -> onnx.ModelProto:
        key = scheme.equalize, scheme.per_channel
        if key not in self._rounded:
            self._rounded[key] = round_weights(model, self.calibration, scales)
        return self._rounded[key]

    def _describe(self, scheme: Scheme, exclude: list[str], marks_sha256: str) -> str:
        description: dict[str, object] = {
            "scheme": f"U8S8 QDQ, per {'channel' if scheme.per_channel else 'tensor'}",
            "ranges": scheme.ranges,
            "equalized": scheme.equalize,
            "rounded_jointly": scheme.round_jointly,
            "biases_corrected": scheme.correct_biases,
            "calibration": {"images": len(self.calibration), "cluster_sha256": marks_sha256},
            "float_layers": exclude,
            "versions": {"fairedge": edge.__version__, "onnx": onnx.__version__, "onnxruntime": ort.__version__},
        }
        return json.dumps(description)


def quantize(
    model: onnx.ModelProto, calibration: np.ndarray, scheme: Scheme = Scheme()
) -> onnx.ModelProto:
    """Quantises a model with one scheme: `Quantizer(model, calibration)(scheme)`, which tells more."""
    return Quantizer(model, calibration)(scheme)


def convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions, in the order of the graph; the last one is the classifier."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def excluded_layers(model: onnx.ModelProto, scheme: Scheme) -> list[str]:
    """Names of the convolutions that stay float under a scheme, in the order of the graph.

    Raises:
      UnfitModelError: there is no convolution of a name.
    """
    names = convolutions(model)
    unknown = [name for name in dict.fromkeys(scheme.exclude) if name not in names]
    if unknown:
        raise UnfitModelError(f"got no convolution named {', '.join(unknown)}, expected e.g. {names[0]}")
    return [name for name in names if name in scheme.exclude or name == names[-1]]


def _restore(rounded: onnx.ModelProto, model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy of a rounded model in which the convolutions of these names have the weights they had before."""
    restored = onnx.ModelProto()
    restored.CopyFrom(rounded)
    kept = {node.input[1] for node in model.graph.node if node.name in names}
    for entry, original in zip(restored.graph.initializer, model.graph.initializer, strict=True):
        if entry.name in kept:
            entry.CopyFrom(original)
    return restored


def _check(model: onnx.ModelProto, calibration: np.ndarray) -> None:
    operators = {node.op_type for node in model.graph.node}
    if any("Quantize" in operator or "Integer" in operator or "QLinear" in operator for operator in operators):
        raise UnfitModelError("the model is quantised already, expected the float model it was made from")
    unfit = sorted(operators - {*INTEGER_OPERATORS, *_FLOAT_OPERATORS})
    if unfit or "Conv" not in operators:
        got = f"the operator {', '.join(unfit)}" if unfit else "no convolution"
        raise UnfitModelError(f"the model cannot be quantised: got {got}, expected a network of edge-export onnx")
    constants = {entry.name for entry in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        padding = {attribute.s for attribute in node.attribute if attribute.name == "auto_pad"} - {b"NOTSET"}
        if padding or not {*node.input[1:]} <= constants:
            got = f"auto_pad {padding.pop().decode()}" if padding else "a weight that is computed"
            expected = "a network of edge-export onnx"
            raise UnfitModelError(f"the model cannot be quantised: got {got} in {node.name}, expected {expected}")
    for entry in model.graph.initializer:
        if not np.isfinite(numpy_helper.to_array(entry)).all():
            raise UnfitModelError(f"the model cannot be quantised: {entry.name} holds values that are not finite")
    shape = tuple(dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    if calibration.dtype != np.uint8 or calibration.shape[1:] != shape:
        expected = f"(N, {', '.join(map(str, shape))}) uint8"
        raise CalibrationError(f"calibration images: got {calibration.shape} {calibration.dtype}, expected {expected}")
    if len(calibration) < MIN_CALIBRATION:
        raise CalibrationError(f"calibration images: got {len(calibration)}, expected at least {MIN_CALIBRATION}")
    if (calibration == calibration[:1]).all():
        raise CalibrationError("calibration images: got the same picture every time, expected different ones")


def _verify(quantized: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(quantized, full_check=True)
    except Exception as error:  # several kinds, without a common base
        raise ExportError(f"the int8 model is invalid: {str(error).strip().splitlines()[0][:200]}") from error
