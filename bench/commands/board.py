"""edge-bench board: measurements on a Raspberry Pi 4B."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser, positive
from edge.exit import DONE, say

from .arguments import PROGRAM, add_talk, check_files

HELP = "measure on a Raspberry Pi 4B, in one go"
DESCRIPTION = (
    "Self-test, the contest's latency, every layer of the network and the pieces that edge-bench pi4b counts. The "
    "first time it draws 110 photos, which takes longer than the rest."
)


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("-m", "--model", type=Path, metavar="FILE", help="model (.onnx); default: the bundled one")
    add("--photos", type=Path, default=Path("board-photos"), metavar="DIR", help="for generated photos, 170 MB")
    add("--counts", type=Path, metavar="FILE", help="results of edge-bench pi4b, to print beside")
    add("--runs", type=positive, default=10, metavar="N", help="timed passes (default 10)")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="write the report as JSON here")
    add("--force", action="store_true", help="replace FILE")
    add_talk(parser)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Measures on the board that this runs on."""
    from edge.classifier import DEFAULT_MODEL

    from ..pi4b import board, count
    from ..results.document import write_json

    path = arguments.model or DEFAULT_MODEL
    check_files(arguments, [path, *([] if arguments.counts is None else [arguments.counts])])
    counts, costs = (None, []) if arguments.counts is None else count.read_costs(arguments.counts)
    if counts is not None:
        board.check_counts(arguments.counts, counts, path)
    report = board.measure(path, arguments.photos, runs=arguments.runs, quiet=arguments.quiet)
    write_json(arguments.output, report)
    for line in board.table(report, counts, costs):
        print(line)
    if not arguments.quiet:
        say(PROGRAM, f"wrote {arguments.output}: edge-bench pi4b --calibrate {arguments.output} uses it")
    return DONE
