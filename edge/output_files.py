"""The files a command writes: checked before the work, whole or absent after it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def check_output(path: Path, *, force: bool, hint: str = "--force replaces it") -> None:
    """Says before the work, not after it, that a file cannot be written; `hint`: what to do about an existing one.

    Raises:
      FileNotFoundError: its folder does not exist.
      PermissionError: its folder cannot be written.
      FileExistsError: it exists and `force` is false, or is not a regular file: replacing a device would remove it.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(folder))
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "folder cannot be written", str(folder))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "is no regular file", str(path))
    if path.exists() and not force:
        raise FileExistsError(errno.EEXIST, f"exists already ({hint})", str(path))


def refuse_input(output: Path, inputs: Iterable[str | os.PathLike[str]], *, what: str = "an input") -> None:
    """Says before the work that a command would overwrite what it reads, `what` being its name.

    Raises:
      FileExistsError: the output is one of the inputs, by whatever name.
    """
    if not output.is_file():
        return
    target = os.stat(output)
    for path in inputs:
        try:
            is_same = os.path.samestat(target, os.stat(path))
        except (OSError, ValueError):
            continue  # reading it will say so
        if is_same:
            raise FileExistsError(errno.EEXIST, f"is {what}, expected another output", str(output))


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
      OSError: it cannot be written; `filename` is the file.
    """
    place = path.resolve()
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with naming(path, part=part):
            yield part
            os.replace(part, place)
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
