"""edge-train folds: folds that cut no patient or lesion."""

from __future__ import annotations

import argparse
from collections import Counter
from functools import partial

from bench.commands.arguments import add_output
from edge.arguments import ArgumentParser, natural, whole
from edge.exit import DONE, say
from edge.output_files import check_output, write_output

from .arguments import PROGRAM, add_data, say_next

HELP = "split a data set into folds that cut no patient or lesion"
EXAMPLE = """\
edge-train folds DATA -o folds.csv
edge-train folds DATA --group sex --folds 10 -o folds.csv"""


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_data(parser)
    add_output(parser, "the folds file to write, CSV", required=True)
    parser.add_argument("--folds", type=partial(whole, least=2), default=5, metavar="K", help="how many folds")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of the order in which folds are filled")


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
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
    say_next(arguments, ["edge-train", "audit", arguments.data, "--folds", arguments.output])
    return DONE
