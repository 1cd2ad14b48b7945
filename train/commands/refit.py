"""edge-train refit: a new last layer for a finished run."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser
from edge.exit import DONE

from .arguments import add_data, add_derived_run, check_derived_run

HELP = "fit the last layer anew, for the run's classes or other ones"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_data(parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run")
    text = "every class and group alike (cells), or every image (none)"
    parser.add_argument("--balance", choices=("cells", "none"), default="cells", help=text)
    add_derived_run(parser)


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Fits a last layer."""
    from ..after.last_layer import refit

    check_derived_run(arguments)
    refit(
        arguments.data,
        arguments.run,
        arguments.out,
        label_column=arguments.label,
        group_column=arguments.group,
        balance=arguments.balance == "cells",
    )
    return DONE
