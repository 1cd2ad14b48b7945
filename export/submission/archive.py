"""A stranger's folder or zip -> a new folder of plain files, or a refusal; and a folder -> its manifest, and its zip.

MANIFEST.json says what a submission was made from, and the size and SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import unicodedata
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from edge.errors import EdgeError

MAX_BYTES = 2_000_000_000
"""Of all files unpacked: several times what a submission with every wheel takes."""
MAX_FILES = 20_000
MANIFEST = "MANIFEST.json"

_SCHEMA = "edge-submission/1"
_OWN = (".venv", "output")
"""What the execution files themselves put into the folder of a submission."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20


def unpack(source: Path, target: Path) -> None:
    """Copies a submission, a zip or a folder, into a new folder, without what the execution files made there.

    Nothing is written outside it, whatever the archive says.

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

    They are stored, not compressed: another zlib may compress otherwise, and wheels, images and weights hardly shrink.
    """
    with zipfile.ZipFile(out, "w") as archive:
        for name in files_below(folder):
            path = folder / name
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix, whose modes follow
            info.external_attr = (stat.S_IFREG | _mode(path.stat().st_mode)) << 16
            archive.writestr(info, path.read_bytes())


def files_below(folder: Path) -> list[str]:
    """Names of all files, relative, "/"-separated, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Writes the manifest of a folder's files; `facts` is what else it says, JSON-ready."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in files_below(folder)
        if name != MANIFEST
    }
    text = json.dumps({"schema": _SCHEMA, **facts, "files": files}, ensure_ascii=False, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
      EdgeError: there is none, or it is of another kind.
    """
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EdgeError(f"{MANIFEST}: missing, expected a folder or zip written by edge-submit pack") from error
    except (OSError, ValueError, RecursionError) as error:
        raise EdgeError(f"{MANIFEST}: cannot be read: {error}") from error
    if not isinstance(values, dict) or values.get("schema") != _SCHEMA:
        got = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise EdgeError(f"{MANIFEST}: got schema {got!r}, expected {_SCHEMA!r}")
    if not isinstance(values.get("files"), dict) or not isinstance(values.get("contest"), str):
        raise EdgeError(f"{MANIFEST}: names no files or no contest")
    return values


def _copy_folder(source: Path, target: Path) -> None:
    names = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_symlink() or not path.is_dir()]
    names = [name for name in names if name.parts[0] not in _OWN]
    _check_size(source, len(names), sum((source / name).lstat().st_size for name in names))
    for name in names:
        path = source / name
        if path.is_symlink() or not path.is_file():
            _refuse(source, name, "is a link or no regular file, expected files and folders alone")
        _check_name(source, name.as_posix())
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
        (target / name).chmod(_mode(path.stat().st_mode))


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
                if info.is_dir():
                    continue
                path = target / info.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as entry, open(path, "xb") as file:
                    shutil.copyfileobj(entry, file, _CHUNK)  # which ends at the size that was found small enough
                path.chmod(_mode(info.external_attr >> 16))
    except FileNotFoundError as error:
        raise EdgeError(f"{source}: no such file or folder, expected a submission") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeError) as error:
        raise EdgeError(f"{source}: no usable zip archive: {error}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise EdgeError(f"{source}: refused: has a file and a folder of one name: {error.filename}") from error


def _check_entry(source: Path, info: zipfile.ZipInfo) -> None:
    name = info.filename
    parts = name.removesuffix("/").split("/")
    if PurePosixPath(name).is_absolute() or "\\" in info.orig_filename or ":" in parts[0]:
        _refuse(source, name, "is an absolute path or one of another system")
    if not {"", ".", ".."}.isdisjoint(parts):
        _refuse(source, name, "leads out of the archive's own folder, or is no plain name")
    _check_name(source, name)
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        _refuse(source, name, "is a link or no regular file")
    if info.flag_bits & 1:
        _refuse(source, name, "is encrypted")


def _check_name(source: Path, name: str) -> None:
    if any(unicodedata.category(character) == "Cc" for character in name):
        _refuse(source, name, "has a control character in its name")


def _check_size(source: Path, num_files: int, num_bytes: int) -> None:
    if num_files > MAX_FILES or num_bytes > MAX_BYTES:
        raise EdgeError(
            f"{source}: refused: {num_files} files, {num_bytes / 1e6:.0f} MB unpacked; expected at most {MAX_FILES} "
            f"files and {MAX_BYTES / 1e6:.0f} MB"
        )


def _refuse(source: Path, name: object, reason: str) -> NoReturn:
    raise EdgeError(f"{source}: refused: {str(name)!r} {reason}")


def _mode(mode: int) -> int:
    """One of two: whoever unpacks it may run it, or not."""
    return 0o755 if mode & stat.S_IXUSR else 0o644
