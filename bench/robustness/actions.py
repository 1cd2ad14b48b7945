"""What edge-bench robustness does, once its arguments are read."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

from edge.command import DONE, GATE, ArgumentParser, say

from ..actions import PROGRAM, check_files, refuse_twice
from . import gates
from .changes import Change


def run_robustness(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Measures what changes cost that must not change the answer."""
    from edge.classifier import DEFAULT_MODEL, Classifier

    from .. import dataset
    from ..results import document, terminal
    from . import text
    from .changes import CHANGES
    from .result import robustness

    changes = [change for change in CHANGES if not arguments.only or _is_asked_for(change, arguments.only)]
    for kind in arguments.only:
        if not any(_is_asked_for(change, [kind]) for change in CHANGES):
            kinds = ", ".join(dict.fromkeys(change.kind for change in CHANGES))
            parser.error(f"--only: got {kind!r}, expected a kind of change, one of {kinds}")
    minima = dict(arguments.fail_under)
    refuse_twice("--fail-under", [name for name, _ in arguments.fail_under], parser)
    for name in minima:
        if (problem := gates.problem(name, changes)) is not None:
            parser.error(f"--fail-under {name}: {problem}")
    model = arguments.model or DEFAULT_MODEL
    subsets = [] if arguments.subset is None else [arguments.subset]
    check_files(arguments, [model, arguments.data / dataset.MANIFEST, *subsets])
    warnings.filterwarnings("ignore", module="PIL")  # oddities of files that decode all the same
    classifier = Classifier.load(model)
    subset = None if arguments.subset is None else dataset.read_subset(arguments.subset)
    result = robustness(
        classifier, arguments.data, changes, subset=subset, label_column=arguments.label, group_column=arguments.group,
        allow_seen=arguments.allow_seen, workers=arguments.workers, quiet=arguments.quiet,
    )
    result["gates"] = gates.check(result["robustness"], minima)
    if arguments.output is not None:
        document.write_json(arguments.output, result)
    for line in text.table(result["robustness"]):
        print(line)
    if not arguments.quiet:
        for line in text.remarks(result):
            say(PROGRAM, line)
    failed = [gate for gate in result["gates"] if not gate["passed"]]
    for gate in failed:
        say(PROGRAM, f"gate failed: {gate['name']} is {terminal.number(gate['value'])}, {gate['reason']}")
    return GATE if failed else DONE


def _is_asked_for(change: Change, kinds: Sequence[str]) -> bool:
    return any(f"{change.kind}-".startswith(f"{kind}-") for kind in kinds)  # "border" is all colours of borders
