"""What the commands of edge-bench do that work on predictions and results; `bench.photo_actions` has the others.

Each takes the parsed arguments and returns the exit status. Heavy modules are imported where they are needed, so that
a command pays for its own alone: the Pi has no matplotlib.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.command import DONE, ENVIRONMENT, GATE, ArgumentParser, fail, say
from edge.errors import EdgeError
from edge.output_files import check_output, refuse_input

if TYPE_CHECKING:
    from .dataset import Sample
    from .metrics.evaluation import Setting

PROGRAM = "edge-bench"


@contextmanager
def _without_collector() -> Iterator[None]:
    """A million rows are millions of objects and no cycle; looking for one takes a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@_without_collector()
def run_score(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Compares predictions with a data set."""
    minima = dict(arguments.fail_under)
    refuse_twice("--fail-under", [name for name, _ in arguments.fail_under], parser)
    refuse_twice("--group", arguments.group, parser)
    if arguments.latency is None and (needs := {"latency", "total"} & set(minima)):
        parser.error(f"--fail-under {min(needs)} needs --latency")
    from edge.predictions import meta_path, read

    from . import dataset
    from .results import document, gates, groupings, pairing, terminal, timing

    column, *others = arguments.group or ["group"]
    inputs = [arguments.predictions, meta_path(arguments.predictions), arguments.data / dataset.MANIFEST]
    check_files(arguments, [*inputs, *([] if arguments.latency is None else [arguments.latency])])
    latency = None if arguments.latency is None else timing.read(arguments.latency)
    indexed = dataset.index(arguments.data, label_column=arguments.label, group_column=column)
    everything = [dataset.as_text(sample) for sample in indexed]
    further = {name: dataset.groups_by_path(arguments.data, name, label_column=arguments.label) for name in others}
    predictions = read(arguments.predictions)  # second: what indexing needs for a moment is free again
    samples = [sample for sample in everything if arguments.split in (None, sample.split)]
    if not samples:
        parts = ", ".join(sorted({sample.split or "none" for sample in everything}))
        raise dataset.DatasetError(f"{arguments.data}: no sample of split {arguments.split!r}, got {parts}")
    pairs = pairing.join(samples, predictions.rows, subset=arguments.subset)
    # A split may lack a class that the model, unless it says which it knows, may still have answered.
    known = dataset.classes_of(samples if "classes" in predictions.meta else everything)
    classes = pairing.class_order(predictions.meta, known, pairs)
    num_left_out = len(samples) - len(pairs)
    num_errors = sum(prediction.status == "error" for _, prediction in pairs)
    if arguments.errors == "exclude":
        pairs = [(sample, prediction) for sample, prediction in pairs if prediction.status != "error"]
    setting = _setting(arguments, everything, further)
    result: dict[str, Any] = {
        "schema": document.SCHEMA,
        "data": {
            "name": arguments.data.resolve().name,
            "label_column": arguments.label,
            "group_column": column,
            "split": arguments.split,
            "samples": len(samples),
            "left_out": num_left_out,
        },
        "predictions": predictions.meta,
        "errors": {"policy": arguments.errors, "images": num_errors},
        **document.metrics(pairs, classes, setting),
    }
    result["groupings"] = groupings.further(
        result["samples"], classes, setting, further, excluded=arguments.exclude_group
    )
    if latency is not None:
        timing.add(result, latency)
    result["gates"] = gates.check(result, minima)
    if arguments.output is not None:
        document.write_json(arguments.output, result)
    for line in terminal.table(result):
        print(line)
    if not arguments.quiet:
        if num_left_out:
            say(PROGRAM, f"{num_left_out} of {len(samples)} samples have no prediction: left out")
        for line in terminal.remarks(result):
            say(PROGRAM, line)
    failed = [gate for gate in result["gates"] if not gate["passed"]]
    for gate in failed:
        say(PROGRAM, f"gate failed: {gate['name']} is {terminal.number(gate['value'])}, {gate['reason']}")
    return GATE if failed else DONE


def _setting(
    arguments: argparse.Namespace, samples: Sequence[Sample], further: Mapping[str, Mapping[str, str]]
) -> Setting:
    """What the first column of groups is scored with; a group that is to be left out may be in a further one alone."""
    from . import dataset
    from .metrics import evaluation, score

    profile, groups = score.PROFILES[arguments.profile], [sample.group for sample in samples]
    elsewhere = {group for group_of in further.values() for group in group_of.values()} - {*groups}
    excluded = tuple(dict.fromkeys(name for name in arguments.exclude_group if name not in elsewhere))
    reference = score.reference_group(groups, profile=profile, wanted=arguments.reference, excluded=excluded)
    malignant = dataset.malignant_classes(samples)
    return evaluation.Setting(profile, reference, excluded, malignant=malignant, seed=arguments.seed)


def run_compare(arguments: argparse.Namespace) -> int:
    """Sets two results against each other."""
    check_files(arguments, [arguments.a, arguments.b])
    from .results import comparison, groupings, document

    a, b = (comparison.load(path) for path in (arguments.a, arguments.b))
    column = arguments.group or groupings.columns_of(a)[0]
    sides = [comparison.by_column(result, column, path) for result, path in ((a, arguments.a), (b, arguments.b))]
    result = comparison.compare(*sides, seed=arguments.seed) | {"group_column": column}
    result["a"], result["b"] = arguments.a.name, arguments.b.name
    if arguments.output is not None:
        document.write_json(arguments.output, result)
    for line in comparison.table(result):
        print(line)
    if not arguments.quiet:
        for line in comparison.remarks(result):
            say(PROGRAM, line)
    return DONE


def run_report(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Writes the page."""
    out: Path = arguments.output
    refuse_twice("--group", arguments.group, parser)
    check_folder(out, force=arguments.force)
    try:
        from .report import report
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("matplotlib", "jinja2"):
            raise
        text = "report needs matplotlib and jinja2: pip install '.[report]' in the checkout"
        return fail(PROGRAM, text, ENVIRONMENT)
    names = report.write(report.load(arguments.results, arguments.group), out)
    if not arguments.quiet:
        say(PROGRAM, f"wrote {out / names[0]}, beside it {', '.join(names[1:])}")
    return DONE


def run_show(arguments: argparse.Namespace) -> int:
    """Prints the table of a results file again."""
    from .results import comparison, document, terminal
    from .speed import fidelity, latency, peers

    path: Path = arguments.results
    try:
        result = json.loads(path.read_bytes())
        if not isinstance(result, dict) or result.get("schema") != document.SCHEMA:
            raise EdgeError(f"{path}: no results file, expected JSON with the schema {document.SCHEMA}")
        if "fidelity" in result:
            lines = list(fidelity.table(result["fidelity"]))
        elif "levelling_down" in result:
            lines = list(comparison.table(result))
        elif "robustness" in result:
            from .robustness import text

            lines = list(text.table(result["robustness"]))
        elif "score" in result:
            lines = list(terminal.table(result))
        else:
            lines = [*latency.table(result), *peers.table(result.get("peers", {}))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EdgeError(f"{path}: damaged results file: {type(error).__name__} {error}") from error
    for line in lines:
        print(line)
    return DONE


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
    if out.exists() and not out.is_dir():
        raise FileExistsError(errno.EEXIST, "is a file, expected a folder", str(out))


def check_files(arguments: argparse.Namespace, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Says before the work that its output cannot be written, or is one of the files that are read."""
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
        refuse_input(arguments.output, inputs)
