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
  edge-train folds DATA -o folds.csv           # that cut no patient or lesion
  edge-train audit DATA --folds folds.csv      # duplicates, shortcuts
  edge-train show DATA -o sheet.png            # what the network sees
  edge-train fit DATA --folds folds.csv --hold-out 0 -o RUN
  torchrun --nproc-per-node 2 -m train fit DATA -o RUN   # on several GPUs

edge-train COMMAND --help has the flags of a command, and examples.

DATA is a folder with manifest.csv (path,class[,group][,cluster]), <group>/<class>/ or <class>/ folders of images.

{STATUSES}"""

_GROUPS = {
    "for whoever trains a network, in this order": {"folds": folds, "audit": audit, "show": show, "fit": fit},
    "for researchers with finished runs": {"refit": refit, "prior": prior},
}
"""Who needs which command, in the order of the help."""
_COMMANDS = {name: module for commands in _GROUPS.values() for name, module in commands.items()}


def build_parser() -> ArgumentParser:
    """The parser of edge-train."""
    parser = ArgumentParser(prog=PROGRAM, description="Train a network for the skin-lesion runtime.", epilog=_EPILOG)
    add_command = parser.add_commands(quiet="no progress, no remarks")
    for group, commands in _GROUPS.items():
        for name, module in commands.items():
            description = getattr(module, "DESCRIPTION", None)
            texts = {"description": description, "example": module.EXAMPLE, "group": group}
            module.add_flags(add_command(name, module.HELP, **texts))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-train; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    run = _COMMANDS[arguments.command].run
    action = partial(with_packages, PROGRAM, "train", partial(run, arguments, parser))
    return run_command(PROGRAM, action, arguments)
