"""The images of a run: PATH arguments -> what to open, the names in the output, and their common root."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .errors import InputError
from .output_files import protect
from .photo.decode import SUFFIXES
from .predictions import path_text


@dataclass(frozen=True)
class Inputs:
    """The images of a run."""

    paths: list[str]
    """What to open, in order, each directory entry once."""
    names: list[str]
    """The same in the output: relative to the root, "/"-separated, valid UTF-8."""
    root: str
    """Name (not path) of the folder the names are relative to."""
    remarks: list[str]
    """One line for each thing a person should know: files met twice, folders without images."""


def collect(arguments: Iterable[str], *, recursive: bool = False) -> Inputs:
    """Expands files, folders, glob patterns, "@list.txt" (a path per line) and "-" (the same from standard input).

    Files given by name are kept whatever their suffix, also when they do not exist: each becomes a row. Folders give
    their images in natural order (img2 before img10), without hidden files; `recursive` searches them to the bottom.

    Raises:
      InputError: nothing to do: no such path at all, or folders without images, or an unreadable list.
    """
    arguments = [*arguments]
    protect(["/proc/self/fd/0" if name == "-" else name.removeprefix("@") for name in arguments])
    found: list[str] = []
    remarks: list[str] = []
    anchors: list[str] = []  # absolute folders whose deepest common one is the root
    seen: set[tuple[str, str]] = set()
    real_path = cache(os.path.realpath)
    num_missing = num_twice = 0
    for argument in _expand(arguments):
        if os.path.isdir(argument):
            anchors.append(os.path.abspath(argument))
            files = list(_images_below(argument, recursive))
            if not files:
                hint = "" if recursive else " (-r searches its subfolders)"
                remarks.append(f"no images in {path_text(argument)}{hint}")
        else:
            anchors.append(os.path.dirname(os.path.abspath(argument)))
            files = [argument]
            num_missing += not os.path.lexists(argument)
        for path in files:
            folder, name = os.path.split(path)
            entry = real_path(folder), name
            if entry in seen:
                num_twice += 1
            else:
                seen.add(entry)
                found.append(path)
    if not found:
        raise InputError("; ".join(remarks) or "no images given, expected at least one path")
    if num_missing == len(found):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise InputError(f"no such path: {path_text(found[0])}{more}")
    if num_twice:
        remarks.append(f"{num_twice} of the paths lead to a file met before: one row for each file")
    protect(found)
    root = os.path.commonpath(anchors)
    names = [path_text(os.path.relpath(os.path.abspath(path), root)).replace(os.sep, "/") for path in found]
    return Inputs(found, names, path_text(os.path.basename(root)), remarks)


def natural_key(text: str) -> tuple[list[object], str]:
    """Sort key under which img2 comes before img10."""
    parts = re.split(r"([0-9]+)", text)
    return [(int(part), part) if i % 2 else part.lower() for i, part in enumerate(parts)], text


def _expand(arguments: Iterable[str]) -> Iterator[str]:
    for argument in arguments:
        if argument == "-":
            if sys.stdin is None:
                raise InputError("standard input is closed, expected a list of paths there")
            yield from _lines(sys.stdin.buffer.read())
        elif argument.startswith("@") and not os.path.lexists(argument):
            try:
                content = Path(argument[1:]).read_bytes()
            except OSError as error:
                raise InputError(f"list {path_text(argument[1:])}: cannot be read: {error.strerror}") from error
            yield from _lines(content)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            yield from sorted(glob.glob(argument, recursive=True), key=natural_key) or [argument]
        else:
            yield argument


def _lines(content: bytes) -> Iterator[str]:
    if b"\0" in content:  # find -print0: every other byte may be a part of a name
        yield from (os.fsdecode(name) for name in content.split(b"\0") if name)
        return
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if text := os.fsdecode(line.removesuffix(b"\r")).strip(" \t"):
            yield text


def _images_below(folder: str, recursive: bool) -> Iterator[str]:
    """Images of a folder; with `recursive` each folder's own files come before its subfolders."""

    def refuse(error: OSError) -> None:
        raise InputError(f"folder {path_text(current)}: cannot be read: {error.strerror}") from error

    visited = {os.path.realpath(folder)}  # links may lead in circles
    pending = [folder]
    while pending:
        current = pending.pop()
        # Of `walk` only the first step: it calls itself for each level, and folders can be deeper than Python's stack.
        _, folders, files = next(os.walk(current, onerror=refuse))
        for name in sorted(files, key=natural_key):
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield os.path.join(current, name)
        for name in sorted(folders, key=natural_key, reverse=True) if recursive else ():
            path = os.path.join(current, name)
            real_path = os.path.realpath(path)
            if real_path not in visited and not name.startswith("."):
                visited.add(real_path)
                pending.append(path)
