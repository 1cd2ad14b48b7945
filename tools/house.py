"""Sizes of the house: lines, modules, folders, functions, commands and flags, beside their limits.

    python tools/house.py            # the table
    python tools/house.py --check    # exit status 6 where a module, a folder or a function is over its limit
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("edge", "bench", "train", "export")
MAX_MODULES_OF_FOLDER, MAX_LINES_OF_MODULE, MAX_LINES_OF_FUNCTION = 16, 320, 60
MAX_COMMANDS, MAX_FLAGS, MAX_FLAGS_OF_FIT = 25, 205, 50
_CLIS = ("edge.cli", "bench.cli", "train.cli", "export.cli", "export.submission.cli")
_OF_EVERY_COMMAND = {"--help", "--version", "--quiet", "--verbose"}
_ROOT = Path(__file__).parents[1]


def modules_of(package: str) -> list[Path]:
    """Files of a package, without those that only make a folder a package."""
    return [path for path in sorted((_ROOT / package).rglob("*.py")) if "tests" not in path.parts]


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Lines of a function that are neither its docstring, nor blank, nor a comment."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    first, last = body[0].lineno - 1, function.end_lineno or function.lineno
    return sum(1 for line in lines[first:last] if line.strip() and not line.strip().startswith("#"))


def problems(path: Path) -> Iterator[str]:
    """What is over a limit in one module."""
    text, name = path.read_text(encoding="utf-8"), path.relative_to(_ROOT)
    lines = text.splitlines()
    if len(lines) > MAX_LINES_OF_MODULE:
        yield f"{name}: {len(lines)} lines, at most {MAX_LINES_OF_MODULE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if (count := code_lines(node, lines)) > MAX_LINES_OF_FUNCTION:
                yield f"{name}:{node.lineno}: {node.name} has {count} lines of code, at most {MAX_LINES_OF_FUNCTION}"


def crowded() -> Iterator[str]:
    """Folders with too many modules."""
    for package in (*PACKAGES, "research"):
        folders = {path.parent for path in modules_of(package)}
        for folder in sorted(folders):
            count = sum(1 for path in folder.glob("*.py") if not path.name.startswith("__"))
            if count > MAX_MODULES_OF_FOLDER:
                yield f"{folder.relative_to(_ROOT)}: {count} modules, at most {MAX_MODULES_OF_FOLDER}"


def flags_of_commands() -> tuple[dict[str, int], int]:
    """How many flags each command has, by its name, without those that all have; and how many old spellings work."""
    sys.path.insert(0, str(_ROOT))
    found, num_old = {}, 0
    for name in _CLIS:
        parser = importlib.import_module(name).build_parser()
        commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        for command in commands[0].choices.values() if commands else [parser]:
            names = [action.option_strings[-1] for action in command._actions if action.option_strings]
            found[command.prog] = len(set(names) - _OF_EVERY_COMMAND)
            num_old += len({*command._option_string_actions} - {n for a in command._actions for n in a.option_strings})
    return found, num_old


def too_many(flags: dict[str, int]) -> Iterator[str]:
    """Counts of commands and flags that are over their limit."""
    counts = (
        ("commands", len(flags), MAX_COMMANDS),
        ("flags", sum(flags.values()), MAX_FLAGS),
        ("flags of edge-train fit", flags["edge-train fit"], MAX_FLAGS_OF_FIT),
    )
    for name, count, limit in counts:
        if count > limit:
            yield f"{count} {name}, at most {limit}"


def main() -> int:
    """Prints the table, or what is over a limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only what is over a limit")
    everything = [path for package in (*PACKAGES, "research") for path in modules_of(package)]
    flags, num_old = flags_of_commands()
    found = [*crowded(), *(line for path in everything for line in problems(path)), *too_many(flags)]
    if not parser.parse_args().check:
        for package in (*PACKAGES, "research"):
            paths = modules_of(package)
            num_lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
            num_modules = sum(1 for path in paths if not path.name.startswith("__"))
            print(f"{package:9} {num_lines:6} lines {num_modules:4} modules")
        print(f"{len(flags)} commands, {sum(flags.values())} flags, {flags['edge-train fit']} of edge-train fit")
        print(f"{num_old} old spellings of flags, which no help shows")
    for line in found:
        print(line)
    return 6 if found else 0


if __name__ == "__main__":
    sys.exit(main())
