"""edge-train refit: a new last layer for a finished run."""

from __future__ import annotations

import argparse

from edge.arguments import ArgumentParser
from edge.exit import DONE

from .arguments import add_finished_run, add_new_run, check_new_run, say_export

HELP = "fit a finished run's last layer anew, also for other classes"
DESCRIPTION = (
    "Fit a finished run's last layer anew, for its classes or other ones. Exit status 6: the run was trained on what "
    "it is measured on."
)
EXAMPLE = """\
edge-train refit DATA RUN -o NEW
edge-train refit DATA RUN --label coarse --balance none -o NEW"""


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_finished_run(parser)
    text = "count every class and group alike (cells), or every picture (none)"
    parser.add_argument("--balance", choices=("cells", "none"), default="cells", help=text)
    add_new_run(parser)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Fits a new last layer for a finished run."""
    check_new_run(arguments)
    from ..after import derived_run

    columns = {"label_column": arguments.label, "group_column": arguments.group}
    is_balanced = arguments.balance == "cells"
    derived_run.refit(arguments.data, arguments.run, arguments.out, balance=is_balanced, **columns)
    say_export(arguments)
    return DONE
