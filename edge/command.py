"""What all commands of the project share: exit statuses, arguments, and how an error becomes one line.

    def main(argv=None) -> int:
        arguments = build_parser().parse_args(argv)
        return run("edge-infer", lambda: _infer(arguments), verbose=arguments.verbose)
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from . import __version__
from .errors import EdgeError

DONE = 0
SOME_FAILED = 1
USAGE = 2
INPUT = 3
MODEL = 4
ENVIRONMENT = 5
GATE = 6
INTERRUPTED = 130
CLOSED_PIPE = 141

MAX_WORKERS = 256
"""More threads than any board has cores; 100,000 of them take a machine's whole memory."""

STATUSES = """\
exit status:
  0 done   1 done, some images failed   2 usage   3 input   4 model   5 environment, disk full   6 a gate failed
  130 interrupted (what was finished is kept)   141 the reader of standard output went away
"""


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
        """Adds `--version`, and gives what adds a command, of a name and a text, with the flags that all have."""
        version = f"fairedge {__version__} (Python {sys.version.split()[0]})"
        self.add_argument("--version", action="version", version=version)
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


def run(program: str, action: Callable[[], int], *, verbose: bool = False) -> int:
    """Runs a command's work and turns whatever stops it into one line and an exit status.

    Args:
      program: Name in front of the line.
      action: The work; returns the exit status.
      verbose: Whether a traceback is printed as well.
    """
    try:
        status = action()
        if sys.stdout is not None:
            sys.stdout.flush()  # a closed pipe has to show here, not when the interpreter ends
        return status
    except KeyboardInterrupt:
        ignore_interrupts()
        return fail(program, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout at exit
        return CLOSED_PIPE
    except Exception as error:  # the last border: a person gets one line, -v gets the rest
        if verbose:
            traceback.print_exc()
        return fail(program, *_explain(error))


@contextmanager
def quiet_interrupts(program: str) -> Iterator[None]:
    """While nothing can be lost yet: Ctrl-C ends the process at once, without the traceback of a broken import."""

    def end(*_: object) -> None:
        say(program, "interrupted")
        os._exit(INTERRUPTED)

    if threading.current_thread() is not threading.main_thread():
        yield  # a program that calls `main` from a thread keeps its own handling
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def terminations_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end the work as Ctrl-C does: what it started is stopped, what it made is cleared away."""

    def end(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # one is enough: what follows is clearing away
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in numbers}  # nohup's is left ignored
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interrupts() -> None:
    """From here on a further Ctrl-C is ignored: the process is on its way out, and has files to leave in order."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C is ignored while something ends that is sooner done than undone. SIGTERM still ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def say(program: str, text: str) -> None:
    """One line on standard error; a standard error that is closed or full stops nobody."""
    line = printable(f"{program}: {text}")
    if sys.stderr is not None:
        with suppress(OSError):
            print(line, file=sys.stderr)


def printable(text: str) -> str:
    """One line without control characters: names of files and words of others can hold any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def fail(program: str, text: str, status: int) -> int:
    """Says why, and returns the status."""
    say(program, text)
    return status


def natural(text: str) -> int:
    """Argument type: a whole number from 0."""
    return whole(text, least=0)


def positive(text: str) -> int:
    """Argument type: a whole number from 1."""
    return whole(text, least=1)


def workers(text: str) -> int:
    """Argument type: a number of threads; each holds a batch, and those over the cores only wait for each other."""
    if (value := positive(text)) > MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected at most {MAX_WORKERS}")
    return value


def whole(text: str, *, least: int) -> int:
    """A whole number of at most 18 digits, or argparse's error."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else -1
    if value < least:
        limit = "" if len(text) <= 18 else " with at most 18 digits"
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected a whole number from {least}{limit}")
    return value


def plain_name(text: str) -> str:
    """Argument type: a name that can be a part of a file's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", text):
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected letters, digits, dots, + and -")
    return text


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


def _explain(error: Exception) -> tuple[str, int]:
    """One line and the exit status for what stopped a command."""
    if isinstance(error, EdgeError):
        return str(error), error.exit_status
    if isinstance(error, FileExistsError):
        return f"{error.filename}: {error.strerror}", USAGE
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}", ENVIRONMENT
    if isinstance(error, ImportError):
        return f"a package is missing or broken: {error}; try edge-infer --check", ENVIRONMENT
    if isinstance(error, MemoryError):
        return "out of memory: try fewer --workers, a smaller --batch-size or --max-memory", ENVIRONMENT
    return f"internal error: {type(error).__name__}: {error} (-v shows where; please report it)", ENVIRONMENT
