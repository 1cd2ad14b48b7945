"""Why a picture is refused, in words that say what to do; Pillow's own are for programmers."""

from __future__ import annotations

import io
import os
from typing import IO

MAX_METADATA_BYTES = 16 << 20
"""Of a file, besides its picture: Pillow keeps most of it in memory. Real ones have a few megabytes."""

TOO_MUCH_METADATA = f"has more than {MAX_METADATA_BYTES / 1e6:.0f} MB beside its picture: save it without them"
CUT = "truncated: its data end before its picture does, copy it again"
DAMAGED = "damaged: its compressed data cannot be decoded, copy it again"

_SENTENCES = (  # (part of a message of Pillow in lower case, ours)
    ("truncated", CUT),
    ("not enough image data", CUT),
    ("data stream", DAMAGED),
    ("next frame", DAMAGED),
    ("could not create decoder", DAMAGED),
    ("buffer overrun", DAMAGED),
    ("broken png", DAMAGED),
    ("cannot load this image", "damaged: it has a header and no picture data"),
    ("not identified by this driver", "damaged: its header gives no size"),
    ("max_text", "has a text or a colour profile longer than Pillow reads: save it without"),
)


class Refusal(Exception):
    """What is wrong with a file, in one line for its owner."""


def reason_of(error: Exception, *, other: str = "") -> str:
    """One line for an error that Pillow, the operating system or this package has raised on a file.

    `other` comes before what is said in Pillow's words.
    """
    text = " ".join(str(error).split())
    if isinstance(error, Refusal):
        return text
    if isinstance(error, MemoryError):
        return text or "not enough memory to decode it"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {error.strerror}"
    sentences = (ours for part, ours in _SENTENCES if part in text.lower())
    return next(sentences, f"{other}{text}" if text else DAMAGED)


def file_bytes(file: IO[bytes]) -> int:
    """Length of an open file, or of one in memory."""
    return file.getbuffer().nbytes if isinstance(file, io.BytesIO) else os.fstat(file.fileno()).st_size
