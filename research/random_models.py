"""Model files with random weights, for what networks cost: time does not depend on the weights, answers do.

    python -m research.random_models FOLDER

writes NETWORK_SIDE.fp32.onnx and NETWORK_SIDE.int8.onnx for MobileOne-S0 to S4, MobileNetV2, MobileNetV3-Small and
EfficientNet-Lite0 at 128, 160 and 224 px; `edge-bench pi4b` counts them. Tens of minutes; files that are there are
kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from torch import nn

from edge.output_files import write_output
from edge.photo.preprocess import Preprocess
from export.int8.quantize import MIN_CALIBRATION, quantize
from export.to_onnx import to_onnx
from train.config import ModelConfig
from train.networks.network import Network, build

NETWORKS = (*(f"mobileone_s{i}" for i in range(5)), "mobilenet_v2", "mobilenet_v3_small", "efficientnet_lite0")
SIDES_PX = (128, 160, 224)
NUM_CLASSES = 6


def random_model(network: str, side: int, *, seed: int = 0) -> onnx.ModelProto:
    """A float model file whose answers mean nothing.

    Args:
      network: As `ModelConfig.network`.
      side: Of the input, px.
      seed: Of the weights.
    """
    torch.manual_seed(seed)
    model = build(ModelConfig(network), NUM_CLASSES)
    _settle(model)
    metadata = {
        "classes": json.dumps([f"class {i}" for i in range(NUM_CLASSES)]),
        "training": json.dumps({"data": "none: random weights"}),
    }
    exported, _ = to_onnx(model, preprocess=Preprocess(size_px=side), metadata=metadata, variant=network)
    return exported


def random_int8(model: onnx.ModelProto, side: int, *, seed: int = 0) -> onnx.ModelProto:
    """Its int8 form."""
    images = np.random.default_rng(seed).integers(0, 256, (MIN_CALIBRATION, side, side, 3)).astype(np.uint8)
    return quantize(model, images)


def _settle(model: Network) -> None:
    """Gives every BatchNorm the statistics of some pictures, so that no layer's output vanishes or overflows."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(nn.functional.interpolate(torch.rand(8, 3, 8, 8), size=64))
        for norm in norms:
            variance = cast(torch.Tensor, norm.running_var)
            variance.clamp_(min=0.2 * float(variance.mean()))  # or dead channels are amplified
    model.eval()


def main(arguments: Sequence[str]) -> int:
    """Writes the files; see the module's first lines."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for network in NETWORKS:
        for side in SIDES_PX:
            paths = [folder / f"{network}_{side}.{kind}.onnx" for kind in ("fp32", "int8")]
            if all(path.exists() for path in paths):
                continue
            model = random_model(network, side)
            for path, content in zip(paths, (model, random_int8(model, side)), strict=True):
                write_output(path, content.SerializeToString())
                print(path, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
