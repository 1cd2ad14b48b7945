"""edge-export: a training run -> the files others use, and what is to be known of them. Standard error is talk."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from edge.arguments import ArgumentParser, natural, whole
from edge.exit import STATUSES, run
from train.commands.arguments import add_columns, add_output, with_packages

PROGRAM = "edge-export"
_EPILOG = f"""\
examples:
  edge-export onnx RUN -o model.onnx             the model file that edge-infer reads
  edge-export int8 model.onnx --calibrate DATA --held-out RUN/heldout.txt -o model.int8.onnx
  edge-export verify RUN model.onnx --data DATA --subset RUN/heldout.txt
  edge-export info model.onnx                    what a file says of itself, layer by layer
  edge-export weights RUN -o model.safetensors   the weights in training form, to fine-tune from

RUN is the --out folder of edge-train fit, or a checkpoint.pt in one.

{STATUSES}"""


def build_parser() -> ArgumentParser:
    """The parser of edge-export."""
    parser = ArgumentParser(prog=PROGRAM, description="Turn a training run into model files.", epilog=_EPILOG)
    command = parser.add_commands()

    to_onnx = command("onnx", "write the model file of the runtime")
    to_onnx.add_argument("--license", default="unspecified", metavar="TEXT", help="licence of the weights")
    weights = command("weights", "write the weights in training form (safetensors)")
    for each in (to_onnx, weights):
        each.add_argument("run", type=Path, metavar="RUN", help="run folder or checkpoint")
        add_output(each, "the file to write", required=True)

    int8 = command("int8", "quantise a model file")
    int8.add_argument("model", type=Path, metavar="MODEL", help="a float model file")
    int8.add_argument("--calibrate", type=Path, required=True, metavar="DATA", help="data set to choose images from")
    add_columns(int8)
    int8.add_argument("--held-out", type=Path, metavar="FILE", help="paths not to calibrate on, one a line")
    int8.add_argument("--images", type=_calibration_size, default=512, metavar="N", help="to calibrate on (512)")
    int8.add_argument("--seed", type=natural, default=0, metavar="N", help="of the choice (0)")
    add_output(int8, "the file to write", required=True)

    verify = command("verify", "compare two forms of a model on the same images; exit 6 where the second loses")
    verify.add_argument("a", type=Path, metavar="A", help="a model file, or a run")
    verify.add_argument("b", type=Path, metavar="B", nargs="?", help="another")
    verify.add_argument("--against-full-decode", action="store_true", help="B is A with photos decoded at full size")
    verify.add_argument("--data", type=Path, required=True, metavar="DATA", help="the data set's folder")
    add_columns(verify)
    verify.add_argument("--subset", type=Path, metavar="FILE", help="paths of the images, one a line (else all)")
    verify.add_argument(
        "--also", action="append", default=[], nargs=3, type=Path, metavar=("A", "B", "FILE"),
        help="another fold's models and images, judged together with the first; repeatable",
    )
    verify.add_argument("--allow-leak", action="store_true", help="also on images that a model was trained on")
    add_output(verify, "write everything as JSON", required=False)

    info = command("info", "tell what a model file says of itself, layer by layer")
    info.add_argument("model", type=Path, metavar="MODEL", help="a model file")
    add_output(info, "write everything as JSON", required=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-export; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "verify" and (arguments.b is None) != arguments.against_full_decode:
        parser.error("verify: expected either B or --against-full-decode")
    if arguments.command == "verify" and arguments.also and arguments.subset is None:
        parser.error("verify: --also needs --subset: an image belongs to one fold")
    return run(PROGRAM, lambda: with_packages(PROGRAM, "export", lambda: _act(arguments)), verbose=arguments.verbose)


def _act(arguments: argparse.Namespace) -> int:
    from . import actions, int8_actions

    module = int8_actions if arguments.command == "int8" else actions
    action: Callable[[argparse.Namespace], int] = getattr(module, f"run_{arguments.command}")
    return action(arguments)


def _calibration_size(text: str) -> int:
    return whole(text, least=16)
