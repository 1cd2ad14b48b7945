"""A trained network -> the model file the runtime reads, proven equal before it appears.

The graph is Transpose, Cast, then convolutions with ReLU, global average pooling, the classifier as a 1x1
convolution, Flatten; the pooled layer is a second output, which `edge-infer` leaves alone. A convolution computes each
image by itself, so an image's logits are the same bits whatever the batch it is in; a matrix product over the batch
(Gemm) may choose its kernel by the batch size.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from typing import cast

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn
from torch.nn import functional

from edge.errors import EdgeError
from edge.photo.preprocess import Preprocess
from train.data.images import scale_tensor
from train.networks.head import to_linear
from train.networks.mobileone import reparameterize
from train.networks.network import Network

from .fold import fold_scale
from .simplify import simplify

SCHEMA = "edge-model/1"
OPSET = 18
TOLERANCE = 1e-4
"""Largest difference between the file and PyTorch, relative to the largest logit."""


class InferenceGraph(nn.Module):
    """(N, S, S, 3) uint8 RGB -> (N, C) logits, (N, D) features, float32: the whole model file, in PyTorch."""

    def __init__(self, model: Network, scale: float | tuple[float, float, float]) -> None:
        """Fuses the branches of `model`, folds `scale` into its first convolution, and its head into one layer."""
        super().__init__()
        fused = fold_scale(reparameterize(model), scale)
        self.body = fused.body
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


def to_onnx(
    model: Network, *, preprocess: Preprocess, metadata: Mapping[str, str]
) -> tuple[onnx.ModelProto, str | None]:
    """Exports a network.

    Args:
      model: In training or inference form; not changed.
      preprocess: What the network was trained on.
      metadata: Further metadata_props beside fairedge.schema and preprocess; `classes` among them.

    Returns:
      The model, checked against PyTorch, and a remark where it could not be simplified.

    Raises:
      EdgeError: the exported model is invalid or computes something else.
    """
    side = preprocess.size_px
    try:
        graph = InferenceGraph(model, preprocess.scale)
        with torch.no_grad():
            graph(torch.zeros(1, side, side, 3, dtype=torch.uint8))
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
            (torch.zeros(1, side, side, 3, dtype=torch.uint8),),
            file,  # type: ignore[arg-type]  # its annotation forgets that this exporter takes open files
            input_names=["images"],
            output_names=["logits", "features"],
            dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}, "features": {0: "N"}},
            opset_version=OPSET,
            dynamo=False,
        )
    exported, remark = simplify(onnx.load_from_string(file.getvalue()))
    _strip(exported)
    properties = {"fairedge.schema": SCHEMA, "preprocess": preprocess.to_json(), **metadata}
    onnx.helper.set_model_props(exported, properties)
    _verify(exported, model, preprocess)
    return exported, remark


def describe_model(model: Network, *, variant: str, size_px: int) -> str:
    """The `model` entry of the metadata, JSON: variant, and parameters and multiply-adds of the inference form."""
    graph = InferenceGraph(model, 1.0)
    macs = 0

    def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        weight = cast(nn.Conv2d, module).weight
        macs += output[0].numel() * weight[0].numel()

    for module in graph.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        graph(torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8))
    parameters = sum(p.numel() for p in graph.parameters())
    # The factor of a BatchNorm goes into the weights before it, and its shift becomes their bias.
    parameters -= sum(module.weight.numel() for module in graph.modules() if isinstance(module, nn.BatchNorm2d))
    return json.dumps({"variant": variant, "parameters": parameters, "macs": macs})


def _strip(model: onnx.ModelProto) -> None:
    """Removes what exporters leave: their metadata, and doc strings with paths of the machine they ran on."""
    model.doc_string = model.graph.doc_string = ""
    for entry in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        entry.doc_string = ""
        del entry.metadata_props[:]


def _verify(exported: onnx.ModelProto, model: Network, preprocess: Preprocess) -> None:
    try:
        onnx.checker.check_model(exported, full_check=True)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # neither library has a common base but Exception
        reason = str(error).strip().splitlines()[0][:200]
        raise EdgeError(f"the exported model is invalid: {reason}", exit_status=6) from error
    operators = [node.op_type for node in exported.graph.node if node.op_type != "Constant"][:3]
    if operators != ["Transpose", "Cast", "Conv"]:
        raise EdgeError(f"the graph starts with {', '.join(operators)}, expected Transpose, Cast, Conv", exit_status=6)
    side = preprocess.size_px
    blocks = np.arange(side) * 8 // side  # not noise, which looks the same to a network whatever the seed
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)[:, blocks][:, :, blocks]
    with torch.no_grad():
        was_training = model.training
        scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() * scale_tensor(preprocess)
        features = model.eval().embed(scaled)
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
