"""What each command of edge-train does, once its arguments are read."""

from __future__ import annotations

import argparse
import errno
import io
from typing import Any

from bench.dataset import index
from edge.exit import DONE, GATE, SOME_FAILED, say
from edge.output_files import check_output, write_output

from .loop import distributed
from .loop.plan import Plan
from .loop.run import run, write_json

_PROGRAM = "edge-train"
_NUM_SHOWN = 8


def run_folds(arguments: argparse.Namespace) -> int:
    """Splits a data set."""
    check_output(arguments.output, force=arguments.force)
    from .data.folds import encode_folds, make_folds

    samples = index(arguments.data, label_column=arguments.label, group_column=arguments.group)
    fold_of = make_folds(samples, num_folds=arguments.folds, seed=arguments.seed)
    write_output(arguments.output, encode_folds(samples, fold_of))
    if not arguments.quiet:
        sizes = [list(fold_of.values()).count(fold) for fold in range(arguments.folds)]
        num_clusters = len({sample.cluster for sample in samples})
        say(_PROGRAM, f"{len(samples)} images, {num_clusters} clusters; images per fold: {', '.join(map(str, sizes))}")
    return DONE


def run_audit(arguments: argparse.Namespace) -> int:
    """Looks for leaks."""
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
    from .data.folds import read_folds
    from .leakage.audit import find_leaks, load, probe, table, to_json, uncut

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
        write_json(arguments.output, to_json(data, findings, num_alike, probes))
    return GATE if any(finding.is_leak for finding in findings) else DONE


def run_fit(arguments: argparse.Namespace) -> int:
    """Trains a network."""
    plan = Plan(
        data=arguments.data,
        out=arguments.out,
        config=arguments.config,
        recipe=arguments.recipe,
        label_column=arguments.label,
        group_column=arguments.group,
        folds=arguments.folds,
        hold_out=arguments.hold_out,
        search=arguments.search,
        weights=arguments.weights,
        teachers=arguments.teacher,
        cache=arguments.cache,
        allow_leak=arguments.allow_leak,
        checkpoint_s=60.0 * arguments.checkpoint_minutes,
    )
    with distributed.start() as ranks:
        outcome = run(plan, ranks, resume=arguments.resume, force=arguments.force, quiet=arguments.quiet, say=_say)
    return SOME_FAILED if outcome.num_unusable else DONE


def run_refit(arguments: argparse.Namespace) -> int:
    """Fits a last layer."""
    from .after.last_layer import refit

    _check_run(arguments)
    balance = arguments.balance == "cells"
    columns = {"label_column": arguments.label, "group_column": arguments.group}
    refit(arguments.data, arguments.run, arguments.out, **columns, balance=balance)
    return DONE


def run_prior(arguments: argparse.Namespace) -> int:
    """Fits a prior correction and adds it to a run."""
    from .after.prior_correction import correct

    _check_run(arguments)
    columns = {"label_column": arguments.label, "group_column": arguments.group}
    found = correct(arguments.data, arguments.run, arguments.others, arguments.out, **columns)
    print(f"accuracy {found['before']:.4f}, with the number fitted on other folds {found['after']:.4f}")
    print(f"{'tau':16} {found['tau']:+z.3f}")
    for name, value in zip(found["classes"], found["offsets"], strict=True):
        print(f"{name:16} {value:+z.3f}")
    return DONE


def run_show(arguments: argparse.Namespace) -> int:
    """Draws a contact sheet."""
    check_output(arguments.output, force=arguments.force)
    from .data.contact_sheet import choose, contact_sheet
    from .data.images import load_images, training_preprocess

    config = arguments.config
    samples = index(arguments.data, label_column=arguments.label, group_column=arguments.group)
    seed = config.optim.seed
    chosen = [
        samples[i]
        for i in choose([s.label for s in samples], [s.group for s in samples], _NUM_SHOWN, seed=seed)
    ]
    larger = training_preprocess(config.input.preprocess, margin=config.input.cache_margin)
    images = load_images(arguments.data, chosen, larger, quiet=True)
    captions = [f"{sample.label}\n{sample.group}" for sample in images.samples]
    sheet = contact_sheet(images.pixels, captions, config, seed=seed)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    write_output(arguments.output, content.getvalue())
    return DONE


def _check_run(arguments: argparse.Namespace) -> None:
    if (arguments.out / "checkpoint.pt").exists() and not arguments.force:
        text = "exists already (--force replaces it)"
        raise FileExistsError(errno.EEXIST, text, str(arguments.out / "checkpoint.pt"))


def _silence(_: str) -> None:
    pass


def _say(text: str) -> None:
    say(_PROGRAM, text)
