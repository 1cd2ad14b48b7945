"""edge-bench board: measurements on a Raspberry Pi 4B."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser, positive
from edge.exit import DONE, say
from edge.output_files import OutputPath

from .arguments import PROGRAM, add_model, add_output, check_files

HELP = "measure on a Raspberry Pi 4B, in one go"
DESCRIPTION = (
    "Self-test, the contest's latency, every layer of the network and the pieces that edge-bench pi4b counts. The "
    "first time it draws 110 photos, which takes longer than the rest."
)
EXAMPLE = """\
edge-bench board -o board.json
edge-bench board --counts docs/pi4b-cost.json -o board.json"""


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add_model(parser)
    default = OutputPath("board-photos")
    add("--photos", type=OutputPath, default=default, metavar="FOLDER", help="where generated photos are kept, 170 MB")
    add("--counts", type=Path, metavar="FILE", help="results of edge-bench pi4b, to print beside the times")
    add("--runs", type=positive, default=10, metavar="N", help="timed passes")
    add_output(parser, "write the report here, as JSON", required=True)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Measures on the board that this runs on."""
    from edge.classifier import DEFAULT_MODEL, Classifier
    from edge.errors import EdgeError

    from ..pi4b import board, count
    from ..results.document import write_json

    path, counts_path = arguments.model or DEFAULT_MODEL, arguments.counts
    check_files(arguments, [path, *filter(None, [counts_path])])
    counted: dict[str, str] = {}
    costs: list[count.Cost] = []
    if counts_path is not None:
        counts, costs = count.read_costs(counts_path)
        if (digest := Classifier.load(path).sha256) not in counts["models"].values():
            names = ", ".join(counts["models"])[:80] or "no model"
            message = f"counts of {names}, expected {path.name} ({digest[:12]}), which is measured"
            raise EdgeError(f"{counts_path}: {message}")
        counted = {**counts["models"], **counts["photos"]}
    report = board.measure(path, arguments.photos, runs=arguments.runs, quiet=arguments.quiet)
    write_json(arguments.output, report)
    print("\n".join(board.table(report, counted, costs)))
    if not arguments.quiet:
        say(PROGRAM, f"wrote {arguments.output}: edge-bench pi4b --calibrate {arguments.output} uses it")
    return DONE
