"""edge-train: a folder of labelled pictures -> a checkpoint and honest figures. Standard error is talk."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge.arguments import ArgumentParser, natural
from edge.exit import ENVIRONMENT, STATUSES, fail, run

from .config import TrainConfig
from .recipes import RECIPES

_PROGRAM = "edge-train"
_EPILOG = f"""\
examples:
  edge-train folds DATA -o folds.csv                 five folds that cut no patient or lesion
  edge-train audit DATA --folds folds.csv            duplicates, cut clusters, shortcuts
  edge-train show DATA --recipe default -o sheet.png what the network sees
  edge-train fit DATA --folds folds.csv --hold-out 0 --out RUN
  edge-train fit DATA --folds folds.csv --hold-out 0 --out RUN --resume      after an interruption
  torchrun --nproc-per-node 2 -m train fit DATA --out RUN                    on several GPUs, or processes

DATA is a folder with manifest.csv (path,class,group[,cluster]) or <group>/<class>/ folders of images.

{STATUSES}"""

_PACKAGES = {"torch": "PyTorch", "cv2": "opencv-python-headless", "safetensors": "safetensors"}


def build_parser() -> ArgumentParser:
    """The parser of edge-train."""
    parser = ArgumentParser(prog=_PROGRAM, description="Train a network for the skin-lesion runtime.", epilog=_EPILOG)
    with_talk = parser.add_commands(quiet="no progress, no remarks")

    def command(name: str, text: str) -> ArgumentParser:
        added = with_talk(name, text)
        added.add_argument("data", type=Path, metavar="DATA", help="the data set's folder")
        added.add_argument("--label", default="class", metavar="COLUMN", help="the manifest's class column (class)")
        added.add_argument("--group", default="group", metavar="COLUMN", help="the manifest's group column (group)")
        return added

    def output(to: ArgumentParser, text: str, *, required: bool) -> None:
        to.add_argument("-o", "--output", type=Path, required=required, metavar="FILE", help=text)
        to.add_argument("--force", action="store_true", help="replace FILE")

    folds = command("folds", "split a data set into folds")
    output(folds, "the folds file (CSV) to write", required=True)
    folds.add_argument("--folds", type=_at_least_two, default=5, metavar="K", help="how many (5)")
    folds.add_argument("--seed", type=natural, default=0, metavar="N", help="order of assignment (0)")

    audit = command("audit", "look for leaks and shortcuts")
    output(audit, "write everything as JSON", required=False)
    audit.add_argument("--external", type=Path, action="append", default=[], metavar="MORE", help="a further data set")
    audit.add_argument("--folds", type=Path, metavar="FILE", help="folds file (else the manifest's column split)")

    show = command("show", "draw what a recipe makes of the pictures")
    output(show, "the picture (PNG) to write", required=True)

    fit = command("fit", "train a network")
    fit.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for checkpoint, log and metrics")
    _add_folds(fit)
    fit.add_argument("--search", type=natural, metavar="J", help="a second fold not trained on, to choose by")
    fit.add_argument("--weights", type=Path, metavar="FILE", help="begin with these, a RUN's, or imagenet's")
    fit.add_argument("--teacher", type=Path, action="append", default=[], metavar="RUN", help="learn from; repeatable")
    fit.add_argument("--allow-leak", action="store_true", help="train on a leak; marks every artifact LEAKY")
    fit.add_argument("--resume", action="store_true", help="continue RUN; everything else as in the first command")
    fit.add_argument("--force", action="store_true", help="start over in RUN")
    fit.add_argument("--checkpoint-minutes", type=natural, default=5, metavar="N", help="most that a kill loses (5)")

    refit = command("refit", "fit the last layer anew, for the run's classes or other ones")
    refit.add_argument("run", type=Path, metavar="RUN", help="a finished run")
    text = "every class and group alike (cells), or every image (none)"
    refit.add_argument("--balance", choices=("cells", "none"), default="cells", help=text)
    text = "fit one number times the log shares of the classes on runs of other folds, and add it to a run's last layer"
    prior = command("prior", text)
    prior.add_argument("run", type=Path, metavar="RUN", help="a finished run")
    text = "finished runs of other folds: what they held out is fitted on"
    prior.add_argument("others", type=Path, nargs="+", metavar="OTHER", help=text)
    for each in (refit, prior):
        each.add_argument("--out", type=Path, required=True, metavar="NEW", help="folder of the new run")
        each.add_argument("--force", action="store_true", help="replace the run in NEW")

    for each in (fit, show):
        each.add_argument("--cache", type=Path, metavar="DIR", help="keep decoded pictures here")
        each.add_argument("--recipe", choices=sorted(RECIPES), default="default", help="values of the flags (default)")
        _add_config(each)
    return parser


def _add_folds(to: ArgumentParser) -> None:
    to.add_argument("--folds", type=Path, metavar="FILE", help="folds file, by edge-train folds")
    to.add_argument("--hold-out", type=natural, metavar="K", help="fold not trained on but measured at the end")


def _add_config(to: ArgumentParser) -> None:
    text = "any setting of the recipe, also one of those below; repeatable"
    to.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help=text)
    lines = ["settings of --set, with their values in the recipe default:"]
    for section in dataclasses.fields(TrainConfig):
        default = getattr(RECIPES["default"], section.name)
        title = (type(default).__doc__ or "").splitlines()[0]
        group = to.add_argument_group(section.name, f"{title} Values shown are those of the recipe default.")
        for field in dataclasses.fields(default):
            value = getattr(default, field.name)
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            if not field.metadata["is_flag"]:
                lines.append(f"  {field.name:15} {field.metadata['help']} ({str(shown).lower()})")
                continue
            options: dict[str, Any] = {"help": f"{field.metadata['help']} ({shown})".replace("%", "%%")}
            if isinstance(value, bool):
                options["action"] = argparse.BooleanOptionalAction
                options["default"] = None
            else:
                options["type"] = _type_of(field.name, value)
                options["metavar"] = "X,X" if isinstance(value, tuple) else "X"
            group.add_argument("--" + field.name.replace("_", "-"), **options)
    to.epilog = "\n".join(lines)


def _type_of(name: str, value: object) -> Callable[[str], Any]:
    """What reads the text of a field from its default."""
    if isinstance(value, tuple):
        return {"sizes_px": _integers, "noise_std": _numbers}.get(name, _words)
    return _truth if isinstance(value, bool) else type(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-train; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if hasattr(arguments, "sizes_px"):
        arguments.config = _config(parser, arguments)
    if arguments.command == "fit":
        if (arguments.folds is None) != (arguments.hold_out is None):
            parser.error("--folds and --hold-out belong together")
        if arguments.search is not None and arguments.search == arguments.hold_out:
            parser.error("--search and --hold-out name the same fold")
        if arguments.search is not None and arguments.folds is None:
            parser.error("--search needs --folds")
        if arguments.resume and arguments.force:
            parser.error("--resume and --force exclude each other")
        if bool(arguments.teacher) != (arguments.config.distill.distill != "none"):
            parser.error("--teacher and --distill belong together (a recipe may set --distill; none turns it off)")
    return run(_PROGRAM, lambda: _with_pytorch(lambda: _act(arguments)), verbose=arguments.verbose)


def _act(arguments: argparse.Namespace) -> int:
    from . import actions

    action: Callable[[argparse.Namespace], int] = getattr(actions, f"run_{arguments.command}")
    return action(arguments)


def _with_pytorch(action: Callable[[], int]) -> int:
    try:
        return action()
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        return fail(_PROGRAM, f"needs {_PACKAGES[error.name]}: pip install '.[train]' in the checkout", ENVIRONMENT)


def _config(parser: ArgumentParser, arguments: argparse.Namespace) -> TrainConfig:
    recipe = RECIPES[arguments.recipe]
    given = {name: getattr(arguments, name, None) for name in recipe.flat()} | dict(arguments.set)
    try:
        return recipe.changed(**{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        name, _, text = str(error).partition(":")
        flag = f"set {name}" if name in dict(arguments.set) else name.replace("_", "-")
        parser.error(f"argument --{flag}:{text}")


def _at_least_two(text: str) -> int:
    value = natural(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 2")
    return value


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    default = RECIPES["default"].flat().get(name)
    if default is None or not value:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=VALUE, NAME as in the list below the flags")
    try:
        return name, _type_of(name, default)(value)
    except ValueError:
        expected = "a whole number" if isinstance(default, int) else "a number"
        raise argparse.ArgumentTypeError(f"{name}: got {value!r}, expected {expected}") from None


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected true or false")
    return text == "true"


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers with commas, as 64,96,128") from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers with commas, as 0.01,0.01,0.01") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)
