"""edge-bench score: predictions compared with a data set."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.arguments import ArgumentParser, fraction, got, natural
from edge.exit import remark, say

from ..results.gates import GATES, WITH_LATENCY
from .arguments import DATA, PROGRAM, add_output, add_profile, check_files, refuse_twice, say_failed

if TYPE_CHECKING:
    from edge.predictions import Prediction

    from ..dataset import Sample
    from ..metrics.evaluation import Setting
    from ..provenance import Seen

HELP = "score predictions: accuracy, fairness, the contest's score"
DESCRIPTION = """\
Accuracy, fairness and the contest's score, with intervals. An image that could not be used counts as wrong.

PREDICTIONS is one of
  a file of edge-infer (CSV or JSONL), with --data
  a CSV path,label[,prob_CLASS...], with --data; an empty label is no answer
  a CSV y_true,y_pred[,path][,group][,cluster][,prob_CLASS...], without --data
docs/data.md shows them, docs/score.md says how the score works."""
EXAMPLE = """\
edge-bench score predictions.csv --data DATA
edge-bench score RUN/heldout_predictions.csv --data DATA --subset -o a.json
edge-bench score predictions.csv --data DATA --fail-under worst_group=0.6
edge-bench score mine.csv     # a CSV with the columns y_true,y_pred"""
_GROUP = (
    "manifest column with the group; repeatable: the score compares the groups of the first, each has a section "
    "(default group, if there is one)"
)
_MODEL = "the model that made the predictions: was it trained on these pictures? (default: the bundled one, if it did)"
_OF_DATA = ("label", "split", "subset", "model", "strict")
_FAIL_UNDER = f"exit status 6 when a value is lower; repeatable; NAME is one of {', '.join(GATES)}"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("predictions", type=Path, metavar="PREDICTIONS", help="what a model answered")
    add("--data", type=Path, metavar="DATA", help=DATA)
    add("--label", metavar="COLUMN", help="manifest column with the true class (default class)")
    add("--group", action="append", default=[], metavar="COLUMN", help=_GROUP)
    add("--split", metavar="NAME", help="score only pictures whose manifest column split says NAME")
    add("--subset", action="store_true", help="score only pictures with a prediction; else one without is an error")
    add_profile(parser)
    add("--latency", type=Path, metavar="FILE", help="results of edge-bench latency: add the third part and the total")
    add("--reference", metavar="GROUP", help="group to compare against (default: G10, else the one with fewest images)")
    add("--exclude-group", action="append", default=[], metavar="GROUP", help="compare without this group; repeatable")
    text = "pictures that could not be used: count them as wrong, or leave them out"
    add("--errors", choices=("wrong", "exclude"), default="wrong", help=text)
    add("--seed", type=natural, default=0, metavar="N", help="of the intervals' random draws")
    add("--fail-under", type=_gate, action="append", default=[], metavar="NAME=VALUE", help=_FAIL_UNDER)
    add("-m", "--model", type=Path, metavar="FILE", help=_MODEL)
    add("--strict", action="store_true", help="exit status 6 where that model was, or may have been, trained on them")
    add_output(parser)


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Compares predictions with a data set."""
    minima = dict(arguments.fail_under)
    refuse_twice("--fail-under", [name for name, _ in arguments.fail_under], parser)
    refuse_twice("--group", arguments.group, parser)
    if arguments.latency is None and (needs := {*WITH_LATENCY} & {*minima}):
        parser.error(f"--fail-under {min(needs)} needs --latency")
    from ..results import own_predictions

    form = own_predictions.form_of(arguments.predictions)
    if form != own_predictions.TABLE and arguments.data is None:
        parser.error("the following arguments are required: --data (but for a CSV with the columns y_true,y_pred)")
    if form == own_predictions.TABLE and (given := [name for name in ("data", *_OF_DATA) if getattr(arguments, name)]):
        parser.error(f"--{given[0]} is for a data set; {arguments.predictions} has its own true classes (y_true)")
    gc.disable()  # a million rows are millions of objects and no cycle; looking for one takes a tenth of the time
    try:
        result, seen = _score(arguments, form, minima)
    finally:
        gc.enable()
    from ..results import document, text

    if arguments.output is not None:
        document.write_json(arguments.output, result)
    for line in text.table(result):
        print(line)
    if not arguments.quiet:
        data = result["data"]
        if data["left_out"]:
            say(PROGRAM, f"{data['left_out']} of {data['samples']} samples have no prediction: left out")
        for line in (*filter(None, [seen]), *text.remarks(result)):
            remark(line)  # once: indexing has said some
    return say_failed(result["gates"])


class _Scored(NamedTuple):
    """What is scored."""

    samples: list[Sample]
    """The whole data set: its groups say which is the reference."""
    pairs: list[tuple[Sample, Prediction]]
    classes: list[str]
    further: dict[str, dict[str, str]]
    """By further column of groups the group of every sample, by its path."""
    meta: dict[str, Any]
    """What the predictions say of themselves."""
    left_out: int
    remarks: list[str]
    seen: Seen
    """How many of the pictures the model was trained on."""


def _score(arguments: argparse.Namespace, form: str, minima: Mapping[str, float]) -> tuple[dict[str, Any], str]:
    """The results file, and what is to be said of what the model was trained on."""
    from edge.predictions import meta_path

    from .. import dataset
    from ..results import build, document, gates, own_predictions

    has_data = form != own_predictions.TABLE
    inputs = [arguments.predictions, meta_path(arguments.predictions)]
    inputs += [arguments.data / dataset.MANIFEST] if has_data else []
    check_files(arguments, [*inputs, *filter(None, [arguments.latency, arguments.model])])
    latency = None if arguments.latency is None else document.load_latency(arguments.latency)
    scored = _of_data(arguments, form) if has_data else _of_table(arguments)
    pairs = scored.pairs
    usable = [(sample, prediction) for sample, prediction in pairs if prediction.status != "error"]
    setting = _setting(arguments, scored.samples, scored.further)
    result: dict[str, Any] = {
        "schema": document.SCHEMA,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "data": {
            "name": arguments.data.resolve().name if has_data else arguments.predictions.name,
            "label_column": (arguments.label or "class") if has_data else "y_true",
            "group_column": arguments.group[0] if arguments.group else dataset.GROUP_COLUMN,
            "split": arguments.split,
            "samples": len(pairs) + scored.left_out,
            "left_out": scored.left_out,
            **({} if scored.seen.images is None else {"trained_on": scored.seen.images}),
        },
        "predictions": scored.meta,
        "errors": {"policy": arguments.errors, "images": len(pairs) - len(usable)},
        **build.metrics(usable if arguments.errors == "exclude" else pairs, scored.classes, setting),
    }
    result["warnings"] = [*scored.remarks, *result["warnings"]]
    further = build.further(
        result["samples"], scored.classes, setting, scored.further, excluded=arguments.exclude_group
    )
    result["groupings"] = further
    if latency is not None:
        build.add_latency(result, latency)
    result["gates"] = gates.check(result, minima)
    return result, scored.seen.remark


def _of_data(arguments: argparse.Namespace, form: str) -> _Scored:
    """Predictions beside a data set."""
    from edge.predictions import read

    from .. import dataset, provenance
    from ..results import join, own_predictions

    label, (column, *others) = arguments.label or "class", arguments.group or [dataset.GROUP_COLUMN]
    needs_group = bool(arguments.group)
    indexed = dataset.index(arguments.data, label_column=label, group_column=column, needs_group=needs_group)
    everything = [dataset.as_text(sample) for sample in indexed]
    further = {name: dataset.groups_by_path(arguments.data, name, label_column=label) for name in others}
    remarks: list[str] = []
    if form == own_predictions.LABELS:
        predictions, remarks = own_predictions.read_labels(arguments.predictions, everything)
    else:
        predictions = read(arguments.predictions)  # second: what indexing needs for a moment is free again
    samples = [sample for sample in everything if arguments.split in (None, sample.split)]
    if not samples:
        parts = ", ".join(sorted({sample.split or "none" for sample in everything}))
        raise dataset.DatasetError(f"{arguments.data}: no sample of split {arguments.split!r}, got {parts}")
    pairs = join.join(samples, predictions.rows, subset=arguments.subset)
    paths = {sample.path for sample, _ in pairs}
    seen = provenance.check_seen(arguments.model, predictions.meta, paths, indexed, strict=arguments.strict)
    # A split may lack a class that the model, unless it says which it knows, may still have answered.
    known = dataset.classes_of(samples if "classes" in predictions.meta else everything)
    classes = join.class_order(predictions.meta, known, pairs)
    left_out = len(samples) - len(pairs)
    return _Scored(everything, pairs, classes, further, predictions.meta, left_out, remarks, seen)


def _of_table(arguments: argparse.Namespace) -> _Scored:
    """Predictions with the true classes beside them."""
    from ..provenance import Seen
    from ..results import own_predictions

    table = own_predictions.read_table(arguments.predictions, arguments.group)
    pairs = list(zip(table.samples, table.predictions.rows, strict=True))
    meta = table.predictions.meta
    return _Scored(table.samples, pairs, meta["classes"], table.groups, meta, 0, table.remarks, Seen(None, ""))


def _setting(
    arguments: argparse.Namespace, samples: Sequence[Sample], further: Mapping[str, Mapping[str, str]]
) -> Setting:
    """What the first column of groups is scored with; a group that is to be left out may be in a further one alone."""
    from .. import dataset
    from ..metrics import contest, evaluation

    profile, groups = contest.PROFILES[arguments.profile], [sample.group for sample in samples]
    elsewhere = {group for group_of in further.values() for group in group_of.values()} - {*groups}
    excluded = tuple(dict.fromkeys(name for name in arguments.exclude_group if name not in elsewhere))
    reference = contest.reference_group(groups, profile=profile, wanted=arguments.reference, excluded=excluded)
    malignant = dataset.malignant_classes(samples)
    return evaluation.Setting(profile, reference, excluded, malignant=malignant, seed=arguments.seed)


def _gate(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in GATES:
        expected = f"NAME=VALUE with NAME one of {', '.join(GATES)}"
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected {expected}")
    return name, fraction(value)
