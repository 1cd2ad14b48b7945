"""The files a command writes: checked before the work, whole or absent after it."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def check_output(path: Path, *, force: bool, hint: str = "--force replaces it") -> None:
    """Says before the work, not after it, that a file cannot be written.

    Args:
      path: The file.
      force: Whether an existing one may be replaced.
      hint: What to do about an existing one.

    Raises:
      FileNotFoundError: its folder does not exist.
      PermissionError: its folder cannot be written.
      FileExistsError: it exists and `force` is false, or is no regular file: replacing a device would remove it.
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


def write_output(path: Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8, through a temporary one beside it; an existing one is replaced.

    A link is followed, so that it stays one.
    """
    path = path.resolve()
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
