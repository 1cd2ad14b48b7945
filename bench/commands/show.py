"""edge-bench show: the table of a results file again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge.arguments import ArgumentParser
from edge.errors import EdgeError
from edge.exit import DONE

HELP = "print the table of a results file again"
DESCRIPTION = "The same lines that the command printed which wrote the file."
EXAMPLE = "edge-bench show results.json"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    text = "results of edge-bench score, compare, robustness or latency (JSON)"
    parser.add_argument("results", type=Path, metavar="RESULTS", help=text)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Prints the table of a results file again."""
    from ..results import compare, document, text
    from ..robustness import measure as robustness

    path: Path = arguments.results
    try:
        try:
            result = json.loads(path.read_bytes())
        except ValueError:  # no JSON, or no UTF-8
            result = None
        if not isinstance(result, dict) or result.get("schema") != document.SCHEMA:
            raise EdgeError(f"{path}: no results file, expected JSON with the schema {document.SCHEMA}")
        if "levelling_down" in result:
            lines = [*compare.table(result), text.fitting(compare.conclusion(result))]
        elif "robustness" in result:
            lines = [*robustness.table(result["robustness"])]
        elif "score" in result:
            lines = [*text.table(result)]
        else:
            from ..speed import latency, peers  # onnxruntime, which other tables do without

            lines = [*latency.table(result), *peers.table(result.get("peers", {}))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EdgeError(f"{path}: damaged results file: {type(error).__name__} {error}") from error
    for line in lines:
        print(line)
    return DONE
