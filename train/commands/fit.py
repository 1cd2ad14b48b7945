"""edge-train fit: a network trained on a data set, and measured on the fold held out."""

from __future__ import annotations

import argparse
from dataclasses import fields
from functools import partial
from pathlib import Path

from edge.arguments import ArgumentParser, natural
from edge.exit import DONE, SOME_FAILED, remark, say
from edge.output_files import OutputPath

from .arguments import PROGRAM, add_data, add_out, add_recipe, check_run_folder, config_of, say_export

HELP = "train a network, and measure it on a fold held out"
DESCRIPTION = "Train a network, and measure it on a fold held out. Exit status 6: a leak, or no way to go on."
EXAMPLE = """\
edge-train fit DATA --folds folds.csv --hold-out 0 -o RUN
edge-train fit DATA --folds folds.csv --hold-out 0 -o RUN --resume
edge-train fit DATA --recipe lite --weights imagenet -o RUN"""


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add_data(parser)
    add_out(parser, "RUN", "folder for checkpoint, log and metrics")
    add("--folds", type=Path, metavar="FILE", help="folds, by edge-train folds")
    add("--hold-out", type=natural, metavar="K", help="the fold, from 0, not trained on but measured at the end")
    add("--search", type=natural, metavar="J", help="a second fold not trained on, to choose by")
    add("--weights", type=Path, metavar="FILE", help="begin with these weights: a file, a run, or imagenet")
    add("--teacher", type=Path, action="append", default=[], metavar="RUN", help="learn from this run too; repeatable")
    add("--allow-leak", action="store_true", help="train on a leak all the same; marks all files LEAKY")
    add("--resume", action="store_true", help="continue RUN; all else as in the first command")
    add("--force", action="store_true", help="start over in RUN")
    add("--checkpoint-minutes", type=natural, default=5, metavar="N", help="what a kill loses at most")
    add("--cache", type=OutputPath, metavar="FOLDER", help="keep decoded pictures here")
    add_recipe(parser, has_flags=True)


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Trains a network."""
    config = config_of(arguments, parser)
    if (arguments.folds is None) != (arguments.hold_out is None):
        parser.error("--folds and --hold-out belong together")
    if arguments.search is not None and arguments.search == arguments.hold_out:
        parser.error("--search and --hold-out name the same fold")
    if arguments.search is not None and arguments.folds is None:
        parser.error("--search needs --folds")
    if arguments.resume and arguments.force:
        parser.error("--resume and --force exclude each other")
    if bool(arguments.teacher) != (config.distill.distill != "none"):
        parser.error("--teacher and --distill belong together (a recipe may set --distill; none turns it off)")
    if not arguments.resume:
        check_run_folder(arguments.out)
    from bench.remarks import one_answer
    from edge.predictions import read

    from ..loop import distributed
    from ..loop.run import PREDICTIONS, Plan
    from ..loop.run import run as train

    values = vars(arguments) | {"config": config}
    plan = Plan(**{field.name: values[field.name] for field in fields(Plan)})
    checkpoint = plan.out / "checkpoint.pt"
    before = _written_at(checkpoint)
    with distributed.start() as ranks:
        if config.optim.amp == "fp16" and ranks.device.type != "cuda":
            remark("--amp fp16 needs CUDA: on this processor the network is trained in float32")
        try:
            outcome = train(plan, ranks, say=partial(say, PROGRAM))
        except KeyboardInterrupt:
            say(PROGRAM, f"{checkpoint} {_what_is_kept(before, _written_at(checkpoint), is_forced=plan.force)}")
            raise
        if ranks.is_first:
            answers = [] if outcome.metrics is None else [row.label for row in read(plan.out / PREDICTIONS).rows]
            if line := one_answer(answers):
                remark(line)
            say_export(arguments)
    return SOME_FAILED if outcome.num_unusable else DONE


def _written_at(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _what_is_kept(before: int | None, now: int | None, *, is_forced: bool) -> str:
    if now is None:
        return "was not written yet: nothing to go on from"
    if is_forced and now == before:
        return "is that of the run before: --force had replaced nothing yet"
    return "is kept, and the same command with --resume goes on from it"
