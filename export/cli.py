"""edge-export: a training run -> the files others use, and what is to be known of them.

Standard error is talk. Heavy imports happen after the arguments are known to be good.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edge.arguments import ArgumentParser
from edge.exit import STATUSES
from edge.exit import run as run_command
from train.commands.arguments import with_packages

from .commands import PROGRAM, model_files, reports

_EPILOG = f"""\
examples:
  edge-export onnx RUN -o model.onnx             the model file that edge-infer reads
  edge-export int8 model.onnx --calibrate DATA --held-out RUN/heldout.txt -o model.int8.onnx
  edge-export verify RUN model.onnx --data DATA --subset RUN/heldout.txt
  edge-export info model.onnx                    what a file says of itself, layer by layer
  edge-export weights RUN -o model.safetensors   the weights in training form, to fine-tune from

RUN is the --out folder of edge-train fit, or a checkpoint.pt in one.

{STATUSES}"""

_COMMANDS = {
    "onnx": ("write the model file of the runtime", model_files.add_onnx, model_files.onnx),
    "weights": ("write the weights in training form (safetensors)", model_files.add_weights, model_files.weights),
    "int8": ("quantise a model file", model_files.add_int8, model_files.int8),
    "verify": (
        "compare two forms of a model on the same images; exit 6 where the second loses",
        reports.add_verify,
        reports.verify,
    ),
    "info": ("tell what a model file says of itself, layer by layer", reports.add_info, reports.info),
}
"""Name -> its help, what adds its flags, and what runs it; in the order of the help."""


def build_parser() -> ArgumentParser:
    """The parser of edge-export."""
    parser = ArgumentParser(prog=PROGRAM, description="Turn a training run into model files.", epilog=_EPILOG)
    add_command = parser.add_commands()
    for name, (text, add_flags, _) in _COMMANDS.items():
        add_flags(add_command(name, text))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-export; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    _, _, run = _COMMANDS[arguments.command]
    action = partial(with_packages, PROGRAM, "export", partial(run, arguments, parser))
    return run_command(PROGRAM, action, verbose=arguments.verbose)
