"""A stranger's folder or zip -> a new folder of plain files, or a refusal; and a folder -> a zip of fixed bytes."""

from __future__ import annotations

import os
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NoReturn

from edge.errors import EdgeError

MAX_BYTES = 2_000_000_000
"""Of all files unpacked: several times what a submission with every wheel takes."""

MAX_FILES = 20_000

OWN = (".venv", "output")
"""What the execution files themselves put into the folder of a submission."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20


def unpack(source: Path, target: Path) -> None:
    """Copies a submission into a new folder; nothing is written outside it, whatever the archive says.

    Args:
      source: A zip, or a folder, of which what the execution files made there is left out.
      target: A folder that does not exist.

    Raises:
      EdgeError: no zip and no folder; a name that leads elsewhere, a link, a name given twice, more than
        `MAX_FILES` or `MAX_BYTES`, or a damaged archive.
    """
    target.mkdir(parents=True)
    if source.is_dir():
        _copy_folder(source, target)
    else:
        _unpack_zip(source, target)


def write_zip(folder: Path, out: Path) -> None:
    """Writes a zip of a folder's files: sorted, of one date and two modes, so that equal files give equal bytes.

    They are stored, not compressed: what another zlib makes of the same file may differ, and wheels, images and
    weights hardly shrink.
    """
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in files_below(folder):
            path = folder / name
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix, whose modes follow
            info.external_attr = (stat.S_IFREG | _mode(path.stat().st_mode)) << 16
            with open(path, "rb") as file, archive.open(info, "w", force_zip64=False) as entry:
                shutil.copyfileobj(file, entry, _CHUNK)


def files_below(folder: Path) -> list[str]:
    """Names of all files, relative, "/"-separated, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _copy_folder(source: Path, target: Path) -> None:
    num_bytes = 0
    for number, path in enumerate(_walk(source)):
        name = path.relative_to(source)
        if path.is_symlink() or not path.is_file():
            _refuse(source, name, "is a link or no regular file, expected files and folders alone")
        _check_name(source, name.as_posix())
        num_bytes += path.stat().st_size
        _check_size(source, number, num_bytes)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
        (target / name).chmod(_mode(path.stat().st_mode))


def _walk(folder: Path, *, is_root: bool = True) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if is_root and entry.name in OWN:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), is_root=False)
        else:
            yield Path(entry.path)


def _unpack_zip(source: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
            _check_size(source, len(entries), sum(info.file_size for info in entries))
            seen: set[str] = set()
            for info in entries:
                _check_entry(source, info)
                if info.filename in seen:
                    _refuse(source, info.filename, "is there twice")
                seen.add(info.filename)
                if not info.is_dir():
                    _extract(archive, info, target / info.filename)
    except FileNotFoundError as error:
        raise EdgeError(f"{source}: no such file or folder, expected a submission") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeError) as error:
        raise EdgeError(f"{source}: no usable zip archive: {error}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise EdgeError(f"{source}: refused: has a file and a folder of one name: {error.filename}") from error


def _check_entry(source: Path, info: zipfile.ZipInfo) -> None:
    name, mode = info.filename, info.external_attr >> 16
    parts = name.removesuffix("/").split("/")
    if PurePosixPath(name).is_absolute() or "\\" in info.orig_filename or ":" in parts[0]:
        _refuse(source, name, "is an absolute path or one of another system")
    if not {"", ".", ".."}.isdisjoint(parts):
        _refuse(source, name, "leads out of the archive's own folder, or is no plain name")
    _check_name(source, name)
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        _refuse(source, name, "is a link or no regular file")
    if info.flag_bits & 1:
        _refuse(source, name, "is encrypted")


def _check_name(source: Path, name: str) -> None:
    if any(unicodedata.category(character) == "Cc" for character in name):
        _refuse(source, name, "has a control character in its name")


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left = info.file_size  # what the archive says of itself, which is a part of what was found small enough
    with archive.open(info) as entry, open(path, "xb") as file:
        while chunk := entry.read(min(_CHUNK, left)):  # an entry that is longer has another checksum
            left -= len(chunk)
            file.write(chunk)
    path.chmod(_mode(info.external_attr >> 16))


def _mode(mode: int) -> int:
    """One of two: whoever unpacks it may run it, or not."""
    return 0o755 if mode & stat.S_IXUSR else 0o644


def _check_size(source: Path, num_files: int, num_bytes: int) -> None:
    if num_files > MAX_FILES or num_bytes > MAX_BYTES:
        raise EdgeError(
            f"{source}: refused: {num_files} files, {num_bytes / 1e6:.0f} MB unpacked; expected at most {MAX_FILES} "
            f"files and {MAX_BYTES / 1e6:.0f} MB"
        )


def _refuse(source: Path, name: object, reason: str) -> NoReturn:
    raise EdgeError(f"{source}: refused: {str(name)!r} {reason}")
