"""Flags and checks that several commands of edge-bench share."""

from __future__ import annotations

import argparse
import errno
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.arguments import ArgumentParser
from edge.exit import DONE, GATE, say
from edge.output_files import CHECKPOINT, MANIFEST, OutputPath, check_output, protect

PROGRAM = "edge-bench"
PROFILES = ("esfair2023", "esfair2023-code", "esfair2023-page")
"""The names in bench.metrics.contest, which needs numpy; --help does not."""


DATA = "data set: DATA/<group>/<class>/, DATA/<class>/ or a manifest.csv"


def add_output(
    parser: argparse.ArgumentParser, text: str = "write the results here, as JSON", *, required: bool = False
) -> None:
    """Adds -o and --force."""
    parser.add_argument("-o", "--output", type=OutputPath, required=required, metavar="FILE", help=text)
    parser.add_argument("--force", action="store_true", help="replace FILE")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds -m."""
    text = "model, .onnx (default: the bundled one)"
    parser.add_argument("-m", "--model", type=Path, metavar="FILE", help=text)


def add_held_out(parser: ArgumentParser) -> None:
    """Adds --held-out of a command that takes those pictures only."""
    text = "take these pictures only: paths, one a line, as RUN/heldout.txt (default: all)"
    parser.keep(parser.add_argument("--held-out", type=Path, metavar="FILE", help=text), "--subset")


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Adds --label and --group."""
    parser.add_argument("--label", default="class", metavar="COLUMN", help="manifest column with the true class")
    parser.add_argument("--group", default="group", metavar="COLUMN", help="manifest column with the group")


def refuse_twice(flag: str, names: Sequence[str], parser: ArgumentParser) -> None:
    """Ends the command where one name is given twice."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        parser.error(f"{flag} {twice[0]} is given twice, expected once")


def check_folder(out: Path, *, force: bool | None) -> None:
    """Whether a folder may be written into: it is absent, empty, or `force`, which is None where there is no such flag.

    Raises:
      FileExistsError: it is not; `filename` is the folder.
    """
    if out.is_dir() and not force and next(out.iterdir(), None) is not None:
        way_out = "expected an empty folder or none" if force is None else "--force writes into it"
        raise FileExistsError(errno.EEXIST, f"is not empty ({way_out})", str(out))
    for name in (MANIFEST, CHECKPOINT):  # also with --force
        if (out / name).exists():
            raise FileExistsError(errno.EEXIST, f"holds a {name}, expected a folder of its own", str(out))
    if out.exists() and not out.is_dir():
        raise FileExistsError(errno.EEXIST, "is a file, expected a folder", str(out))


def check_files(arguments: argparse.Namespace, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Says before the work that its output cannot be written, or is one of the files that are read."""
    protect([os.fspath(path) for path in inputs])
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Adds --profile."""
    text = (
        "reading of the contest's rules: esfair2023, the organisers' formulas on every image; esfair2023-code, their "
        "code, which drops up to 63 images a group; esfair2023-page, the page of the rules, where the smallest group "
        "is compared against and fairness can be negative"
    )
    parser.add_argument("--profile", choices=PROFILES, default=PROFILES[0], help=text)


def say_failed(gates: Sequence[Mapping[str, Any]]) -> int:
    """Says which minima were not reached; the exit status of a command with --fail-under."""
    from ..results.text import number

    failed = [gate for gate in gates if not gate["passed"]]
    for gate in failed:
        say(PROGRAM, f"gate failed: {gate['name']} is {number(gate['value'])}, {gate['reason']}")
    return GATE if failed else DONE
