"""Flags and outputs that several commands of edge-export share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge.arguments import ArgumentParser
from edge.exit import say
from edge.output_files import write_output

PROGRAM = "edge-export"


def add_run(parser: ArgumentParser) -> None:
    """Adds RUN."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of an edge-train fit, or a checkpoint")


def write_model(arguments: argparse.Namespace, content: bytes, classes: list[str]) -> None:
    """Writes the output of a command that makes a model, and says what it is."""
    write_output(arguments.output, content)
    if not arguments.quiet:
        say(PROGRAM, f"{arguments.output}: {len(content) / 1e6:.2f} MB, classes {', '.join(classes)}")


def report(
    arguments: argparse.Namespace, result: dict[str, Any], table: Callable[[dict[str, Any]], Iterator[str]]
) -> None:
    """Writes a result as JSON where asked to, prints its table, and says its remarks."""
    if arguments.output is not None:
        write_output(arguments.output, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    print("\n".join(table(result)))
    if not arguments.quiet:
        for remark in result["remarks"]:
            say(PROGRAM, remark)
