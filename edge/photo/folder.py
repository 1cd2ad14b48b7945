"""The pictures of a folder, and what else it holds."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .kinds import HEAD_BYTES, SUFFIXES, is_picture

_MAX_SUFFIXES = 6


@dataclass(frozen=True)
class Folder:
    """What a folder holds; hidden files and folders are left out."""

    pictures: list[str]
    """Names in natural order: files with the suffix of a picture, or with the first bytes of one."""
    folders: list[str]
    """Names in natural order."""
    others: Counter[str]
    """Suffix of the other files -> how many."""


def look_into(folder: str | os.PathLike[str]) -> Folder:
    """Looks at one folder. Only files without the suffix of a picture are opened: 100,000 photos cost no time.

    Raises:
      OSError: it cannot be read.
    """
    found = Folder([], [], Counter())
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                continue
            if _answers(entry.is_dir):
                found.folders.append(entry.name)
            elif suffix in SUFFIXES or (_answers(entry.is_file) and _begins_as_picture(entry.path)):
                found.pictures.append(entry.name)
            elif _answers(entry.is_file):
                found.others[suffix] += 1
    found.pictures.sort(key=natural_key)
    found.folders.sort(key=natural_key)
    return found


def natural_key(text: str) -> tuple[list[object], str]:
    """Sort key under which img2 comes before img10."""
    parts = re.split(r"([0-9]+)", text)
    return [(int(part), part) if i % 2 else part.lower() for i, part in enumerate(parts)], text


def left_out_line(others: Counter[str]) -> str:
    """One line on the files of a folder that are no pictures."""
    most = sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))[:_MAX_SUFFIXES]
    kinds = [f"{suffix[:12] or 'without suffix'} {count}" for suffix, count in most]
    if rest := others.total() - sum(count for _, count in most):
        kinds.append(f"others {rest}")
    what = "is no picture" if others.total() == 1 else "are no pictures"
    return f"{counted(others.total(), 'file')} that {what} left out: {', '.join(kinds)}"


def counted(count: int, noun: str) -> str:
    """A number and its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _answers(ask: Callable[[], bool]) -> bool:
    """What an entry of a folder says of itself; no where it cannot, as a link that leads in a circle."""
    try:
        return ask()
    except OSError:
        return False


def _begins_as_picture(path: str) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True  # its row will say why
    try:
        return is_picture(os.read(file, HEAD_BYTES))
    except BlockingIOError:
        return False  # a file of the kernel that waits for events
    except OSError:
        return True
    finally:
        os.close(file)
