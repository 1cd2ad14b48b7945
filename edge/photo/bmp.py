"""Whether the runs of a compressed BMP give all of its pixels.

Runs may skip pixels, which Pillow leaves black, and Pillow decodes them in Python, two seconds a megapixel.
"""

from __future__ import annotations

from typing import IO

from PIL import ImageFile

from .reasons import Refusal

MAX_RUN_PIXELS = 1_000_000
"""Pixels of a BMP in runs: Pillow would keep all threads from working for longer."""
_RUNS_OF_8_BITS, _RUNS_OF_4_BITS = 1, 2


def check_runs(file: IO[bytes], image: ImageFile.ImageFile) -> None:
    """Of a BMP whose header has been read, before its pixels are decoded.

    Raises:
      Refusal: compressed, and too large or without some pixels.
    """
    compression = image.info.get("compression")
    if compression not in (_RUNS_OF_8_BITS, _RUNS_OF_4_BITS):
        return
    num_pixels = image.width * image.height
    if num_pixels > MAX_RUN_PIXELS:
        most = f"{MAX_RUN_PIXELS / 1e6:.1f}"
        raise Refusal(f"run-length-coded BMP of {num_pixels / 1e6:.1f} megapixels, at most {most}: convert it to PNG")
    before = file.tell()
    file.seek(image.tile[0].offset)
    data = file.read(4 * num_pixels + 4 * image.height)
    file.seek(before)
    given = column = position = 0
    while given < num_pixels and position + 2 <= len(data):
        count, value = data[position : position + 2]
        position += 2
        if count:  # a run, up to the end of the row
            count = min(count, max(0, image.width - column))
        elif value > 2:  # pixels as they are, to an even number of bytes
            count = value
            num_bytes = value if compression == _RUNS_OF_8_BITS else (value + 1) // 2
            position += num_bytes + num_bytes % 2
        elif value or given % image.width:  # end of the picture, step over pixels, early end of a row
            break
        else:
            column = 0
            continue
        given += count
        column += count
    if given < num_pixels or position > len(data) + 1:
        raise Refusal("BMP whose runs leave out pixels: it is truncated, or convert it to PNG")
