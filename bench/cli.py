"""edge-bench: make test images, time the pipeline, score predictions.

Standard output is data, standard error is talk. Heavy imports happen after the arguments are known to be good.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge.arguments import ArgumentParser
from edge.exit import STATUSES
from edge.exit import run as run_command

from .commands import board, compare, images, latency, pi4b, report, robustness, score, show, tone
from .commands.arguments import PROGRAM

_EPILOG = f"""\
examples:
  edge-infer -r DATA -o predictions.csv            # what a model answers ...
  edge-bench score predictions.csv --data DATA     # ... and how good that is
  edge-bench images -o photos -n 100               # test images, to time with
  edge-bench latency photos

edge-bench COMMAND --help has the flags of a command, and examples.

{STATUSES}"""

_GROUPS = {
    "for users with predictions or a model": {
        "score": score, "compare": compare, "report": report, "show": show, "robustness": robustness, "tone": tone,
    },
    "for entrants of the contest, on their machine": {"images": images, "latency": latency},
    "for maintainers of the figures for the Raspberry Pi 4B": {"board": board, "pi4b": pi4b},
}
"""Who needs which command, in the order of the help."""
_COMMANDS = {name: module for commands in _GROUPS.values() for name, module in commands.items()}


def build_parser() -> ArgumentParser:
    """The parser of edge-bench."""
    description = "Score predictions, make test images, measure time."
    parser = ArgumentParser(prog=PROGRAM, description=description, epilog=_EPILOG)
    add_command = parser.add_commands(quiet="no progress, no remarks")
    for group, commands in _GROUPS.items():
        for name, module in commands.items():
            texts = {"description": module.DESCRIPTION, "example": module.EXAMPLE, "group": group}
            module.add_flags(add_command(name, module.HELP, **texts))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-bench; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    module = _COMMANDS[arguments.command]
    return run_command(PROGRAM, lambda: module.run(arguments, parser), arguments)
