"""edge-train: folds of a data set, and the training of a network on them.

Standard error is talk. PyTorch is imported after the arguments are known to be good.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import __version__
from edge.command import DONE, ENVIRONMENT, GATE, STATUSES, ArgumentParser, fail, natural, run, say
from edge.outputs import check_output, write_output

from .config import RECIPES, TrainConfig

if TYPE_CHECKING:
    import numpy as np

    from bench.dataset import Sample

    from .audit import Finding
    from .checkpoint import Checkpoint

_PROGRAM = "edge-train"
_EPILOG = f"""\
examples:
  edge-train folds DATA -o folds.csv                 five folds that cut no patient or lesion
  edge-train audit DATA --folds folds.csv            duplicates, cut clusters, shortcuts
  edge-train fit DATA --folds folds.csv --hold-out 0 --out RUN
  edge-train fit DATA --folds folds.csv --hold-out 0 --out RUN --resume      after an interruption

DATA is a folder with manifest.csv (path,class,group[,cluster]) or <group>/<class>/ folders of images.

{STATUSES}"""


def build_parser() -> ArgumentParser:
    """The parser of edge-train."""
    parser = ArgumentParser(prog=_PROGRAM, description="Train a network for the skin-lesion runtime.", epilog=_EPILOG)
    version = f"fairedge {__version__} (Python {sys.version.split()[0]})"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    folds = commands.add_parser("folds", help="split a data set into folds", description="Split a data set into folds.")
    folds.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the folds file (CSV) to write")
    folds.add_argument("--folds", type=_at_least_two, default=5, metavar="K", help="how many (default 5)")
    folds.add_argument("--seed", type=natural, default=0, metavar="N", help="order of assignment (default 0)")
    folds.add_argument("--force", action="store_true", help="replace FILE")

    audit = commands.add_parser("audit", help="look for leaks", description="Look for leaks and shortcuts.")
    audit.add_argument("--external", type=Path, action="append", default=[], metavar="MORE", help="a further data set")
    audit.add_argument("--folds", type=Path, metavar="FILE", help="folds file (else the manifest's column split)")
    audit.add_argument("-o", "--output", type=Path, metavar="FILE", help="write everything as JSON")
    audit.add_argument("--force", action="store_true", help="replace FILE")

    fit = commands.add_parser("fit", help="train a network", description="Train a network.")
    fit.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for checkpoint, log and metrics")
    fit.add_argument("--folds", type=Path, metavar="FILE", help="folds file, by edge-train folds")
    fit.add_argument("--hold-out", type=natural, metavar="K", help="fold not trained on but measured at the end")
    fit.add_argument("--resume", action="store_true", help="continue RUN; everything else as in the first command")
    fit.add_argument("--force", action="store_true", help="start over in RUN")
    fit.add_argument("--allow-leak", action="store_true", help="train on a leak; marks every artifact LEAKY")
    fit.add_argument("--recipe", choices=sorted(RECIPES), default="plain", help="values of the flags below (plain)")
    recipe = fit.add_argument_group("recipe", "values shown are those of the recipe plain")
    for field in dataclasses.fields(TrainConfig):
        default = getattr(RECIPES["plain"], field.name)
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        recipe.add_argument(
            "--" + field.name.replace("_", "-"),
            type=_integers if isinstance(default, tuple) else type(default),
            metavar="N,N" if isinstance(default, tuple) else "X",
            help=f"{field.metadata['help']} ({shown})".replace("%", "%%"),
        )
    for command in (folds, audit, fit):
        command.add_argument("data", type=Path, metavar="DATA", help="the data set's folder")
        command.add_argument("--label", default="class", metavar="COLUMN", help="the manifest's class column (class)")
        command.add_argument("-q", "--quiet", action="store_true", help="no progress, no remarks")
        command.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-train; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    actions = {"folds": lambda: _folds(arguments), "audit": lambda: _audit(arguments)}
    action = actions.get(arguments.command, lambda: _fit(parser, arguments))
    return run(_PROGRAM, lambda: _with_pytorch(action), verbose=arguments.verbose)


def _with_pytorch(action: Callable[[], int]) -> int:
    try:
        return action()
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return fail(_PROGRAM, "needs PyTorch: pip install 'fairedge[train]'", ENVIRONMENT)


def _folds(arguments: argparse.Namespace) -> int:
    check_output(arguments.output, force=arguments.force)
    from bench.dataset import index

    from .splits import encode_folds, make_folds

    samples = index(arguments.data, label_column=arguments.label)
    fold_of = make_folds(samples, num_folds=arguments.folds, seed=arguments.seed)
    write_output(arguments.output, encode_folds(samples, fold_of))
    if not arguments.quiet:
        sizes = [list(fold_of.values()).count(fold) for fold in range(arguments.folds)]
        num_clusters = len({sample.cluster for sample in samples})
        say(_PROGRAM, f"{len(samples)} images, {num_clusters} clusters; images per fold: {', '.join(map(str, sizes))}")
    return DONE


def _audit(arguments: argparse.Namespace) -> int:
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
    from bench.dataset import index

    from .audit import find_leaks, load, probe, table, to_json, uncut
    from .splits import read_folds

    samples = index(arguments.data, label_column=arguments.label)
    others = [(root, index(root)) for root in arguments.external]  # before the decoding: it may be another's mistake
    part_of: dict[str, Any] | None = None
    if arguments.folds is not None:
        part_of, _ = read_folds(arguments.folds, uncut(samples))
    elif any(sample.split for sample in samples):
        part_of = {sample.path: sample.split for sample in samples}
    data = load(arguments.data, samples, quiet=arguments.quiet)
    findings, num_alike = find_leaks(data, part_of, [load(root, more, quiet=arguments.quiet) for root, more in others])
    probes = probe(samples, data.features)
    print("\n".join(table(data, findings, num_alike, probes)))
    if arguments.output is not None:
        _write_json(arguments.output, to_json(data, findings, num_alike, probes))
    return GATE if any(finding.is_leak for finding in findings) else DONE


def _fit(parser: ArgumentParser, arguments: argparse.Namespace) -> int:
    if (arguments.folds is None) != (arguments.hold_out is None):
        parser.error("--folds and --hold-out belong together")
    if arguments.resume and arguments.force:
        parser.error("--resume and --force exclude each other")
    config = _config(parser, arguments)
    out: Path = arguments.out
    if not arguments.resume:
        if (out / "checkpoint.pt").exists() and not arguments.force:
            hint = "--resume continues that run, --force starts over"
            raise FileExistsError(errno.EEXIST, f"exists already ({hint})", str(out / "checkpoint.pt"))

    import numpy as np

    from bench.dataset import classes_of, index
    from edge.preprocess import Preprocess

    from . import checkpoint as checkpoints
    from .audit import find_fit_leaks
    from .data import load_images
    from .engine import LOG, fit, start

    samples = index(arguments.data, label_column=arguments.label)
    classes = list(classes_of(samples))
    seen, held_out, folds_sha256 = _divide(samples, arguments.folds, arguments.hold_out)
    preprocess = Preprocess(size_px=config.sizes_px[-1], resize=config.resize)
    state = start(
        config,
        recipe=arguments.recipe,
        classes=classes,
        preprocess=preprocess.to_json(),
        data_name=arguments.data.resolve().name,
        cluster_sha256=hashlib.sha256("\n".join(sorted({s.cluster for s in seen})).encode()).hexdigest(),
        folds_sha256=folds_sha256,
        hold_out=arguments.hold_out,
        commit=checkpoints.source_commit(),
    )
    resumed = arguments.resume and (out / checkpoints.NAME).exists()
    if resumed:
        blank, state = state, checkpoints.load(out)
        _check_same_run(state, blank)
    images = load_images(arguments.data, seen, preprocess, quiet=arguments.quiet)
    # Before the training, or an unusable image here would be found when it is over.
    held_out_images = load_images(arguments.data, held_out, preprocess, quiet=arguments.quiet)
    leaks = find_fit_leaks(arguments.data, seen, images, held_out, held_out_images) if held_out else []
    if leaks and not arguments.allow_leak:
        counts = ", ".join(f"{leak.count} {leak.name}" for leak in leaks)
        hint = f"edge-train audit {arguments.data} --folds {arguments.folds} shows them, --allow-leak goes on"
        return fail(_PROGRAM, f"training and held-out part overlap: {counts}; {hint}", GATE)
    out.mkdir(parents=True, exist_ok=True)
    if leaks:
        state = _mark_leaky(state, leaks, out)
    if not resumed:
        (out / LOG).unlink(missing_ok=True)
        mark = {"leaky": True} if leaks else {}
        _write_json(out / "config.json", {"recipe": arguments.recipe, **mark, **config.to_dict()})
        write_output(out / "heldout.txt", "".join(f"{sample.path}\n" for sample in held_out))
    labels = np.array([classes.index(sample.label) for sample in seen])
    if not arguments.quiet:
        say(_PROGRAM, f"{len(seen)} images to train on, {len(held_out)} held out, classes {', '.join(classes)}")
    for row in fit(state, images, labels, out=out, quiet=arguments.quiet):
        if not arguments.quiet:
            say(_PROGRAM, f"epoch {row.epoch}/{config.epochs} {row.size_px} px loss {row.loss:.4f} {row.seconds:.0f} s")
    if held_out:
        _measure(held_out, held_out_images, out=out, quiet=arguments.quiet)
    return DONE


def _mark_leaky(state: Checkpoint, leaks: Sequence[Finding], out: Path) -> Checkpoint:
    """Says it in the run's folder, on standard error, quiet or not, and in all that comes of the checkpoint."""
    write_output(out / "LEAKY.txt", "".join(f"{leak.line}\n" for leak in leaks))
    say(_PROGRAM, f"LEAKY: {', '.join(f'{leak.count} {leak.name}' for leak in leaks)}; figures of this run mean little")
    name = state.data_name if state.leaky else f"{state.data_name} (LEAKY)"
    return dataclasses.replace(state, leaky=True, data_name=name)


def _divide(
    samples: list[Sample], folds: Path | None, hold_out: int | None
) -> tuple[list[Sample], list[Sample], str | None]:
    """What is trained on, what is held out, and the SHA-256 of the folds file."""
    from bench.dataset import DatasetError, classes_of

    from .audit import uncut
    from .splits import read_folds

    if len(classes_of(samples)) < 2:
        raise DatasetError(f"got images of {samples[0].label} alone, expected at least two classes")
    if folds is None:
        return samples, [], None
    fold_of, folds_sha256 = read_folds(folds, uncut(samples))
    if hold_out not in fold_of.values():
        expected = ", ".join(map(str, sorted({*fold_of.values()})))
        raise DatasetError(f"{folds}: no fold {hold_out}, expected one of {expected}")
    seen = [sample for sample in samples if fold_of[sample.path] != hold_out]
    unseen = sorted({*classes_of(samples)} - {*classes_of(seen)})
    if unseen:
        raise DatasetError(f"{folds}: all of {', '.join(unseen)} is in fold {hold_out}, expected some to train on")
    return seen, [sample for sample in samples if fold_of[sample.path] == hold_out], folds_sha256


def _measure(held_out: Sequence[Sample], images: np.ndarray, *, out: Path, quiet: bool) -> None:
    """Predicts the held-out images with the averaged weights and writes what came out."""
    from edge.preprocess import Preprocess

    from . import checkpoint as checkpoints
    from .data import scale_tensor
    from .engine import build
    from .heldout import measure, predict, write_predictions

    state = checkpoints.load(out)
    config, preprocess = TrainConfig.from_dict(state.config), Preprocess.from_json(state.preprocess)
    model = build(config, len(state.classes))
    model.load_state_dict(state.ema)
    probabilities = predict(model, images, scale=scale_tensor(preprocess))
    predictions = [state.classes[i] for i in probabilities.argmax(axis=1)]
    mark = {"leaky": True} if state.leaky else {}
    metrics = {**mark, "hold_out": state.hold_out, **measure(held_out, predictions, state.classes)}
    write_predictions(out / "heldout_predictions.csv", held_out, probabilities, state.classes)
    _write_json(out / "metrics.json", metrics)
    checkpoints.save(dataclasses.replace(state, metrics=metrics), out / checkpoints.NAME)
    if not quiet:
        for name in ("accuracy", "balanced_accuracy"):
            value = metrics[name]
            interval = f"[{value['low']:.3f}, {value['high']:.3f}]"
            say(_PROGRAM, f"held-out {name}: {value['value']:.3f} {interval} n={value['n']}")


def _config(parser: ArgumentParser, arguments: argparse.Namespace) -> TrainConfig:
    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(TrainConfig)}
    try:
        return dataclasses.replace(RECIPES[arguments.recipe], **{k: v for k, v in given.items() if v is not None})
    except ValueError as error:
        name, _, text = str(error).partition(":")
        parser.error(f"argument --{name.replace('_', '-')}:{text}")


def _check_same_run(state: Checkpoint, blank: Checkpoint) -> None:
    from .checkpoint import CheckpointError

    names = ("config", "classes", "preprocess", "cluster_sha256", "folds_sha256", "hold_out")
    for name in names:
        was: Any = getattr(state, name)
        now: Any = getattr(blank, name)
        if name == "config":
            changed = [key for key in now if was.get(key) != now[key]]
            was, now = ({key: values.get(key) for key in changed} for values in (was, now))
        if was != now:
            raise CheckpointError(f"the run was started with {name} {was}, got {now}; --force starts over")


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_output(path, json.dumps(values, ensure_ascii=False, indent=1) + "\n")


def _at_least_two(text: str) -> int:
    value = natural(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 2")
    return value


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers with commas, as 64,96,128") from None
