"""Whether a PNG has all of its rows, and how much else it holds.

Pillow leaves rows black that a finished stream does not have, where libpng refuses the file.
Source: PNG specification (third edition), 5 and 8.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO

from PIL import ImageFile

from .reasons import MAX_METADATA_BYTES, TOO_MUCH_METADATA, Refusal, file_bytes

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type -> samples of a pixel."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of interlacing: first column, first row, columns and rows apart."""
_BLOCK_BYTES = 1 << 16


def lacks_rows(file: IO[bytes], image: ImageFile.ImageFile) -> bool:
    """Whether a decoded PNG's data end before its picture does.

    Rows come from top to bottom, so one pixel of the last proves all. Where that row is zero, as missing ones are, or
    rows come in several passes, the data are counted.
    """
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    if "interlace" not in image.info and last_row.tobytes().strip(b"\0"):
        return False
    header, left = b"", 0
    stream = zlib.decompressobj()
    for kind, position, length in _chunks(file):
        file.seek(position)
        if kind == b"IHDR":
            header = file.read(min(length, 13))
            left = _data_bytes(header)
        while kind == b"IDAT" and length > 0 and left > 0 and (data := file.read(min(length, _BLOCK_BYTES))):
            length -= len(data)
            while data and left > 0 and not stream.eof:
                left -= len(stream.decompress(data, 1 << 20))
                data = stream.unconsumed_tail
    return left > 0


def check_metadata(file: IO[bytes]) -> None:
    """Of a file at its beginning: Pillow keeps all that is beside its picture, and more data than that can have.

    Raises:
      Refusal: these are over `MAX_METADATA_BYTES`.
    """
    if file_bytes(file) <= MAX_METADATA_BYTES:
        return
    others = data = needed = 0
    for kind, position, length in _chunks(file):
        if kind == b"IHDR":
            file.seek(position)
            needed = _data_bytes(file.read(min(length, 13)))
        if kind == b"IDAT":
            data += length
        else:
            others += 12 + length
        if others + max(0, data - needed - needed // 64 - _BLOCK_BYTES) > MAX_METADATA_BYTES:
            raise Refusal(TOO_MUCH_METADATA)
    file.seek(0)


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """(type, position of its data, bytes) of each chunk up to the end of the first picture."""
    position, has_data = 8, False
    while True:
        file.seek(position)
        head = file.read(8)
        kind = head[4:]
        if not kind.isalpha() or kind == b"IEND" or (has_data and kind == b"fcTL"):
            return
        has_data = has_data or kind == b"IDAT"
        length = int.from_bytes(head[:4], "big")
        yield kind, position + 8, length
        position += 12 + length


def _data_bytes(header: bytes) -> int:
    """Bytes of all rows, each behind the byte of its filter, from the data of the chunk IHDR."""
    if len(header) < 13:
        return 0
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * _CHANNELS.get(header[9], 4)
    passes = _PASSES if header[12] else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
