"""edge-bench: make test images, time the pipeline, score predictions.

Standard output is data, standard error is talk. Heavy imports happen after the arguments are known to be good.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge import __version__
from edge.arguments import ArgumentParser
from edge.exit import STATUSES
from edge.exit import run as run_command

from .commands import board, compare, images, latency, pi4b, report, robustness, score, show, tone
from .commands.arguments import PROGRAM

_EPILOG = f"""\
examples:
  edge-bench images photos/ -n 100           test images with the sizes of the ESFair contest
  edge-bench images demo/ --mix demo         a dozen sample photos, one of them broken on purpose
  edge-infer -r data/ -o predictions.csv && edge-bench score predictions.csv --data data/

{STATUSES}"""

_COMMANDS = {
    "images": images, "score": score, "compare": compare, "robustness": robustness, "report": report, "tone": tone,
    "latency": latency, "pi4b": pi4b, "board": board, "show": show,
}
"""In the order of the help."""


def build_parser() -> ArgumentParser:
    """The parser of edge-bench."""
    parser = ArgumentParser(prog=PROGRAM, description="Measure what edge-infer does.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"fairedge {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        module.add_flags(commands.add_parser(name, help=module.HELP, description=module.DESCRIPTION))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-bench; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    module = _COMMANDS[arguments.command]
    return run_command(PROGRAM, lambda: module.run(arguments, parser), arguments)
