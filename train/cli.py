"""edge-train: a folder of labelled pictures -> a checkpoint and honest figures. Standard error is talk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edge.arguments import ArgumentParser
from edge.exit import STATUSES
from edge.exit import run as run_command

from .commands import dataset, derived_run, fit
from .commands.arguments import PROGRAM, with_packages

_EPILOG = f"""\
examples:
  edge-train folds DATA -o folds.csv                 five folds that cut no patient or lesion
  edge-train audit DATA --folds folds.csv            duplicates, cut clusters, shortcuts
  edge-train show DATA --recipe default -o sheet.png what the network sees
  edge-train fit DATA --folds folds.csv --hold-out 0 --out RUN
  edge-train fit DATA --folds folds.csv --hold-out 0 --out RUN --resume      after an interruption
  torchrun --nproc-per-node 2 -m train fit DATA --out RUN                    on several GPUs, or processes

DATA is a folder with manifest.csv (path,class,group[,cluster]) or <group>/<class>/ folders of images.

{STATUSES}"""

_COMMANDS = {
    "folds": ("split a data set into folds", dataset.add_folds, dataset.folds),
    "audit": ("look for leaks and shortcuts", dataset.add_audit, dataset.audit),
    "show": ("draw what a recipe makes of the pictures", dataset.add_show, dataset.show),
    "fit": (fit.HELP, fit.add_flags, fit.run),
    "refit": ("fit the last layer anew, for the run's classes or other ones", derived_run.add_refit, derived_run.refit),
    "prior": (
        "fit one number times the log shares of the classes on runs of other folds, and add it to a run's last layer",
        derived_run.add_prior,
        derived_run.prior,
    ),
}
"""Name -> its help, what adds its flags, and what runs it; in the order of the help."""


def build_parser() -> ArgumentParser:
    """The parser of edge-train."""
    parser = ArgumentParser(prog=PROGRAM, description="Train a network for the skin-lesion runtime.", epilog=_EPILOG)
    add_command = parser.add_commands(quiet="no progress, no remarks")
    for name, (text, add_flags, _) in _COMMANDS.items():
        add_flags(add_command(name, text))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-train; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    _, _, run = _COMMANDS[arguments.command]
    action = partial(with_packages, PROGRAM, "train", partial(run, arguments, parser))
    return run_command(PROGRAM, action, verbose=arguments.verbose)
