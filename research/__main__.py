"""Commands of the research: python -m research COMMAND. Standard output is data, standard error is talk."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from edge.arguments import ArgumentParser, got, natural
from edge.exit import DONE, SOME_FAILED, STATUSES, run, say
from edge.output_files import OutputPath, check_output, write_output
from train.recipes import RECIPES

from . import fidelity, memory
from .recipe_ladders import LADDERS

PROGRAM = "research"
_EPILOG = f"""\
examples:
  python -m research collect DATA RUN0 RUN1 --name default --out research/results/SET
  python -m research tables research/results/SET
  python -m research ladder DATA --recipe smoke-ladder --out LADDER

DATA is a folder with manifest.csv (path,class[,group][,cluster]), <group>/<class>/ or <class>/ folders of images.

{STATUSES}"""
_MEASUREMENTS = {"fidelity": fidelity, "memory": memory}
"""Of the runtime, for the docs."""
_COLLECT_MODELS = "add predictions of model files to evidence; that they never saw the images is for you to know"


def build_parser() -> ArgumentParser:
    """The parser of python -m research."""
    parser = ArgumentParser(prog="python -m research", description="Make evidence and its tables.", epilog=_EPILOG)
    with_talk = parser.add_commands(quiet="no progress, no remarks")

    def command(name: str, text: str) -> ArgumentParser:
        added = with_talk(name, text)
        added.add_argument("data", type=Path, metavar="DATA", help="the data set's folder")
        added.add_argument("--label", default="class", metavar="COLUMN", help="the manifest's class column (class)")
        added.add_argument("--group", default="group", metavar="COLUMN", help="the manifest's group column (group)")
        return added

    collect = command("collect", "join held-out predictions of runs of all folds into evidence")
    collect.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="finished runs that differ only in fold")

    models = command("collect-models", _COLLECT_MODELS)
    text = "of edge-infer --probs, different images each"
    models.add_argument("predictions", type=Path, nargs="+", metavar="PREDICTIONS", help=text)
    models.add_argument("--seed", type=natural, default=0, metavar="N", help="that the models were trained with (0)")
    for each in (collect, models):
        each.add_argument("--name", type=_plain_name, required=True, metavar="NAME", help="of the configuration")
        each.add_argument("--out", type=OutputPath, required=True, metavar="FOLDER", help="of the evidence")
        each.add_argument("--force", action="store_true", help="replace the same configuration and seed")

    tables = with_talk("tables", "make the tables of evidence, as Markdown, without data set or checkpoint")
    tables.add_argument("folder", type=Path, metavar="FOLDER", help="of the evidence, with its protocol.json")
    tables.add_argument("-o", "--output", type=OutputPath, metavar="FILE", help="write the tables here")
    tables.add_argument("--results", type=OutputPath, metavar="DIR", help="each configuration's results, as by score")
    tables.add_argument("--force", action="store_true", help="replace files")

    ladder = command("ladder", "train recipes that add one thing at a time, on the same folds")
    ladder.add_argument("--out", type=OutputPath, required=True, metavar="LADDER", help="folder; what is there is kept")
    ladder.add_argument("--recipe", choices=sorted(LADDERS), required=True, help="which ladder")
    ladder.add_argument("--folds", type=Path, metavar="FILE", help="folds file (else five folds are made)")
    ladder.add_argument("--hold-out", type=natural, action="append", metavar="K", help="measured on; repeatable (0)")
    ladder.add_argument("--weights", type=Path, metavar="FILE", help="every step begins with these")
    ladder.add_argument("--teacher-weights", type=Path, metavar="FILE", help="the teacher begins with these")
    ladder.add_argument("--seeds", type=natural, default=1, metavar="N", help="runs of each step and fold (1)")
    ladder.add_argument("--reference", metavar="GROUP", help="reference group of the contest's SPD (else the smallest)")
    ladder.add_argument("--cache", type=OutputPath, metavar="DIR", help="keep decoded pictures here")

    throughput = command("throughput", "time the input pipeline beside a plain DataLoader")
    throughput.add_argument("--recipe", choices=sorted(RECIPES), default="default", help="of edge-train (default)")
    for name, module in _MEASUREMENTS.items():
        module.add_flags(with_talk(name, module.HELP))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    arguments = build_parser().parse_args(argv)
    commands = {
        "collect": _collect, "collect-models": _collect_models, "tables": _tables, "ladder": _ladder,
        "throughput": _throughput,
    }
    if arguments.command in _MEASUREMENTS:
        module = _MEASUREMENTS[arguments.command]
        return run(PROGRAM, lambda: module.run(arguments, PROGRAM), arguments)
    return run(PROGRAM, lambda: commands[arguments.command](arguments), arguments)


def _collect(arguments: argparse.Namespace) -> int:
    from .collect_runs import collect

    found = collect(
        arguments.data, arguments.runs, configuration=arguments.name, folder=arguments.out,
        label_column=arguments.label, group_column=arguments.group, force=arguments.force,
    )
    if not arguments.quiet:
        folds = ", ".join(str(run.fold) for run in found.runs)
        say(PROGRAM, f"{arguments.out / found.table}: {len(found.paths)} images of folds {folds}; {found.command}")
    return DONE


def _collect_models(arguments: argparse.Namespace) -> int:
    from .collect_models import collect

    found = collect(
        arguments.data, arguments.predictions, configuration=arguments.name, seed=arguments.seed, folder=arguments.out,
        label_column=arguments.label, group_column=arguments.group, force=arguments.force,
    )
    if not arguments.quiet:
        say(PROGRAM, f"{arguments.out / found.table}: {len(found.paths)} images of {len(found.runs)} files")
    return DONE


def _tables(arguments: argparse.Namespace) -> int:
    from bench.commands.arguments import check_files
    from bench.results.document import write_json

    from . import protocol, tables
    from .panel import Panel

    ends = ("*.csv", "*.csv.gz", "*.json")
    check_files(arguments, [path for end in ends for path in arguments.folder.glob(end)])
    text, made = tables.markdown(arguments.folder), {}
    if arguments.results is not None:
        arguments.results.mkdir(parents=True, exist_ok=True)
        for name, result in Panel(protocol.load(arguments.folder)).results():
            made[arguments.results / f"{name}.json"] = result
            check_output(arguments.results / f"{name}.json", force=arguments.force)
    for path, result in made.items():
        write_json(path, result)
    if arguments.output is None:
        print(text, end="")
    else:
        write_output(arguments.output, text)
    return DONE


def _ladder(arguments: argparse.Namespace) -> int:
    from bench.dataset import index
    from train.data.folds import encode_folds, make_folds
    from train.loop import distributed
    from train.loop.run import Plan

    from . import ladder

    arguments.out.mkdir(parents=True, exist_ok=True)
    folds = arguments.folds
    if folds is None:
        folds = arguments.out / "folds.csv"
        if not folds.exists():
            samples = index(arguments.data, label_column=arguments.label, group_column=arguments.group)
            write_output(folds, encode_folds(samples, make_folds(samples)))
    steps, held_out = LADDERS[arguments.recipe], arguments.hold_out or [0]
    plan = Plan(
        data=arguments.data, out=arguments.out, config=next(iter(steps.steps.values())), recipe=arguments.recipe,
        label=arguments.label, group=arguments.group, folds=folds, weights=arguments.weights,
        cache=arguments.cache or arguments.out / "cache",
    )

    def remark(text: str) -> None:
        if not arguments.quiet:
            say(PROGRAM, text)

    with distributed.start() as ranks:
        num_unusable = ladder.climb(
            plan, steps, ranks, folds=held_out, num_seeds=arguments.seeds, teacher_weights=arguments.teacher_weights,
            say=remark,
        )
        if not ranks.is_first:
            return DONE
    evaluation = ladder.evaluate(plan, steps, folds=held_out, num_seeds=arguments.seeds, reference=arguments.reference)
    ladder.write(arguments.out, evaluation)
    lines = list(ladder.table(evaluation))
    write_output(arguments.out / "ladder.md", "".join(f"{line}\n" for line in lines))
    print("\n".join(lines))
    return SOME_FAILED if num_unusable else DONE


def _throughput(arguments: argparse.Namespace) -> int:
    from bench.dataset import index

    from . import throughput

    samples = index(arguments.data, label_column=arguments.label, group_column=arguments.group)
    figures = throughput.measure(arguments.data, samples, RECIPES[arguments.recipe], quiet=arguments.quiet)
    print("\n".join(throughput.table(figures, throughput.measure_memory())))
    return DONE


def _plain_name(text: str) -> str:
    """Argument type: a name that can be a part of a file's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", text):
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected letters, digits, dots, + and -")
    return text


if __name__ == "__main__":
    sys.exit(main())
