"""Exit statuses, signals, and how an error becomes one line.

    def main(argv=None) -> int:
        arguments = build_parser().parse_args(argv)
        return run("edge-infer", lambda: _infer(arguments), arguments)

A command starts in its package's `__main__.py`, by `start`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from types import FrameType

from .errors import EdgeError
from .output_files import protecting

DONE = 0
SOME_FAILED = 1
USAGE = 2
INPUT = 3
MODEL = 4
ENVIRONMENT = 5
GATE = 6
INTERRUPTED = 130
CLOSED_PIPE = 141

STATUSES = """\
exit status:
  0 done   1 done, some images failed   2 usage   3 input   4 model
  5 environment, disk full   6 a gate failed
  130 interrupted (what was finished is kept)
  141 the reader of standard output went away
"""

_program: str | None = None
_said: set[str] = set()


def start(program: str, module: str) -> int:
    """Runs `main` of a command's module; from the first import on, Ctrl-C ends the command with one line."""
    try:
        with quiet_interrupts(program):
            main: Callable[[], int] = import_module(module).main
        return main()
    except KeyboardInterrupt:  # while the arguments were read
        return fail(program, "interrupted", INTERRUPTED)
    finally:
        ignore_interrupts()  # the interpreter's end would show a traceback


def run(program: str, action: Callable[[], int], arguments: argparse.Namespace = argparse.Namespace()) -> int:
    """Runs a command's work, which returns its exit status. It cannot overwrite what its arguments name.

    What stops it becomes a status and one line behind the program's name, with `arguments.verbose` after a traceback.
    """
    try:
        quiet = getattr(arguments, "quiet", False)
        talking = _talking(program, is_quiet=quiet)
        with _handling([signal.SIGINT], _interrupt), protecting(vars(arguments).values()), talking:
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
        if getattr(arguments, "verbose", False):
            import traceback  # takes as long as the imports above

            traceback.print_exc()
        return fail(program, *_explain(error))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C, but once an import is over: a broken one says anything, or goes on as if there had been none."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    if frame is None:
        raise KeyboardInterrupt
    again = threading.Timer(0.05, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def quiet_interrupts(program: str) -> AbstractContextManager[None]:
    """While nothing can be lost yet: Ctrl-C ends the process at once, without the traceback of a broken import."""

    def end(*_: object) -> None:
        say(program, "interrupted")
        os._exit(INTERRUPTED)

    return _handling([signal.SIGINT], end)


def terminations_as_interrupts() -> AbstractContextManager[None]:
    """SIGTERM and SIGHUP end the work as Ctrl-C does: what it started is stopped, what it made is cleared away."""
    numbers = [signal.SIGTERM, signal.SIGHUP]

    def end(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # one is enough: what follows is clearing away
        raise KeyboardInterrupt

    return _handling(numbers, end)


def uninterrupted() -> AbstractContextManager[None]:
    """Ctrl-C is ignored while something ends that is sooner done than undone. SIGTERM still ends the process."""
    return _handling([signal.SIGINT], signal.SIG_IGN)


@contextmanager
def _handling(numbers: Sequence[signal.Signals], handler: Callable[..., None] | signal.Handlers) -> Iterator[None]:
    """Has a handler for signals, but for those that are ignored, as a shell does for what it starts behind itself.

    A program that calls `main` from a thread keeps its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """What libraries in C print on standard error goes nowhere; what Python prints there stays."""
    before, is_own = sys.stderr, False
    with suppress(OSError, AttributeError):  # no file at all, or closed
        is_own = before.fileno() == 2
    if not is_own:
        yield
        return
    with open(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1) as kept:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        sys.stderr = kept
        try:
            yield
        finally:
            os.dup2(kept.fileno(), 2)
            sys.stderr = before


def ignore_interrupts() -> None:
    """From here on a further Ctrl-C is ignored: the process is on its way out, and has files to leave in order."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def say(program: str, text: str) -> None:
    """One line on standard error; a standard error that is closed or full stops nobody."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(printable(f"{program}: {text}"), file=sys.stderr)


@contextmanager
def _talking(program: str, *, is_quiet: bool) -> Iterator[None]:
    """Has `remark` speak for a command while it runs."""
    global _program, _said
    before = _program, _said
    _program, _said = None if is_quiet or os.environ.get("RANK", "0") != "0" else program, set()  # RANK: of torchrun
    try:
        yield
    finally:
        _program, _said = before


def remark(text: str) -> None:
    """Says a line for the command that runs, once; with -q, and outside of a command, nothing."""
    if _program is not None and text not in _said:
        _said.add(text)
        say(_program, text)


def printable(text: str) -> str:
    """One line without control characters: names of files can hold any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def fail(program: str, text: str, status: int) -> int:
    """Says why, and returns the status."""
    say(program, text)
    return status


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
