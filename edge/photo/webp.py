"""What a WebP takes, from its first bytes. Source: RFC 9649, sections 2.3 to 2.7."""

from __future__ import annotations

from typing import IO

from .reasons import file_bytes


def canvas_size(head: bytes) -> tuple[int, int]:
    """(width, height); (0, 0) where the first chunk is none that gives them."""
    kind = head[12:16]
    if kind == b"VP8X" and len(head) >= 30:
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(head) >= 30:
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return 0, 0


def own_bytes(file: IO[bytes], head: bytes) -> int:
    """Length of the file without what follows its picture."""
    return min(8 + int.from_bytes(head[4:8], "little"), file_bytes(file))


def decoding_bytes(size: tuple[int, int], num_bytes: int) -> int:
    """Peak memory: two canvases, the frame's bytes and the image; three copies of the file."""
    return 16 * size[0] * size[1] + 3 * num_bytes
