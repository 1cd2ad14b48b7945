"""edge-train audit: leaks and shortcuts of a data set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.commands.arguments import add_output
from edge.arguments import ArgumentParser
from edge.exit import DONE, GATE
from edge.output_files import check_output, write_output

from .arguments import add_data

HELP = "look for leaks and shortcuts"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add_data(parser)
    add_output(parser, "write everything as JSON")
    add("--external", type=Path, action="append", default=[], metavar="MORE", help="a further data set")
    add("--folds", type=Path, metavar="FILE", help="folds file (else the manifest's column split)")


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Looks for leaks."""
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
    from bench.dataset import index

    from ..data.folds import read_folds
    from ..leakage.audit import find_leaks, load, probe, table, to_json, uncut

    samples = index(arguments.data, label_column=arguments.label, group_column=arguments.group)
    others = [(root, index(root)) for root in arguments.external]  # before the decoding: it may be another's mistake
    part_of: dict[str, Any] | None = None
    if arguments.folds is not None:
        part_of, _ = read_folds(arguments.folds, uncut(samples))
    elif any(sample.split for sample in samples):
        part_of = {sample.path: sample.split for sample in samples}
    data = load(arguments.data, samples, quiet=arguments.quiet)
    more = [load(root, theirs, quiet=arguments.quiet) for root, theirs in others]
    findings, num_alike = find_leaks(data, part_of, more)
    probes = probe(samples, data.features)
    print("\n".join(table(data, findings, num_alike, probes)))
    if arguments.output is not None:
        found = to_json(data, findings, num_alike, probes)
        write_output(arguments.output, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    return GATE if any(finding.is_leak for finding in findings) else DONE
