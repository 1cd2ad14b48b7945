"""Whether the data of a decoded JPEG reach to the end of its picture.

libjpeg fills what it has no data for and only warns, and Pillow drops the warning. A file cut short and closed again
(by a camera, a recovery tool, an upload) therefore decodes "well", and so does one with zeros behind the cut.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO

from PIL import Image, ImageFile

from .jpeg import BLOCK_BYTES, END, Scan, Structure, read_structure
from .reasons import Refusal

_CLOSED = bytes((0xFF, END))
_RESTARTS = range(0xD0, 0xD8)
_ZEROS = bytes(64)
"""More than an arithmetic coder leaves out, whose decoder supplies them; a cut scan takes more."""

_PROBE = b"\xb6" + bytes((37 * i * i + 91 * i + 5) % 251 for i in range(4096))
"""Begins unlike the zeros that libjpeg invents; no 0xff, no period that a Huffman table could idle in."""


def proven(
    file: IO[bytes], image: ImageFile.ImageFile, data_start: int, structure: Structure | None
) -> ImageFile.ImageFile:
    """A decoded picture, or a second decoding of it where the first may lack data.

    Args:
      file: Where the decoder stopped.
      image: As Pillow decoded it. Its memory is given up for a second decoding.
      data_start: Where the header of the first scan ends.
      structure: Of a picture in several scans.

    Raises:
      Refusal: the data of a scan end too early, or in something else than the end of the picture.
    """
    is_grey = _ends_in_grey(image)
    if structure is None:
        if not is_grey and _has_end(file, data_start):
            return image
        structure = read_structure(file)
        if structure.problem is not None:
            raise Refusal(structure.problem)
        if not is_grey:
            return image
    elif not is_grey and not _shows_last_scan(image, structure):
        return image
    before = _checksum(image)
    again = type(image)(_rewound(file))
    again.decoderconfig = image.decoderconfig
    again._size = image.size
    again.tile = [tile._replace(extents=(0, 0, *image.size)) for tile in again.tile]
    image.close()
    blocks = _with_probes(file, structure)
    if structure.is_arithmetic:  # libjpeg wants such a picture in one block
        blocks = iter([b"".join(blocks)])
    again.load_read = lambda num_bytes: next(blocks, b"")  # type: ignore[attr-defined]
    try:
        again.load()
    except (OSError, ValueError):
        before = -1
    if _checksum(again) != before:
        raise Refusal("truncated or corrupt: the JPEG data end before the picture does")
    return again


def _has_end(file: IO[bytes], data_start: int) -> bool:
    """Whether the picture is closed, as seen in the last bytes that the decoder took: it does without, if more follow.

    Where a file is cut and zeros follow, as after a broken copy, they decode as a picture.
    """
    position = file.tell()
    file.seek(position - 2)
    if file.read(2) == _CLOSED:
        return True
    start = max(data_start, position - BLOCK_BYTES)
    file.seek(start)
    return _CLOSED in file.read(position + 16 - start)


def _ends_in_grey(image: Image.Image) -> bool:
    """Whether the last pixel is what libjpeg fills missing data with."""
    last = image.getpixel((image.width - 1, image.height - 1))
    bands = last if isinstance(last, tuple) else (last,)
    return all(band in (127, 128) for band in bands)  # 127: CMYK is stored inverted


def _shows_last_scan(image: ImageFile.ImageFile, structure: Structure) -> bool:
    """Whether the last of several scans changes pixels: not one of details in a picture at 1/8, which has none.

    libjpeg scales components of lower resolution less, so these keep details.
    """
    last, sampling = structure.scans[-1], structure.sampling()
    is_full = all(sampling[component] == max(sampling.values()) for component in last.components)
    return not (is_full and last.first > 0 and image.decoderconfig[:1] == (8,))


def _with_probes(file: IO[bytes], structure: Structure) -> Iterator[bytes]:
    """The picture with more data behind each scan: only a decoder that runs out of data reads them.

    At the end of a restart interval it looks for the next restart marker and skips all else.
    """
    position = 0
    for scan in structure.scans:
        probe = _probe(scan, structure)
        if probe and scan.restart_interval:
            probe += bytes((0xFF, _next_restart(file, scan))) + _PROBE
        file.seek(position)
        while position < scan.end and (block := file.read(min(scan.end - position, BLOCK_BYTES))):
            position += len(block)
            yield block
        yield probe
    yield _CLOSED


def _probe(scan: Scan, structure: Structure) -> bytes:
    """What must not change the picture.

    An arithmetic coder leaves out the zeros at the end of a scan: few, but for the last bits of DC coefficients, each
    of which takes a bit of the data. These are not probed.
    """
    if not structure.is_arithmetic:
        return _PROBE
    return b"" if scan.first == 0 and scan.high_bit else _ZEROS + _PROBE


def _next_restart(file: IO[bytes], scan: Scan) -> int:
    """Code of the restart marker that would follow the last one of a scan."""
    end = scan.end
    while end > scan.start:
        start = max(scan.start, end - BLOCK_BYTES)
        file.seek(start)
        data = file.read(end - start)
        last, code = max((data.rfind(bytes((0xFF, code))), code) for code in _RESTARTS)
        if last >= 0:
            return _RESTARTS[(code + 1) % 8]
        end = start + 1 if start > scan.start else start
    return _RESTARTS[0]


def _checksum(image: Image.Image) -> int:
    """Of the pixels, without a copy of them all."""
    checksum = 0
    for top in range(0, image.height, 64):
        strip = image.crop((0, top, image.width, min(top + 64, image.height)))
        checksum = zlib.crc32(strip.tobytes(), checksum)
    return checksum


def _rewound(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    return file
