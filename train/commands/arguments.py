"""Flags that several commands share: the data set, the output, the settings of a recipe."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

from bench.commands.arguments import DATA, add_columns
from edge.arguments import ArgumentParser
from edge.exit import ENVIRONMENT, fail, say
from edge.output_files import CHECKPOINT, OutputPath, refuse_folder

from ..config import TrainConfig
from ..recipes import RECIPES

PROGRAM = "edge-train"
_PACKAGES = {"torch": "PyTorch", "cv2": "opencv-python-headless", "safetensors": "safetensors", "onnx": "onnx"}
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""What the package index itself offers brings several GB of CUDA to every Linux."""


def add_data(to: argparse.ArgumentParser) -> None:
    """Adds DATA, --label and --group."""
    to.add_argument("data", type=Path, metavar="DATA", help=DATA)
    add_columns(to)


def add_finished_run(to: argparse.ArgumentParser) -> None:
    """Adds DATA, --label, --group and RUN."""
    add_data(to)
    to.add_argument("run", type=Path, metavar="RUN", help="a finished run")


def add_out(to: ArgumentParser, metavar: str, text: str) -> None:
    """Adds -o of a command that writes a run."""
    action = to.add_argument("-o", "--output", dest="out", type=OutputPath, required=True, metavar=metavar, help=text)
    to.keep(action, "--out")


def add_new_run(to: ArgumentParser) -> None:
    """Adds -o and --force of a command that makes a run from finished ones."""
    add_out(to, "NEW", "folder for the new run")
    to.add_argument("--force", action="store_true", help="replace the run in NEW")


def check_new_run(arguments: argparse.Namespace) -> None:
    """Raises FileExistsError where NEW has a run that --force does not replace."""
    check_run_folder(arguments.out)
    checkpoint = arguments.out / CHECKPOINT
    if checkpoint.exists() and not arguments.force:
        raise FileExistsError(errno.EEXIST, "exists already (--force replaces it)", str(checkpoint))


def check_run_folder(out: Path) -> None:
    """Raises FileExistsError where a run would be written among what is none, or over what it is made from."""
    refuse_folder(out)
    if not out.is_dir() or not any(out.iterdir()) or (out / CHECKPOINT).exists():
        return
    try:
        is_run = "recipe" in json.loads((out / "config.json").read_bytes())
    except (OSError, ValueError, TypeError):
        is_run = False
    if not is_run:
        raise FileExistsError(errno.EEXIST, "is not empty and no run, expected an empty folder or none", str(out))


def add_recipe(to: argparse.ArgumentParser, *, has_flags: bool) -> None:
    """Adds --recipe and --set, and where the command has them a flag for every field of `TrainConfig` that has one."""
    text = "a set of values for the settings below (default: the recipe default, whose values are shown)"
    to.add_argument("--recipe", choices=sorted(RECIPES), default="default", help=text)
    text = "any setting of the recipe, also one with a flag; repeatable" if has_flags else "any setting; repeatable"
    to.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help=text)
    lines = ["settings of --set:"]
    for section in dataclasses.fields(TrainConfig):
        default = getattr(RECIPES["default"], section.name)
        title = (type(default).__doc__ or "").splitlines()[0]
        group = to.add_argument_group(section.name, title) if has_flags else None
        for field in dataclasses.fields(default):
            value = getattr(default, field.name)
            metavar, shown = _metavar(value, field.metadata["choices"]), str(value).lower()
            shown = ",".join(map(str, value)) or "none" if isinstance(value, tuple) else shown
            is_flag = group is not None and field.metadata["is_flag"]
            listed = f"one of {', '.join(field.metadata['choices'])}; " if field.metadata["choices"] else ""
            listed = "" if is_flag and metavar != "NAME" else listed
            text = f"{field.metadata['help']} ({listed}default {shown})"
            if group is None or not is_flag:
                lines += wrap(text, 76, initial_indent=f"  {field.name:17} ", subsequent_indent=" " * 20)
                continue
            options: dict[str, Any] = {"help": text.replace("%", "%%")}
            if isinstance(value, bool):
                options |= {"action": argparse.BooleanOptionalAction, "default": None}
            else:
                options |= {"type": _type_of(field.name, value), "metavar": metavar}
            group.add_argument("--" + field.name.replace("_", "-"), **options)
    to.epilog = "\n\n".join(filter(None, (to.epilog, "\n".join(lines))))


def config_of(arguments: argparse.Namespace, parser: ArgumentParser) -> TrainConfig:
    """The recipe with what `add_recipe`'s flags change; ends the command where a value is out of range."""
    recipe = RECIPES[arguments.recipe]
    given = {name: getattr(arguments, name, None) for name in recipe.flat()} | dict(arguments.set)
    try:
        return recipe.changed(**{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        name, _, text = str(error).partition(":")
        flag = f"set {name}" if name in dict(arguments.set) else name.replace("_", "-")
        parser.error(f"argument --{flag}:{text}")


def say_next(arguments: argparse.Namespace, *commands: Sequence[object]) -> None:
    """Says what to do after a command, one line a command; the columns that are not the usual ones go along."""
    usual = {"label": "class", "group": "group"}
    given = [word for name, column in usual.items() if getattr(arguments, name) != column
             for word in (f"--{name}", getattr(arguments, name))]
    for command in () if arguments.quiet else commands:
        words = [str(word) for word in command]
        say(PROGRAM, f"next: {shlex.join(words + (given if str(arguments.data) in words else []))}")


def say_export(arguments: argparse.Namespace) -> None:
    """Says what to do with a finished run: score what it held out, if anything, and export it."""
    score = ["edge-bench", "score", arguments.out / "heldout_predictions.csv", "--data", arguments.data, "--subset"]
    export = ["edge-export", "onnx", arguments.out, "--license", "LICENCE OF THE WEIGHTS", "-o", "model.onnx"]
    say_next(arguments, *([score] if score[2].exists() else []), export)


def with_packages(program: str, extra: str, action: Callable[[], int]) -> int:
    """The exit status of an action; where a package is missing one line names the extra that brings it."""
    try:
        return action()
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        first = f"pip install torch --index-url {_CPU_INDEX}, then " if error.name == "torch" else ""
        text = f"needs {_PACKAGES[error.name]}: {first}pip install -e '.[{extra}]' in the checkout"
        return fail(program, f"{text} (make install-train does all of it)", ENVIRONMENT)


def _metavar(value: object, choices: Sequence[str]) -> str:
    """What stands for a field's value in the help."""
    if isinstance(value, tuple):
        return "N,N,..." if value else "CLASS:X,..."
    if choices:
        return "{" + ",".join(choices) + "}" if len(choices) < 5 else "NAME"
    return "N" if isinstance(value, int) else "X"


def _type_of(name: str, value: object) -> Callable[[str], Any]:
    """The reader of a field's text, by its default."""
    if isinstance(value, tuple):
        return partial(_values, {"sizes_px": int, "noise_std": float}.get(name, str))
    return _truth if isinstance(value, bool) else type(value)


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


def _values(kind: type, text: str) -> tuple[Any, ...]:
    """Values with commas between them; of words the empty ones are left out."""
    try:
        return tuple(kind(part) for part in text.split(",") if part or kind is not str)
    except ValueError:
        numbers = "whole numbers with commas, as 64,96,128" if kind is int else "numbers with commas, as 0.01,0.01,0.01"
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {numbers}") from None
