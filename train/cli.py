"""edge-train: a folder of labelled pictures -> a checkpoint and honest figures. Standard error is talk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edge.arguments import ArgumentParser
from edge.exit import STATUSES
from edge.exit import run as run_command

from .commands import audit, fit, folds, prior, refit, show
from .commands.arguments import PROGRAM, with_packages

_EPILOG = f"""\
examples:
  edge-train folds DATA -o folds.csv                 five folds that cut no patient or lesion
  edge-train audit DATA --folds folds.csv            duplicates, cut clusters, shortcuts
  edge-train show DATA --recipe default -o sheet.png what the network sees
  edge-train fit DATA --folds folds.csv --hold-out 0 --out RUN
  edge-train fit DATA --folds folds.csv --hold-out 0 --out RUN --resume      after an interruption
  torchrun --nproc-per-node 2 -m train fit DATA --out RUN                    on several GPUs, or processes

DATA is a folder with manifest.csv (path,class[,group][,cluster]), <group>/<class>/ or <class>/ folders of images.

{STATUSES}"""

_COMMANDS = {"folds": folds, "audit": audit, "show": show, "fit": fit, "refit": refit, "prior": prior}
"""In the order of the help."""


def build_parser() -> ArgumentParser:
    """The parser of edge-train."""
    parser = ArgumentParser(prog=PROGRAM, description="Train a network for the skin-lesion runtime.", epilog=_EPILOG)
    add_command = parser.add_commands(quiet="no progress, no remarks")
    for name, module in _COMMANDS.items():
        module.add_flags(add_command(name, module.HELP))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-train; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    run = _COMMANDS[arguments.command].run
    action = partial(with_packages, PROGRAM, "train", partial(run, arguments, parser))
    return run_command(PROGRAM, action, arguments)
