"""edge-bench compare: differences of two results that are more than noise."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser, natural
from edge.exit import DONE, say

from .arguments import PROGRAM, add_output, check_files

HELP = "say which differences between two results are more than noise"
DESCRIPTION = "B minus A with paired intervals. Both must be of the same images, labels, groups and profile."
EXAMPLE = """\
edge-bench compare a.json b.json
edge-bench compare a.json b.json --group sex -o differences.json"""


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("a", type=Path, metavar="A", help="results of edge-bench score (JSON)")
    add("b", type=Path, metavar="B", help="results on the same images")
    add("--group", metavar="COLUMN", help="a column both were scored by (default: A's first)")
    add("--seed", type=natural, default=0, metavar="N", help="of the intervals' random draws")
    add_output(parser)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Sets two results against each other."""
    check_files(arguments, [arguments.a, arguments.b])
    from ..results import compare, document, text

    a, b = (document.load(path) for path in (arguments.a, arguments.b))
    column = arguments.group or document.columns_of(a)[0]
    sides = [document.by_column(result, column, path) for result, path in ((a, arguments.a), (b, arguments.b))]
    result = compare.compare(*sides, seed=arguments.seed) | {"group_column": column}
    result["a"], result["b"] = arguments.a.name, arguments.b.name
    if arguments.output is not None:
        document.write_json(arguments.output, result)
    for line in (*compare.table(result), text.fitting(compare.conclusion(result))):
        print(line)
    if not arguments.quiet:
        for line in compare.remarks(result):
            say(PROGRAM, line)
    return DONE
