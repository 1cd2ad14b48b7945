"""A trained network -> the model file the runtime reads, proven equal before it appears.

The graph is Transpose, Cast, then convolutions with ReLU, global average pooling, the classifier as a 1x1
convolution, Flatten; the pooled layer is a second output. A convolution computes each image by itself, so an image's
logits are the same bits in any batch; a matrix product (Gemm) may choose its kernel by the batch size.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

from edge.classifier import SCHEMA
from edge.errors import EdgeError
from edge.photo.preprocess import Preprocess
from train.data.feeder import scale_tensor
from train.networks.head import to_linear
from train.networks.mobileone import reparameterize
from train.networks.network import Network

from .graph import attribute_of, check, compute, prune, readers_of, way_to
from .info import describe

OPSET = 18
TOLERANCE = 1e-4
"""Largest difference between the file and PyTorch, relative to the largest logit."""
NUM_STAGES = 3
"""Of `to_onnx`."""


class InferenceGraph(nn.Module):
    """(N, S, S, 3) uint8 RGB -> (N, C) logits, (N, D) features, float32: the whole model file, in PyTorch."""

    def __init__(self, model: Network, scale: float | tuple[float, float, float]) -> None:
        """Fuses the branches of `model`, folds `scale` into its first convolution, and its head into one layer."""
        super().__init__()
        fused = reparameterize(model)
        self.body = fused.body
        fold_scale(self.body, scale)
        linear = to_linear(fused.head)
        self.classifier = nn.Conv2d(linear.in_features, linear.out_features, 1)
        with torch.no_grad():
            self.classifier.weight.copy_(linear.weight[:, :, None, None])
            cast(torch.Tensor, self.classifier.bias).copy_(linear.bias)
        self.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs the network."""
        x = self.body(images.permute(0, 3, 1, 2).float())
        x = functional.adaptive_avg_pool2d(x, 1)  # (N, D, 1, 1)
        return cast(torch.Tensor, self.classifier(x)).flatten(1), x.flatten(1)


def fold_scale(body: nn.Module, scale: float | tuple[float, float, float]) -> None:
    """Multiplies the first convolution's weights by the input scale, so that the graph begins with the pixels.

    Exact: without a mean, a padded zero stays zero. An elementwise pass over the input would cost an int8 network a
    quarter to two fifths of its time.
    """
    weight = next(module for module in body.modules() if isinstance(module, nn.Conv2d)).weight
    scales = torch.tensor(scale if isinstance(scale, tuple) else (scale,) * 3, dtype=torch.float64)
    with torch.no_grad():
        weight.copy_(weight.double() * scales.to(weight.device).view(1, 3, 1, 1))


def to_onnx(
    model: Network, *, preprocess: Preprocess, metadata: Mapping[str, str], variant: str | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> tuple[onnx.ModelProto, str | None]:
    """Exports a network.

    Args:
      model: In training or inference form; not changed.
      preprocess: What the network was trained on.
      metadata: Further metadata_props; `classes` among them.
      variant: Name of the network, for the metadata `model`, which counts its parameters and multiply-adds.
      done: Takes how many of the stages are done.

    Returns:
      The model, checked against PyTorch, and a remark where it could not be simplified.

    Raises:
      EdgeError: the exported model is invalid or computes something else.
    """
    nothing = torch.zeros(1, preprocess.size_px, preprocess.size_px, 3, dtype=torch.uint8)
    try:
        graph = InferenceGraph(model, preprocess.scale)
        with torch.no_grad():
            graph(nothing)
    except (StopIteration, RuntimeError, ValueError) as error:
        text = str(error).strip().splitlines()[0][:120] if str(error).strip() else "no convolution"
        raise EdgeError(
            f"not a network of this form: {text}; expected a body that begins with a convolution of 3 channels and "
            "ends before the pooling, and a head",
            exit_status=6,
        ) from error
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The TorchScript exporter, deprecated in favour of one that needs onnxscript and gives the same 88 nodes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (nothing,),
            file,  # type: ignore[arg-type]  # its annotation forgets that this exporter takes open files
            input_names=["images"],
            output_names=["logits", "features"],
            dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}, "features": {0: "N"}},
            opset_version=OPSET,
            dynamo=False,
        )
    done(1)
    exported, remark = simplify(onnx.load_from_string(file.getvalue()))
    done(2)
    parts = exported.graph
    for entry in (exported, parts, *parts.node, *parts.initializer, *parts.value_info):
        entry.doc_string = ""  # an exporter's has paths of this machine
        del entry.metadata_props[:]
    properties = {"fairedge.schema": SCHEMA, "preprocess": preprocess.to_json(), "classes": metadata["classes"]}
    if variant is not None:
        totals = describe(exported)["totals"]
        properties["model"] = json.dumps({"variant": variant, **{key: totals[key] for key in ("parameters", "macs")}})
    onnx.helper.set_model_props(exported, {**properties, **metadata})
    _verify(exported, model, preprocess)
    done(NUM_STAGES)
    return exported, remark


def _verify(exported: onnx.ModelProto, model: Network, preprocess: Preprocess) -> None:
    session = check(exported, "exported")
    operators = [node.op_type for node in exported.graph.node if node.op_type != "Constant"][:3]
    if operators != ["Transpose", "Cast", "Conv"]:
        raise EdgeError(f"the graph starts with {', '.join(operators)}, expected Transpose, Cast, Conv", exit_status=6)
    side = preprocess.size_px
    blocks = np.arange(side) * 8 // side  # not noise, which looks the same to a network whatever the seed
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)[:, blocks][:, :, blocks]
    with torch.no_grad():
        was_training = model.training
        features = model.eval().embed(torch.from_numpy(images).permute(0, 3, 1, 2).float() * scale_tensor(preprocess))
        logits, trained = to_linear(model.head)(features), model.head(features)
        model.train(was_training)
    if (logits.argmax(dim=1) != trained.argmax(dim=1)).any():
        raise EdgeError("the folded head answers otherwise than the trained one", exit_status=6)
    expected = {"logits": logits.numpy(), "features": features.numpy()}
    for batch_size in (1, 3):
        found = session.run([*expected], {"images": images[:batch_size]})
        for (name, values), actual in zip(expected.items(), found, strict=True):
            difference = float(np.abs(actual - values[:batch_size]).max())
            limit = TOLERANCE * float(np.abs(values).max())
            if not difference <= limit:  # NaN is refused as well
                text = f"{name} differ from PyTorch's by {difference:.2g}, expected at most {limit:.2g}"
                raise EdgeError(text, exit_status=6)


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str | None]:
    """Cleans up an exported graph, then has onnxsim simplify it.

    A network fused in PyTorch gains little by onnxsim (stray Constant nodes), and branches must never be left to a
    simplifier: onnxsim leaves an unfused MobileOne at 454 nodes. So a missing or failing onnxsim costs only a remark.

    Returns:
      The simplified model and None; or the model after the first step, and one line that says why.
    """
    model = clean_up(model)
    try:
        import onnxsim

        simplified, is_same = onnxsim.simplify(model)
        if is_same:
            return simplified, None
        problem = "changed the outputs"
    except ImportError:
        problem = "is not installed"
    except Exception as error:  # a C++ library: any failure leaves a model that already works
        problem = f"failed ({str(error).strip().splitlines()[0][:120]})"
    return model, f"onnxsim {problem}: graph left as exported"


def clean_up(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without Identity, and without a Pad that can be padding of the convolution after it.

    PyTorch's exporter gives one weight to two layers by an Identity, and writes a padding that differs from side to
    side as a Pad with ten nodes that compute its amounts. A Pad stays where it adds anything but zeros, to other axes
    than a picture's or by an amount that depends on the input, and where anything else reads what it gives.
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
    readers = readers_of(cleaned)
    for pad in [node for node in graph.node if node.op_type == "Pad" and node.output[0] not in outputs]:
        found = readers.get(pad.output[0], [])
        amounts = _amounts(cleaned, pad)
        if amounts is not None and [node.op_type for node in found] == ["Conv"]:
            (convolution,) = found
            amounts += attribute_of(convolution, "pads", [0] * 4)
            others = [attribute for attribute in convolution.attribute if attribute.name != "pads"]
            del convolution.attribute[:]
            convolution.attribute.extend([*others, onnx.helper.make_attribute("pads", amounts.tolist())])
            convolution.input[0] = pad.input[0]
    prune(cleaned)
    return cleaned


def _amounts(model: onnx.ModelProto, pad: onnx.NodeProto) -> np.ndarray | None:
    """(4,) zeros that a Pad puts above, left, below and right; None where it does anything else."""
    names = [name for name in pad.input[1:] if name]
    used = {*names, *(name for node in way_to(model, names) for name in node.input)}
    is_constant = used.isdisjoint(entry.name for entry in model.graph.input)
    if not is_constant or len(pad.input) > 3 or any(attribute.s != b"constant" for attribute in pad.attribute):
        return None
    amounts, *values = compute(model, names, {})
    is_around = len(amounts) == 8 and not amounts[[0, 1, 4, 5]].any() and (amounts >= 0).all()
    return amounts[[2, 3, 6, 7]] if is_around and not np.any(values) else None
