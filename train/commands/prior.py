"""edge-train prior: a prior correction for a finished run."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser
from edge.exit import DONE

from .arguments import add_data, add_derived_run, check_derived_run

HELP = "fit one number times the log shares of the classes on runs of other folds, and add it to a run's last layer"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_data(parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run")
    text = "finished runs of other folds: what they held out is fitted on"
    parser.add_argument("others", type=Path, nargs="+", metavar="OTHER", help=text)
    add_derived_run(parser)


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Fits a prior correction and adds it to a run."""
    from ..after.prior_correction import correct

    check_derived_run(arguments)
    columns = {"label_column": arguments.label, "group_column": arguments.group}
    found = correct(arguments.data, arguments.run, arguments.others, arguments.out, **columns)
    print(f"accuracy {found['before']:.4f}, with the number fitted on other folds {found['after']:.4f}")
    print(f"{'tau':16} {found['tau']:+z.3f}")
    for name, value in zip(found["classes"], found["offsets"], strict=True):
        print(f"{name:16} {value:+z.3f}")
    return DONE
