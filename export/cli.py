"""edge-export: a training run -> the files others use. Standard error is talk."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge import __version__
from edge.command import DONE, ENVIRONMENT, STATUSES, ArgumentParser, fail, run, say
from edge.outputs import check_output, write_output

if TYPE_CHECKING:
    from train.checkpoint import Checkpoint

_PROGRAM = "edge-export"
_PACKAGES = {"torch": "PyTorch", "onnx": "onnx", "safetensors": "safetensors"}
_EPILOG = f"""\
examples:
  edge-export onnx RUN -o model.onnx             the model file that edge-infer reads
  edge-export weights RUN -o model.safetensors   the weights in training form, to fine-tune from

RUN is the --out folder of edge-train fit, or a checkpoint.pt in one.

{STATUSES}"""


def build_parser() -> ArgumentParser:
    """The parser of edge-export."""
    parser = ArgumentParser(prog=_PROGRAM, description="Turn a training run into model files.", epilog=_EPILOG)
    version = f"fairedge {__version__} (Python {sys.version.split()[0]})"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    to_onnx = commands.add_parser("onnx", help="the model file of the runtime", description="Write the model file.")
    weights = commands.add_parser("weights", help="training-form weights", description="Write a safetensors file.")
    to_onnx.add_argument("--license", default="unspecified", metavar="TEXT", help="licence of the weights")
    for command in (to_onnx, weights):
        command.add_argument("run", type=Path, metavar="RUN", help="run folder or checkpoint")
        command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the file to write")
        command.add_argument("--force", action="store_true", help="replace FILE")
        command.add_argument("-q", "--quiet", action="store_true", help="no remarks")
        command.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-export; returns its exit status."""
    arguments = build_parser().parse_args(argv)
    return run(_PROGRAM, lambda: _export(arguments), verbose=arguments.verbose)


def _export(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    check_output(output, force=arguments.force)
    try:
        from train.checkpoint import load

        checkpoint = load(arguments.run)
        content = _onnx(arguments, checkpoint) if arguments.command == "onnx" else _weights(checkpoint)
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        return fail(_PROGRAM, f"needs {_PACKAGES[error.name]}: pip install '.[export]' in the checkout", ENVIRONMENT)
    write_output(output, content)
    if not arguments.quiet:
        say(_PROGRAM, f"{output}: {len(content) / 1e6:.2f} MB, classes {', '.join(checkpoint.classes)}")
    return DONE


def _onnx(arguments: argparse.Namespace, checkpoint: Checkpoint) -> bytes:
    from edge.preprocess import Preprocess
    from train.config import TrainConfig
    from train.network import build

    from .to_onnx import describe_model, to_onnx

    config, preprocess = TrainConfig.from_dict(checkpoint.config), Preprocess.from_json(checkpoint.preprocess)
    model = build(config.model, len(checkpoint.classes))
    model.load_state_dict(checkpoint.weights)
    training = {
        "data": checkpoint.data_name,
        "recipe": checkpoint.recipe,
        "commit": checkpoint.commit,
        "cluster_sha256": hashlib.sha256("\n".join(checkpoint.clusters).encode()).hexdigest(),
        "hold_out": checkpoint.hold_out,
        **({"leaky": True} if checkpoint.leaky else {}),
    }
    metadata = {
        "classes": json.dumps(checkpoint.classes, ensure_ascii=False),
        "model": describe_model(model, variant=config.model.network, size_px=preprocess.size_px),
        "training": json.dumps(training, ensure_ascii=False),
        "temperature": "1.0",
        "license": arguments.license,
    }
    if checkpoint.metrics is not None:
        metadata["metrics"] = json.dumps(checkpoint.metrics, ensure_ascii=False)
    exported, remark = to_onnx(model, preprocess=preprocess, metadata=metadata)
    if remark and not arguments.quiet:
        say(_PROGRAM, remark)
    content: bytes = exported.SerializeToString()
    return content


def _weights(checkpoint: Checkpoint) -> bytes:
    from .to_safetensors import to_safetensors

    return to_safetensors(checkpoint)
