"""JPEG checks that Pillow does not offer: whether libjpeg must hold all of a file, whether its data end too early."""

from __future__ import annotations

import io
import re
from typing import IO

from PIL import Image, ImageFile

MAX_SCANS = 100
"""Scans of a progressive JPEG that are decoded: encoders write about 10, an attacker 2,000 in 300 kB."""


def has_several_scans(file: IO[bytes], image: ImageFile.ImageFile) -> bool:
    """Whether libjpeg must hold all coefficients: a progressive file, or a first scan without all components."""
    if "progressive" in image.info:
        return True
    num_components = len(getattr(image, "layer", ()))
    length = 6 + 2 * num_components  # of the scan's header, which Pillow has just read
    position = file.tell()
    file.seek(max(0, position - length))
    header = file.read(3)
    file.seek(position)
    return header != bytes((0, length, num_components))


def count_scans(file: IO[bytes]) -> int:
    """Start-of-scan markers of the whole file; an embedded thumbnail may add its own."""
    position = file.tell()
    file.seek(0)
    num_scans = file.read().count(b"\xff\xda")
    file.seek(position)
    return num_scans


# libjpeg fills what it has no data for with mid-grey and only warns, and Pillow drops the warning. A file cut
# short and closed again (by a camera, a recovery tool, an upload) therefore decodes "well", grey at the bottom.
# Such a picture ends in exact mid-grey, which is rare enough to afford a second look.

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_PROBE = bytes((37 * i * i + 91 * i + 5) % 251 for i in range(4096))  # no 0xff, no period a Huffman table could idle in


def ends_in_grey(image: Image.Image) -> bool:
    """Whether the last pixel is what libjpeg fills missing data with."""
    last = image.getpixel((image.width - 1, image.height - 1))
    bands = last if isinstance(last, tuple) else (last,)
    return all(band in (127, 128) for band in bands)  # 127: CMYK is stored inverted


def is_cut_short(file: IO[bytes], image: Image.Image) -> bool:
    """Whether the decoder ran out of data: then, and only then, more data before the end change the picture."""
    file.seek(0)
    data = file.read()
    position, restart_interval = 2, 0
    while (marker := _MARKER.search(data, position)) is not None:
        code = marker[1][0]
        if code == 0xD9:
            break
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        if code == 0xDD:
            restart_interval = int.from_bytes(data[marker.end() + 2 : marker.end() + 4], "big")
        position = marker.end() + max(length, 2)
    if marker is None:
        return False
    before, after = data[: marker.start()], data[marker.start() :]
    probes = [_PROBE]
    if restart_interval:  # at the end of an interval the decoder looks for the next restart marker and skips all else
        last, code = max((before.rfind(bytes((0xFF, code))), code) for code in range(0xD0, 0xD8))
        probes.append(bytes((0xFF, 0xD0 if last < 0 else 0xD0 + (code - 0xD0 + 1) % 8)) + _PROBE)
    return any(_decodes_otherwise(before + probe + after, image) for probe in probes)


def _decodes_otherwise(content: bytes, image: Image.Image) -> bool:
    """Whether a JPEG, decoded at the scale of `image`, gives other pixels or none."""
    from PIL.JpegImagePlugin import JpegImageFile

    other = JpegImageFile(io.BytesIO(content))
    other.decoderconfig = image.decoderconfig  # type: ignore[attr-defined]
    other._size = image.size
    other.tile = [tile._replace(extents=(0, 0, *image.size)) for tile in other.tile]
    try:
        other.load()
    except (OSError, ValueError):
        return True
    return other.tobytes() != image.tobytes()
