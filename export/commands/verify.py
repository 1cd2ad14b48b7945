"""edge-export verify: two forms of a model on the same images."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.commands.arguments import add_output
from edge.arguments import ArgumentParser
from edge.exit import DONE, GATE, say
from edge.output_files import check_output
from train.commands.arguments import add_columns

from .arguments import PROGRAM, report

HELP = "compare two forms of a model on the same images; exit 6 where the second loses"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("a", type=Path, metavar="A", help="a model file, or a run")
    add("b", type=Path, metavar="B", nargs="?", help="another")
    add("--against-full-decode", action="store_true", help="B is A with photos decoded at full size")
    add("--data", type=Path, required=True, metavar="DATA", help="the data set's folder")
    add_columns(parser)
    add("--subset", type=Path, metavar="FILE", help="paths of the images, one a line (else all)")
    add(
        "--also", action="append", default=[], nargs=3, type=Path, metavar=("A", "B", "FILE"),
        help="another fold's models and images, judged together with the first; repeatable",
    )
    add("--allow-leak", action="store_true", help="also on images that a model was trained on")
    add_output(parser, "write everything as JSON")


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Compares two forms of a model."""
    if (arguments.b is None) != arguments.against_full_decode:
        parser.error("verify: expected either B or --against-full-decode")
    if arguments.also and arguments.subset is None:
        parser.error("verify: --also needs --subset: an image belongs to one fold")
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
    from bench.dataset import read_subset

    from ..loaded_model import Pair
    from ..verify import table, verify

    subset = None if arguments.subset is None else read_subset(arguments.subset)
    others = [Pair(a, b, read_subset(images)) for a, b, images in arguments.also]
    result = verify(
        arguments.data,
        [Pair(arguments.a, arguments.b, subset), *others],
        label_column=arguments.label,
        group_column=arguments.group,
        allow_leak=arguments.allow_leak,
        quiet=arguments.quiet,
    )
    report(arguments, result, table)
    for failure in result["failures"]:
        say(PROGRAM, f"gate failed: {failure}")
    return GATE if result["failures"] else DONE
