"""The files a command writes: none of them one that it reads, checked before the work, whole or absent after it.

`edge.exit.run` protects every path of the command line but those of the type `OutputPath`, so no command can forget
to: whatever opens an output here, or checks one, refuses those files.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PosixPath

MANIFEST, CHECKPOINT = "manifest.csv", "checkpoint.pt"
_OF_A_RUN = """
    checkpoint.pt config.json heldout.txt search.txt heldout_predictions.csv metrics.json prior.json log.csv log.jsonl
    LEAKY.txt
""".split()

_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")
"""First bytes of pictures."""


class OutputPath(PosixPath):
    """Argument type: a file or a folder that the command writes."""


@dataclass
class _Command:
    """What the command that runs reads, and has written."""

    inputs: list[Sequence[str]] = field(default_factory=list)
    written: set[str] = field(default_factory=set)


_command: _Command | None = None


@contextmanager
def protecting(values: Iterable[object]) -> Iterator[None]:
    """Protects the paths among the values of a command line, also those in lists, while a command runs."""
    global _command
    before = _command
    _command = _Command([*(before.inputs if before else ())])
    try:
        protect([*_paths(values)])
        yield
    finally:
        _command = before


def _paths(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _paths(value)
        elif isinstance(value, Path) and not isinstance(value, OutputPath):
            yield from (str(value), f"{value}.meta.json")


def protect(paths: Sequence[str]) -> None:
    """Adds files and folders to those that the command reads; outside of a command nothing is protected."""
    if _command is not None:
        _command.inputs.append(paths)


def _inputs() -> Iterator[str]:
    return (path for paths in (_command.inputs if _command else ()) for path in paths)


def check_output(path: Path, *, force: bool, hint: str = "--force replaces it") -> None:
    """Says before the work, not after it, that a file cannot be written; `hint`: what to do about an existing one.

    Raises:
      FileNotFoundError: its folder does not exist.
      PermissionError: its folder cannot be written.
      FileExistsError: it exists and `force` is false, is an input, or is not a regular file: replacing a device would
        remove it.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(folder))
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "folder cannot be written", str(folder))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "is no regular file", str(path))
    refuse_input(path)
    if path.exists() and not force:
        raise FileExistsError(errno.EEXIST, f"exists already ({hint})", str(path))


def refuse_input(output: Path) -> None:
    """Says that a command would overwrite what it reads: a file by whatever name, or what a folder is made of.

    Raises:
      FileExistsError: it would.
    """
    place = output.resolve()
    if _command is None or not place.is_file() or str(place) in _command.written:
        return
    target, parents = os.stat(place), [os.stat(parent) for parent in place.parents]
    for path in _inputs():
        try:
            status = os.stat(path)
            is_same = os.path.samestat(target, status)
            if not is_same and any(os.path.samestat(parent, status) for parent in parents):
                is_same = _is_needed(place, target)
        except (OSError, ValueError):
            continue  # reading it will say so
        if is_same:
            raise FileExistsError(errno.EEXIST, "is an input, expected another output", str(output))


def refuse_folder(output: Path) -> None:
    """Says before the work that a command would write into a folder that is, or holds, what it reads.

    Raises:
      FileExistsError: it would.
    """
    if not output.is_dir():
        return
    for path in filter(os.path.exists, _inputs()):
        place = Path(path).resolve()
        if any(output.samefile(folder) for folder in (place, *place.parents)):
            what = "is an input" if output.samefile(place) else f"holds the input {path}"
            raise FileExistsError(errno.EEXIST, f"{what}, expected another folder", str(output))


def _is_needed(place: Path, target: os.stat_result) -> bool:
    """Whether a file is one of those for which its folder is read: a picture, or of a data set or a run."""
    with open(place, "rb") as file:
        if file.read(4).startswith(_PICTURES):
            return True
    names = [MANIFEST, *(_OF_A_RUN if (place.parent / CHECKPOINT).exists() else ())]
    beside = (place.parent / name for name in names)  # not by its own name: some file systems know no case
    return any(os.path.samestat(target, os.stat(path)) for path in beside if path.exists())


def write_output(path: Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8, as `replacing` does."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside a file; what is written there gets the file's name when the block ends well.

    Readers find the old file or the whole new one, also when two processes write it. A link is followed, so that it
    stays one. Nothing is synced: a caller whose file must survive a power cut does that itself.

    Raises:
      FileExistsError: it is an input.
      OSError: it cannot be written; `filename` is the file.
    """
    refuse_input(path)
    place = path.resolve()
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with naming(path, part=part):
            yield part
            os.replace(part, place)
        if _command is not None:
            _command.written.add(str(place))
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, hint: str = "", *, part: Path | None = None) -> Iterator[None]:
    """Puts the file's name into an error of writing it: of a full disk the system says only that it is full.

    The error says `hint` behind its reason, and may have the name of `part`, the file's temporary one.
    """
    try:
        yield
    except OSError as error:
        if error.filename not in (None, part and str(part)):
            raise
        raise OSError(error.errno, f"{error.strerror or error}{hint}", str(path)) from error


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Makes a folder and holds it against other processes; one that is new and stays empty is removed again.

    Raises:
      FileExistsError: another process holds it.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(handle, folder)
        yield
    finally:
        os.close(handle)
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def lock(handle: int, path: Path) -> None:
    """Locks an open file or folder until it is closed; the lock of a process that was killed ends with it.

    Raises:
      FileExistsError: another process has it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileExistsError(errno.EEXIST, f"is being written by another run{_holder(handle)}", str(path)) from error
    except OSError:
        pass  # a file system without locks


def _holder(handle: int) -> str:
    """The process that has the lock, if the kernel says it: "1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF"."""
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return ""
    inode = str(os.fstat(handle).st_ino)
    found = [row[4] for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5].split(":")[-1] == inode]
    return f", process {found[0]}" if found and found[0].isdigit() else ""
