"""edge-train refit and prior: a run made from finished ones, without training."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser
from edge.exit import DONE

from .arguments import add_data, add_derived_run, check_derived_run


def add_refit(parser: ArgumentParser) -> None:
    """Adds the flags of edge-train refit."""
    add_data(parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run")
    text = "every class and group alike (cells), or every image (none)"
    parser.add_argument("--balance", choices=("cells", "none"), default="cells", help=text)
    add_derived_run(parser)


def refit(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Fits a new last layer for a finished run."""
    check_derived_run(arguments)
    from ..after import derived_run

    columns = {"label_column": arguments.label, "group_column": arguments.group}
    is_balanced = arguments.balance == "cells"
    derived_run.refit(arguments.data, arguments.run, arguments.out, balance=is_balanced, **columns)
    return DONE


def add_prior(parser: ArgumentParser) -> None:
    """Adds the flags of edge-train prior."""
    add_data(parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run")
    text = "finished runs of other folds: what they held out is fitted on"
    parser.add_argument("others", type=Path, nargs="+", metavar="OTHER", help=text)
    add_derived_run(parser)


def prior(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Fits a prior correction for a finished run and adds it."""
    check_derived_run(arguments)
    from ..after import derived_run

    columns = {"label_column": arguments.label, "group_column": arguments.group}
    found = derived_run.correct(arguments.data, arguments.run, arguments.others, arguments.out, **columns)
    print(f"accuracy {found['before']:.4f}, with the number fitted on other folds {found['after']:.4f}")
    for name, value in zip(["tau", *found["classes"]], [found["tau"], *found["offsets"]], strict=True):
        print(f"{name:16} {value:+z.3f}")
    return DONE
