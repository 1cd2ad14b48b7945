"""The parser and the argument types that all commands share."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

from . import __version__
from .exit import USAGE

VERSION = f"fairedge {__version__} (Python {sys.version.split()[0]})"


class ArgumentParser(argparse.ArgumentParser):
    """argparse, stricter and shorter: `--ep 5` is no `--epochs 5`, and a mistake is one line and exit status 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def parse_args(  # type: ignore[override]  # argparse has overloads for foreign namespaces, which we do not use
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse's, but an unknown flag is answered with the nearest known one."""
        values, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            near = difflib.get_close_matches(flag, list(self._flags()), n=1)
            self.error(f"unknown argument {unknown[0]}" + (f" (did you mean {near[0]}?)" if near else ""))
        return values

    def error(self, message: str) -> NoReturn:
        """One line on standard error, exit status 2."""
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def add_commands(self, *, quiet: str = "no remarks") -> Callable[[str, str], ArgumentParser]:
        """Adds `--version`; returns what adds a command, of a name and a text, with the flags that all have."""
        self.add_argument("--version", action="version", version=VERSION)
        commands = self.add_subparsers(dest="command", required=True, metavar="COMMAND")

        def command(name: str, text: str) -> ArgumentParser:
            added: ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
            added.add_argument("-q", "--quiet", action="store_true", help=quiet)
            added.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
            return added

        return command

    def _flags(self) -> Iterator[str]:
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    if isinstance(parser, ArgumentParser):
                        yield from parser._flags()


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
