"""edge-train audit: leaks and shortcuts of a data set."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from bench.commands.arguments import add_output
from edge.arguments import ArgumentParser
from edge.exit import DONE, GATE
from edge.output_files import check_output, write_output

from .arguments import add_data, say_next

HELP = "look for duplicates, cut patients and shortcuts in a data set"
DESCRIPTION = "Duplicates, patients and lesions that folds cut, and shortcuts. Exit status 6: the folds leak."
EXAMPLE = """\
edge-train audit DATA --folds folds.csv
edge-train audit DATA --folds folds.csv --external MORE -o audit.json"""


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_data(parser)
    add_output(parser, "write everything here, as JSON")
    text = "a further data set, as a teacher's: has it pictures of DATA? repeatable"
    parser.add_argument("--external", type=Path, action="append", default=[], metavar="MORE", help=text)
    text = "folds, by edge-train folds (default: the manifest's column split)"
    parser.add_argument("--folds", type=Path, metavar="FILE", help=text)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Looks for leaks and shortcuts."""
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
    from bench.dataset import index

    from ..data.folds import read_folds
    from ..leakage import audit as auditing

    samples = index(arguments.data, label_column=arguments.label, group_column=arguments.group)
    others = [(root, index(root)) for root in arguments.external]  # before the decoding: it may be another's mistake
    part_of: dict[str, Any] | None = None
    if arguments.folds is not None:
        part_of, _sha256 = read_folds(arguments.folds, samples)
    elif any(sample.split for sample in samples):
        part_of = {sample.path: sample.split for sample in samples}
    sets = [(arguments.data, samples), *others]
    data, *more = (auditing.load(root, own, quiet=arguments.quiet) for root, own in sets)
    found = auditing.audit(data, part_of, more)
    print("\n".join(found.lines))
    if arguments.output is not None:
        text = json.dumps(dataclasses.asdict(found), ensure_ascii=False, indent=1)
        write_output(arguments.output, text + "\n")
    if any(finding.is_leak for finding in found.findings):
        return GATE
    if arguments.folds is None:
        say_next(arguments, ["edge-train", "folds", arguments.data, "-o", "folds.csv"])
    else:
        where = ["--folds", arguments.folds, "--hold-out", 0, "-o", "RUN"]
        say_next(arguments, ["edge-train", "fit", arguments.data, *where])
    return DONE
