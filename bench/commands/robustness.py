"""edge-bench robustness: what changes that must not change the answer cost."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from edge.arguments import ArgumentParser, fraction, workers
from edge.exit import say

from .arguments import (
    DATA,
    PROGRAM,
    add_columns,
    add_held_out,
    add_model,
    add_output,
    check_files,
    refuse_twice,
    say_failed,
)

HELP = "measure how borders, light, blur and so on change answers"
DESCRIPTION = (
    "Accuracy, balanced accuracy, worst group and changed answers under borders, crops, sizes, turns, JPEG, blur, "
    "noise and light, paired with the answers to the files as they are. docs/robustness.md has the table."
)
EXAMPLE = """\
edge-bench robustness DATA --held-out RUN/heldout.txt -m model.onnx
edge-bench robustness DATA --only border --fail-under border.accuracy=0.7"""
_ONLY = (
    "only changes of this kind: border, crop, short-side, shift, turn, jpeg, blur, noise, exposure, white-balance or "
    "saturation; repeatable (default: all)"
)
_FAIL_UNDER_CHANGE = (
    "exit status 6 when a value is lower; repeatable; NAME is accuracy, balanced_accuracy, worst_group or unchanged "
    "(share of answers), of all changes or of those named before it, as border.accuracy, jpeg-50.unchanged, "
    "turn-mean.unchanged"
)


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help=DATA)
    add_model(parser)
    add_columns(parser)
    add_held_out(parser)
    add("--allow-seen", action="store_true", help="also pictures that the model was trained on")
    add("--only", action="append", default=[], metavar="KIND", help=_ONLY)
    add("-w", "--workers", type=workers, metavar="N", help="threads (default: the usable cores)")
    add("--fail-under", type=_minimum, action="append", default=[], metavar="NAME=VALUE", help=_FAIL_UNDER_CHANGE)
    add_output(parser)


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Measures what changes cost that must not change the answer."""
    from edge.classifier import DEFAULT_MODEL, Classifier

    from .. import dataset
    from ..results.document import write_json
    from ..robustness import measure
    from ..robustness.changes import CHANGES, is_of
    from ..robustness.result import robustness

    kinds = list(dict.fromkeys(change.kind for change in CHANGES))
    for asked in arguments.only:
        if not any(is_of(kind, asked) for kind in kinds):
            parser.error(f"--only: got {asked!r}, expected a kind of change, one of {', '.join(kinds)}")
    chosen = [kind for kind in kinds if not arguments.only or any(is_of(kind, asked) for asked in arguments.only)]
    changes = [change for change in CHANGES if change.kind in chosen]
    minima = dict(arguments.fail_under)
    refuse_twice("--fail-under", [name for name, _ in arguments.fail_under], parser)
    for name in minima:
        if (problem := measure.gate_problem(name, changes)) is not None:
            parser.error(f"--fail-under {name}: {problem}")
    model = arguments.model or DEFAULT_MODEL
    subsets = [] if arguments.held_out is None else [arguments.held_out]
    check_files(arguments, [model, arguments.data / dataset.MANIFEST, *subsets])
    warnings.filterwarnings("ignore", module="PIL")  # oddities of files that decode all the same
    classifier = Classifier.load(model)
    subset = None if arguments.held_out is None else dataset.read_subset(arguments.held_out)
    result = robustness(
        classifier, arguments.data, changes, subset=subset, label_column=arguments.label, group_column=arguments.group,
        allow_seen=arguments.allow_seen, workers=arguments.workers, quiet=arguments.quiet,
    )
    result["gates"] = measure.check_gates(result["robustness"], minima)
    if arguments.output is not None:
        write_json(arguments.output, result)
    for line in measure.table(result["robustness"]):
        print(line)
    if not arguments.quiet:
        for line in measure.remarks(result):
            say(PROGRAM, line)
    return say_failed(result["gates"])


def _minimum(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, fraction(value)
