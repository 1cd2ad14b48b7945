"""The images of a run: PATH arguments -> what to open, the names in the output, and their common root."""

from __future__ import annotations

import codecs
import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .errors import InputError
from .output_files import protect
from .photo.folder import counted, left_out_line, look_into, natural_key
from .predictions import from_path_text, path_text

_MARKS = (  # of UTF-32 first: the shorter mark of UTF-16 begins it
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
_MAX_PATH_BYTES = 4096


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
    """One line for each thing a person should know: what was left out, files met twice, folders without images."""
    num_unread: int
    """Folders that could not be read: their photos have no rows."""
    hints: dict[int, str]
    """Index of a path that does not exist -> what may be wrong with it, to stand behind the error of its row."""


def collect(arguments: Iterable[str], *, recursive: bool = False, root: str | None = None) -> Inputs:
    """Expands files, folders, glob patterns, "@list.txt" (a path per line) and "-" (the same from standard input).

    Files given by name are kept whatever they hold, also when they do not exist: each becomes a row. So is every entry
    of a list. Folders given as arguments give their images in natural order (img2 before img10), as `look_into` does;
    `recursive` searches them to the bottom. Relative paths are taken from the folder `root`, where there is one.

    Raises:
      InputError: nothing to do: no such path at all, or folders without images; or a list or `root` that cannot be
        read, or a list that is none.
    """
    if root is not None and not os.path.isdir(root):
        problem = "is no folder" if os.path.lexists(root) else "no such folder"
        raise InputError(f"--root {path_text(root)}: {problem}, expected the one that paths are relative to")
    arguments = [*arguments]
    protect(["/proc/self/fd/0" if name == "-" else name.removeprefix("@") for name in arguments])
    search = _Search(recursive)
    for argument, is_listed in _expand(arguments, root or ""):
        path = os.path.join(root or "", argument)
        if not is_listed and os.path.isdir(path):
            protect([path])
            search.add_folder(path)
            continue
        if is_listed and "\\x" in argument and not os.path.lexists(path):  # as a predictions file writes a name
            plain = os.path.join(root or "", from_path_text(argument))
            path = plain if os.path.lexists(plain) else path
        search.add_file(path, argument, is_relative=is_listed and not os.path.isabs(argument))
    search.check(has_root=root is not None)
    protect(search.paths)
    top = os.path.commonpath(search.anchors) if root is None else os.path.abspath(root)
    names = [path_text(os.path.relpath(os.path.abspath(path), top)).replace(os.sep, "/") for path in search.paths]
    remarks = [*search.remarks, *search.left_out()]
    return Inputs(search.paths, names, path_text(os.path.basename(top)), remarks, len(search.unread), search.hints)


def list_entries(content: bytes, where: str) -> list[str]:
    """Paths of a list: a line each, or with a zero byte behind each, as of `find -print0`.

    A byte order mark decides the encoding. Without one a list is UTF-8, or UTF-16 if every second byte of some
    characters is zero and all of it decodes to text. Blanks around the path of a line are left out.

    Raises:
      InputError: it is no text, and no paths between single zero bytes.
    """
    content = _as_utf8(content, where)
    if b"\0" not in content:
        lines = (os.fsdecode(line.removesuffix(b"\r")).strip(" \t") for line in content.split(b"\n"))
        return [line for line in lines if line]
    items = content.removesuffix(b"\0").split(b"\0")
    if not all(0 < len(item) <= _MAX_PATH_BYTES for item in items):
        raise InputError(f"{where}: is no list of paths (binary data), expected UTF-8 or UTF-16 text, a path per line")
    return [os.fsdecode(item) for item in items]  # any byte but zero may be a part of a name


@dataclass
class _Search:
    """What was found so far."""

    recursive: bool
    paths: list[str] = field(default_factory=list)
    anchors: list[str] = field(default_factory=list)  # absolute folders whose deepest common one is the root
    hints: dict[int, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    seen: set[tuple[str, str]] = field(default_factory=set)
    num_missing: int = 0
    num_twice: int = 0
    num_unsearched: int = 0
    num_relative: int = 0  # entries of lists
    num_relative_missing: int = 0

    def __post_init__(self) -> None:
        self.real_path = cache(os.path.realpath)

    def add_file(self, path: str, written: str, *, is_relative: bool) -> None:
        """A path given as it is, `written` so; `is_relative`: in a list, to the folder that relative paths are of."""
        self.anchors.append(os.path.dirname(os.path.abspath(path)))
        is_missing = not os.path.lexists(path)
        self.num_relative += is_relative
        self.num_relative_missing += is_relative and is_missing
        if self._add(path) and is_missing:
            self.num_missing += 1
            if hint := _hint(written):
                self.hints[len(self.paths) - 1] = hint

    def add_folder(self, folder: str) -> None:
        """The images of a folder; with `recursive` each folder's own come before those of its subfolders."""
        self.anchors.append(os.path.abspath(folder))
        visited = {os.path.realpath(folder)}  # links may lead in circles
        pending = [folder]
        before, unread_before, has_subfolders = len(self.paths) + self.num_twice, len(self.unread), False
        while pending:
            current = pending.pop()
            try:
                found = look_into(current)
            except OSError as error:
                self.unread.append(f"folder {path_text(current)}: cannot be read: {error.strerror or error}")
                continue
            self.others += found.others
            for name in found.pictures:
                self._add(os.path.join(current, name))
            if not self.recursive:
                self.num_unsearched += len(found.folders)
                has_subfolders = bool(found.folders)
                continue
            for name in reversed(found.folders):
                path = os.path.join(current, name)
                if (real_path := os.path.realpath(path)) not in visited:
                    visited.add(real_path)
                    pending.append(path)
        if len(self.paths) + self.num_twice == before and len(self.unread) == unread_before:
            hint = " (-r searches its subfolders)" if has_subfolders else ""
            self.remarks.append(f"no images in {path_text(folder)}{hint}")

    def _add(self, path: str) -> bool:
        """Whether it is new."""
        folder, name = os.path.split(path)
        entry = self.real_path(folder), name
        if entry in self.seen:
            self.num_twice += 1
            return False
        self.seen.add(entry)
        self.paths.append(path)
        return True

    def check(self, *, has_root: bool) -> None:
        """Whether there is anything to do, or an InputError."""
        hint = ""
        if not has_root and self.num_relative_missing * 2 > self.num_relative:
            hint = "paths of a list are relative to the current folder; edge-infer --root FOLDER takes them from FOLDER"
        if not self.paths:
            problems = [*self.unread, *self.remarks, *self.left_out(has_images=False)]
            raise InputError("; ".join(dict.fromkeys(problems)) or "no images given, expected at least one path")
        if self.num_missing == len(self.paths):
            more = f" (and {len(self.paths) - 1} more)" if len(self.paths) > 1 else ""
            hint = self.hints.get(0, "") + (f"; {hint}" if hint else "")
            raise InputError(f"no such path: {path_text(self.paths[0])}{more}{hint}")
        if hint:
            self.remarks.append(f"{self.num_relative_missing} of {self.num_relative} paths do not exist: {hint}")

    def left_out(self, *, has_images: bool = True) -> Iterator[str]:
        """One line for each kind of thing that has no row."""
        if has_images and self.unread:
            more = f" (and {len(self.unread) - 1} more)" if len(self.unread) > 1 else ""
            yield f"{self.unread[0]}{more}: its photos have no rows"
        if has_images and self.num_unsearched:
            yield f"{counted(self.num_unsearched, 'subfolder')} not searched (-r searches them)"
        if self.others:
            yield left_out_line(self.others)
        if self.num_twice:
            yield f"{self.num_twice} of the paths lead to a file met before: one row for each file"


def _expand(arguments: Iterable[str], root: str) -> Iterator[tuple[str, bool]]:
    """Each path, and whether it comes from a list."""
    for argument in arguments:
        exists = os.path.lexists(os.path.join(root, argument))
        if argument == "-":
            if sys.stdin is None:
                raise InputError("standard input is closed, expected a list of paths there")
            yield from ((path, True) for path in list_entries(sys.stdin.buffer.read(), "standard input"))
        elif argument.startswith("@") and not exists:
            where = f"list {path_text(argument[1:])}"
            try:
                content = Path(argument[1:]).read_bytes()
            except OSError as error:
                raise InputError(f"{where}: cannot be read: {error.strerror}") from error
            yield from ((path, True) for path in list_entries(content, where))
        elif glob.has_magic(argument) and not exists:
            found = glob.glob(argument, root_dir=root or None, recursive=True)
            yield from ((path, False) for path in sorted(found, key=natural_key) or [argument])
        else:
            yield argument, False


def _as_utf8(content: bytes, where: str) -> bytes:
    for mark, encoding in _MARKS[:-1]:
        if content.startswith(mark):
            try:
                return content[len(mark) :].decode(encoding).encode()
            except UnicodeError as error:
                raise InputError(f"{where}: begins as {encoding[:6].upper()}, but is damaged: {error}") from error
    content = content.removeprefix(codecs.BOM_UTF8)
    # Three letters in a row, which no names between zero bytes look like unless each has one letter.
    for encoding, first in (("utf-16-le", 1), ("utf-16-be", 0)) if b"\0" in content else ():
        if b"\0\0\0" in content[first::2]:
            try:
                text = content.decode(encoding)
                if "\0" not in text and not {"\n", ".", "/", "\\"}.isdisjoint(text):
                    return text.encode()
            except UnicodeError:
                pass
    return content


def _hint(written: str) -> str:
    if len(written) > 1 and written[0] == written[-1] and written[0] in "\"'":
        return "; paths are written without quotes"
    return "; folders are separated by /, not by \\" if "\\" in written else ""
