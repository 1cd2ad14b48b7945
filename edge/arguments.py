"""The parser and the argument types that all commands share."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from textwrap import indent, wrap
from typing import Any, NoReturn

from . import __version__
from .exit import USAGE

AddCommand = Callable[..., "ArgumentParser"]
"""`add(name, text, *, description=None, example=None, group="commands")`: adds a command and returns its parser.

`text` is its line in the list of commands, below the title `group`; its own help begins with `description` (the text as
a sentence) and ends with `example`, a command or two, one a line.
"""
VERSION = f"fairedge {__version__} (Python {sys.version.split()[0]})"


class _HelpFormatter(argparse.HelpFormatter):
    """Shows every flag's default behind its text, as (default 4), unless the text speaks of a default itself."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Every line on its own: prose is wrapped, what is indented (commands, lists) is as it is."""
        lines = (part for line in text.splitlines() for part in self._split_lines(line, width) or [""])
        return "\n".join(indent + line for line in lines)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return [text] if text.startswith(" ") else wrap(text, width, break_on_hyphens=False)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default, text = action.default, action.help
        is_value = isinstance(default, str | int | float | Path) and not isinstance(default, bool)
        if not (is_value and action.option_strings and default != argparse.SUPPRESS) or "default" in (text or ""):
            return text
        return f"{text} (default {default:g})" if isinstance(default, float) else f"{text} (default %(default)s)"


class ArgumentParser(argparse.ArgumentParser):
    """argparse, stricter and shorter: `--ep 5` is no `--epochs 5`, and a mistake is one line and exit status 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _HelpFormatter)
        self._chosen: argparse.ArgumentParser = self  # the command that was given: errors name its help
        super().__init__(*args, **kwargs)

    def parse_args(  # type: ignore[override]  # argparse has overloads for foreign namespaces, which we do not use
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse's, but an unknown flag is answered with the nearest one, and no command with the help."""
        commands = next((a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)), {})
        if commands and not (sys.argv[1:] if args is None else args):
            self.print_help(sys.stderr)
            self.exit(USAGE)
        values, unknown = self.parse_known_args(args, namespace)
        self._chosen = commands[values.command] if commands else self
        if unknown:
            flag = unknown[0].split("=")[0]
            known = [name for action in self._chosen._actions for name in action.option_strings if name != flag]
            near = difflib.get_close_matches(flag, known, n=1, cutoff=0.7)
            self.error(f"unknown argument {unknown[0]}" + (f" (did you mean {near[0]}?)" if near else ""))
        return values

    def error(self, message: str) -> NoReturn:
        """One line on standard error, exit status 2."""
        program = self._chosen.prog
        self.exit(USAGE, f"{program}: {message} (see {program} --help)\n")

    def keep(self, action: argparse.Action, *names: str) -> None:
        """Old spellings of a flag: they work, and no help shows them."""
        self._option_string_actions.update(dict.fromkeys(names, action))

    def add_commands(self, *, quiet: str = "no remarks") -> AddCommand:
        """Adds `--version`; returns what adds commands with the flags that all have."""
        self.add_argument("--version", action="version", version=VERSION)
        commands = self.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
        self._action_groups.pop()._group_actions.clear()  # argparse would list all commands under this one title
        groups: dict[str, Any] = {}

        def command(
            name: str, text: str, *, description: str | None = None, example: str | None = None, group: str = "commands"
        ) -> ArgumentParser:
            description = description or text[0].upper() + text[1:] + "."
            title = "examples" if "\n" in (example or "").replace("\\\n", "") else "example"
            epilog = None if example is None else f"{title}:\n" + indent(example, "  ")
            added: ArgumentParser = commands.add_parser(name, description=description, epilog=epilog)
            added.add_argument("-q", "--quiet", action="store_true", help=quiet)
            added.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
            if group not in groups:
                groups[group] = self.add_argument_group(group)
            groups[group]._group_actions.append(argparse.Action((), name, metavar=name, help=text))
            return added

        return command


def whole(text: str, *, least: int, most: int = 10**18 - 1) -> int:
    """A whole number of at most 18 digits, or argparse's error."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else -1
    if value < least:
        limit = "" if len(text) <= 18 else " with at most 18 digits"
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected a whole number from {least}{limit}")
    if value > most:
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected at most {most}")
    return value


natural = partial(whole, least=0)
positive = partial(whole, least=1)
workers = partial(whole, least=1, most=256)
"""Threads; each holds a batch, those over the cores only wait, and 100,000 would take a machine's whole memory."""


def fraction(text: str) -> float:
    """Argument type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected a number from 0 to 1")
    return value


def got(text: str) -> str:
    """What was typed, quoted, for a message that stays one line to read."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
