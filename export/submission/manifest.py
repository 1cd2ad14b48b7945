"""MANIFEST.json of a submission: what it was made from, and the size and SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge.errors import EdgeError

from .archive import files_below

NAME = "MANIFEST.json"
SCHEMA = "edge-submission/1"


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: Path, facts: dict[str, Any]) -> None:
    """Writes the manifest of a folder's files; `facts` is what else it tells, JSON-ready."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in files_below(folder)
        if name != NAME
    }
    text = json.dumps({"schema": SCHEMA, **facts, "files": files}, ensure_ascii=False, indent=1)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
      EdgeError: there is none, or it is of another kind.
    """
    path = folder / NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EdgeError(f"{NAME}: missing, expected a folder or zip written by edge-submit pack") from error
    except (OSError, ValueError, RecursionError) as error:
        raise EdgeError(f"{NAME}: cannot be read: {error}") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        got = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise EdgeError(f"{NAME}: got schema {got!r}, expected {SCHEMA!r}")
    if not isinstance(values.get("files"), dict) or not isinstance(values.get("contest"), str):
        raise EdgeError(f"{NAME}: names no files or no contest")
    return values


def differences(folder: Path, files: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) for every file that is not as the manifest says, or not in it."""
    found = set(files_below(folder)) - {NAME}
    for name, said in sorted(files.items()):
        if name not in found:
            yield name, "is in the manifest and not in the folder"
            continue
        path, said = folder / name, said if isinstance(said, dict) else {}
        if path.stat().st_size != said.get("bytes"):
            yield name, f"has {path.stat().st_size} bytes, the manifest says {said.get('bytes')}"
        elif sha256_of(path) != said.get("sha256"):
            yield name, "has another SHA-256 than the manifest says"
    for name in sorted(found - set(files)):
        yield name, "is in the folder and not in the manifest"
