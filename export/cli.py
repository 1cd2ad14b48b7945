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
  edge-export onnx RUN -o model.onnx     # the model file that edge-infer reads
  edge-export verify RUN model.onnx --data DATA --held-out RUN/heldout.txt
  edge-export info model.onnx            # what a file says of itself

edge-export COMMAND --help has the flags of a command, and examples.

RUN is the folder that edge-train fit writes, or a checkpoint.pt in one.

{STATUSES}"""

_GROUPS = {
    "for whoever runs a model": {"onnx": onnx, "int8": int8, "verify": verify, "info": info},
    "for whoever trains further": {"weights": weights},
}
"""Who needs which command, in the order of the help."""
_COMMANDS = {name: module for commands in _GROUPS.values() for name, module in commands.items()}


def build_parser() -> ArgumentParser:
    """The parser of edge-export."""
    parser = ArgumentParser(prog=PROGRAM, description="Turn a training run into model files.", epilog=_EPILOG)
    add_command = parser.add_commands()
    for group, commands in _GROUPS.items():
        for name, module in commands.items():
            description = getattr(module, "DESCRIPTION", None)
            texts = {"description": description, "example": module.EXAMPLE, "group": group}
            module.add_flags(add_command(name, module.HELP, **texts))
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
