"""edge-train refit and prior: a run made from finished ones, without training."""

from __future__ import annotations

import argparse
import errno
from pathlib import Path

from edge.arguments import ArgumentParser
from edge.exit import DONE

from .arguments import add_data


def add_refit(parser: ArgumentParser) -> None:
    """Adds the flags of edge-train refit."""
    _add_run(parser)
    text = "every class and group alike (cells), or every image (none)"
    parser.add_argument("--balance", choices=("cells", "none"), default="cells", help=text)
    _add_out(parser)


def refit(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Fits a new last layer for a finished run."""
    _check_out(arguments)
    from ..after import derived_run

    columns = {"label_column": arguments.label, "group_column": arguments.group}
    is_balanced = arguments.balance == "cells"
    derived_run.refit(arguments.data, arguments.run, arguments.out, balance=is_balanced, **columns)
    return DONE


def add_prior(parser: ArgumentParser) -> None:
    """Adds the flags of edge-train prior."""
    _add_run(parser)
    text = "finished runs of other folds: what they held out is fitted on"
    parser.add_argument("others", type=Path, nargs="+", metavar="OTHER", help=text)
    _add_out(parser)


def prior(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Fits a prior correction for a finished run and adds it."""
    _check_out(arguments)
    from ..after import derived_run

    columns = {"label_column": arguments.label, "group_column": arguments.group}
    found = derived_run.correct(arguments.data, arguments.run, arguments.others, arguments.out, **columns)
    print(f"accuracy {found['before']:.4f}, with the number fitted on other folds {found['after']:.4f}")
    for name, value in zip(["tau", *found["classes"]], [found["tau"], *found["offsets"]], strict=True):
        print(f"{name:16} {value:+z.3f}")
    return DONE


def _add_run(parser: ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run")


def _add_out(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="NEW", help="folder of the new run")
    parser.add_argument("--force", action="store_true", help="replace the run in NEW")


def _check_out(arguments: argparse.Namespace) -> None:
    checkpoint = arguments.out / "checkpoint.pt"
    if checkpoint.exists() and not arguments.force:
        raise FileExistsError(errno.EEXIST, "exists already (--force replaces it)", str(checkpoint))
