"""edge-train folds, audit and show: a data set divided, examined, and shown as training sees it."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from bench.commands.arguments import add_output
from edge.arguments import ArgumentParser, natural, whole
from edge.exit import DONE, GATE, say
from edge.output_files import check_output, write_output

from .arguments import PROGRAM, add_data, add_recipe, config_of

_NUM_SHOWN = 8


def add_folds(parser: ArgumentParser) -> None:
    """Adds the flags of edge-train folds."""
    add_data(parser)
    add_output(parser, "the folds file (CSV) to write", required=True)
    parser.add_argument("--folds", type=partial(whole, least=2), default=5, metavar="K", help="how many (5)")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="order of assignment (0)")


def folds(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Splits a data set into folds that cut no patient or lesion."""
    check_output(arguments.output, force=arguments.force)
    from bench.dataset import index

    from ..data.folds import encode_folds, make_folds

    samples = index(arguments.data, label_column=arguments.label, group_column=arguments.group)
    fold_of = make_folds(samples, num_folds=arguments.folds, seed=arguments.seed)
    write_output(arguments.output, encode_folds(samples, fold_of))
    if not arguments.quiet:
        sizes = Counter(fold_of.values())
        per_fold = ", ".join(str(sizes[fold]) for fold in range(arguments.folds))
        num_clusters = len({sample.cluster for sample in samples})
        say(PROGRAM, f"{len(samples)} images, {num_clusters} clusters; images per fold: {per_fold}")
    return DONE


def add_audit(parser: ArgumentParser) -> None:
    """Adds the flags of edge-train audit."""
    add_data(parser)
    add_output(parser, "write everything as JSON")
    text = "a further data set"
    parser.add_argument("--external", type=Path, action="append", default=[], metavar="MORE", help=text)
    parser.add_argument("--folds", type=Path, metavar="FILE", help="folds file (else the manifest's column split)")


def audit(arguments: argparse.Namespace, _: ArgumentParser) -> int:
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
    return GATE if any(finding.is_leak for finding in found.findings) else DONE


def add_show(parser: ArgumentParser) -> None:
    """Adds the flags of edge-train show."""
    add_data(parser)
    add_output(parser, "the picture (PNG) to write", required=True)
    add_recipe(parser)


def show(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Draws a contact sheet of pictures as training sees them."""
    config = config_of(arguments, parser)
    check_output(arguments.output, force=arguments.force)
    from bench.dataset import index

    from ..data.contact_sheet import choose, contact_sheet
    from ..data.images import load_images, training_preprocess

    samples, seed = index(arguments.data, label_column=arguments.label, group_column=arguments.group), config.optim.seed
    places = choose([s.label for s in samples], [s.group for s in samples], _NUM_SHOWN, seed=seed)
    larger = training_preprocess(config.input.preprocess, margin=config.input.cache_margin)
    images = load_images(arguments.data, [samples[i] for i in places], larger, quiet=True)
    captions = [f"{sample.label}\n{sample.group}" for sample in images.samples]
    content = io.BytesIO()
    contact_sheet(images.pixels, captions, config, seed=seed).save(content, "PNG")
    write_output(arguments.output, content.getvalue())
    return DONE
