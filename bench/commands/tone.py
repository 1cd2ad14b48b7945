"""edge-bench tone: the skin angle, for audits only."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser, got, natural
from edge.exit import DONE, SOME_FAILED, say

from .arguments import PROGRAM, add_output, check_files

HELP = "estimate skin tones, to audit a data set and for nothing else"
DESCRIPTION = (
    "Individual typology angle (ITA) of the skin around the lesion. Quantile groups for audits: no skin types."
)
EXAMPLE = "edge-bench tone DATA -o tones.csv"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder with a manifest.csv, or with images at any depth")
    add("--quantiles", type=_quantiles, default=4, metavar="N", help="groups of equally many images, 2 to 20")
    add_output(parser, "write the angles here, as CSV")


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Estimates skin angles."""
    from edge.progress import Progress

    from .. import dataset, skin_angle

    check_files(arguments, [arguments.data / dataset.MANIFEST])
    paths, remarks = skin_angle.paths_of(arguments.data)
    for remark in () if arguments.quiet else remarks:
        say(PROGRAM, remark)
    progress = Progress(len(paths), quiet=arguments.quiet)
    found = []
    for angle in skin_angle.angles(arguments.data, paths):
        found.append(angle)
        progress.update(len(found))
    progress.close()
    groups = skin_angle.quantile_groups(found, arguments.quantiles)
    if arguments.output is not None:
        skin_angle.write_csv(arguments.output, found, groups.names)
    for line in skin_angle.table(found, groups):
        print(line)
    if not arguments.quiet:
        for line in skin_angle.CAVEATS:
            say(PROGRAM, line)
    return SOME_FAILED if any(angle.error for angle in found) else DONE


def _quantiles(text: str) -> int:
    if not 2 <= (value := natural(text)) <= 20:
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected 2 to 20")
    return value
