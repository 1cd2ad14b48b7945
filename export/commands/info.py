"""edge-export info: what a model file says of itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.commands.arguments import add_output
from edge.arguments import ArgumentParser
from edge.exit import DONE
from edge.output_files import check_output

from .arguments import report

HELP = "show the metadata and the layers of a model file"
EXAMPLE = "edge-export info model.onnx"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model file, .onnx")
    add_output(parser, "write everything here, as JSON")


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Describes a model file."""
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
    from ..info import read, table

    report(arguments, read(arguments.model), table)
    return DONE
