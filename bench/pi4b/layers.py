"""What is kept in a folder that a user names: each thing appears when it is whole, and is found again.

Half-made things have names of their own beside it, so that what a killed process has left can be removed and nothing
of the user's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from edge.output_files import naming

from .programs import Pi4bError

PART = ".fairedge-part-"
"""Start of the name of whatever is not whole yet, and of nothing else."""
_LEFTOVER_S = 6 * 3600
"""Age from which on it is of a process that was killed: no step takes so long."""


def layer(folder: Path, name: str, inputs: object, build: Callable[[Path], None]) -> Path:
    """The folder `name`-KEY below `folder` that `build` fills, built unless it is there; KEY is a digest of `inputs`.

    Raises:
      Pi4bError: it has to be built where nothing can be written.
    """
    place = folder / f"{name}-{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:12]}"
    if place.is_dir():
        return place
    with _writable(folder):
        part = Path(mkdtemp(prefix=f"{PART}{name}-", dir=folder))
    try:
        part.chmod(0o755)
        with naming(part):  # of a full disk the system says only that it is full
            build(part)
        try:
            part.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place


def put(path: Path, make: Callable[[Path], object]) -> None:
    """Makes a file whole, or replaces it; two processes may do so at once. `make` writes to the path that it is given.

    Raises:
      Pi4bError: nothing can be written there.
    """
    part = path.with_name(f"{PART}{path.name}.{os.getpid()}")
    with _writable(path.parent):
        try:
            with naming(path):
                make(part)
            part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink()


def clear_leftovers(folder: Path) -> None:
    """Removes what builds that were killed have left."""
    for path in folder.glob(f"{PART}*"):
        with suppress(OSError):  # another process was faster
            if time.time() - path.lstat().st_ctime < _LEFTOVER_S:  # mtime may be the unpacked archive's
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Says what to do where a folder can only be read: it names its own place in it, so a moved one is not whole."""
    try:
        yield
    except OSError as error:
        if os.access(folder, os.W_OK):
            raise
        raise Pi4bError(
            f"{folder}: cannot be written ({error.strerror}), and lacks something or was filled at another place: copy "
            "it to where you may write (cp -a), or take an empty folder, and name that with --cache"
        ) from error
