"""edge-train prior: a prior correction for a finished run."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser
from edge.exit import DONE

from .arguments import add_finished_run, add_new_run, check_new_run, say_export

HELP = "correct a finished run for the shares of its classes"
DESCRIPTION = (
    "Fits one number on what runs of other folds held out, and adds it, times the log shares of the classes, to a "
    "run's last layer. Exit status 6: an OTHER holds out what RUN holds out."
)
EXAMPLE = "edge-train prior DATA RUN0 RUN1 RUN2 -o NEW"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_finished_run(parser)
    text = "finished runs of other folds: what they held out is fitted on"
    parser.add_argument("others", type=Path, nargs="+", metavar="OTHER", help=text)
    add_new_run(parser)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Fits a prior correction for a finished run and adds it."""
    check_new_run(arguments)
    from ..after import derived_run

    columns = {"label_column": arguments.label, "group_column": arguments.group}
    found = derived_run.correct(arguments.data, arguments.run, arguments.others, arguments.out, **columns)
    print(f"accuracy {found['before']:.4f}, with the number fitted on other folds {found['after']:.4f}")
    for name, value in zip(["tau", *found["classes"]], [found["tau"], *found["offsets"]], strict=True):
        print(f"{name:16} {value:+z.3f}")
    say_export(arguments)
    return DONE
