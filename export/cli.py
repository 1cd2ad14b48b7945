"""edge-export: a training run -> the files others use, and what is to be known of them.

Standard error is talk. Heavy imports happen after the arguments are known to be good.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge.arguments import ArgumentParser
from edge.exit import STATUSES
from edge.exit import run as run_command
from train.commands.arguments import with_packages

from .commands import info, int8, onnx, verify, weights
from .commands.arguments import PROGRAM

_EPILOG = f"""\
examples:
  edge-export onnx RUN -o model.onnx             the model file that edge-infer reads
  edge-export int8 model.onnx --calibrate DATA --held-out RUN/heldout.txt -o model.int8.onnx
  edge-export verify RUN model.onnx --data DATA --subset RUN/heldout.txt
  edge-export info model.onnx                    what a file says of itself, layer by layer
  edge-export weights RUN -o model.safetensors   the weights in training form, to fine-tune from

RUN is the --out folder of edge-train fit, or a checkpoint.pt in one.

{STATUSES}"""

_COMMANDS = {"onnx": onnx, "weights": weights, "int8": int8, "verify": verify, "info": info}
"""In the order of the help."""


def build_parser() -> ArgumentParser:
    """The parser of edge-export."""
    parser = ArgumentParser(prog=PROGRAM, description="Turn a training run into model files.", epilog=_EPILOG)
    command = parser.add_commands()
    for name, module in _COMMANDS.items():
        module.add_flags(command(name, module.HELP))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-export; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    command = _COMMANDS[arguments.command]
    return run_command(
        PROGRAM,
        lambda: with_packages(PROGRAM, "export", lambda: command.run(arguments, parser)),
        arguments,
    )
