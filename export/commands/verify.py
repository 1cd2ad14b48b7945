"""edge-export verify: two forms of a model on the same images."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.commands.arguments import DATA, add_columns, add_held_out, add_output
from edge.arguments import ArgumentParser
from edge.exit import DONE, GATE, say
from edge.output_files import check_output

from .arguments import PROGRAM, report

HELP = "compare two forms of a model: may the second replace the first?"
DESCRIPTION = "Compare two forms of a model on the same pictures. Exit status 6: B is worse, in all or in a group."
EXAMPLE = """\
edge-export verify RUN model.onnx --data DATA --held-out RUN/heldout.txt
edge-export verify model.onnx model.int8.onnx --data DATA \\
    --held-out RUN/heldout.txt
edge-export verify model.onnx --against-full-decode --data DATA"""


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("a", type=Path, metavar="A", help="a model file, or a run")
    add("b", type=Path, metavar="B", nargs="?", help="another form of it")
    add("--against-full-decode", action="store_true", help="instead of B: A with photos decoded at full size")
    add("--data", type=Path, required=True, metavar="DATA", help=DATA)
    add_columns(parser)
    add_held_out(parser)
    add(
        "--also", action="append", default=[], nargs=3, type=Path, metavar=("A", "B", "FILE"),
        help="another fold's models and held-out pictures, judged together with the first; repeatable",
    )
    text = "also pictures that a model was trained on"
    parser.keep(add("--allow-seen", action="store_true", help=text), "--allow-leak")
    add_output(parser, "write everything here, as JSON")


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Compares two forms of a model."""
    if (arguments.b is None) != arguments.against_full_decode:
        parser.error("expected either B or --against-full-decode")
    if arguments.also and arguments.held_out is None:
        parser.error("--also needs --held-out: an image belongs to one fold")
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
    from bench.dataset import read_subset

    from ..loaded_model import Pair
    from ..verify import table, verify

    subset = None if arguments.held_out is None else read_subset(arguments.held_out)
    others = [Pair(a, b, read_subset(images)) for a, b, images in arguments.also]
    result = verify(
        arguments.data,
        [Pair(arguments.a, arguments.b, subset), *others],
        label_column=arguments.label,
        group_column=arguments.group,
        allow_leak=arguments.allow_seen,
        quiet=arguments.quiet,
    )
    report(arguments, result, table)
    for failure in result["failures"]:
        say(PROGRAM, f"gate failed: {failure}")
    return GATE if result["failures"] else DONE
