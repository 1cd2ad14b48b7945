"""Structure of a JPEG, read from marker to marker: its kind, its scans, whether all are there.

All reads are bounded, and nothing behind the picture's end is read: a video, other pictures or empty space of any size
may follow.

Source: ITU-T T.81, annexes B (markers) and G (progressive scans).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import IO

from PIL import ImageFile

from .reasons import CUT, DAMAGED, MAX_METADATA_BYTES, Refusal, file_bytes, reason_of

MAX_SCANS = 100
"""Scans of a JPEG that are decoded: encoders write about 10, an attacker 2,000 in 300 kB."""

BLOCK_BYTES = 1 << 16
_MAX_MARKERS = 10_000
END, _TEMPORARY, _START_OF_SCAN, _RESTART_INTERVAL = 0xD9, 0x01, 0xDA, 0xDD
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE, _LOSSLESS = 0xC2, 0xC3
_ARITHMETIC, _PROGRESSIVE_ARITHMETIC = 0xC9, 0xCA
_DECODED = (0xC0, 0xC1, _PROGRESSIVE, _LOSSLESS, _ARITHMETIC, _PROGRESSIVE_ARITHMETIC)
_OTHER_KINDS = {0xDE: "hierarchical JPEG", 0xF7: "JPEG-LS"}
_SEGMENTS = _FRAMES | {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
"""Markers that have a length, of those that libjpeg takes."""

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


@dataclass(frozen=True)
class Scan:
    """One pass over the picture: some coefficients of some components."""

    components: bytes
    first: int
    last: int
    """Coefficients 0 to 63."""
    high_bit: int
    """How many of their bits earlier scans have left; 0 where there was none."""
    low_bit: int
    """How many of their bits are left to later scans."""
    restart_interval: int
    start: int
    end: int
    """Where its data lie in the file."""


@dataclass
class Structure:
    """What the markers of a JPEG say."""

    frame: int = 0
    """Code of the frame's marker; 0 without one."""
    header: bytes = b""
    """Of the frame: bits of a sample, height, width, and three bytes for each component."""
    scans: list[Scan] = field(default_factory=list)
    first_scan: int = 0
    """Where the first scan begins."""
    problem: str | None = None
    """Why there is no end of the picture."""

    @property
    def is_arithmetic(self) -> bool:
        """Coded without Huffman tables."""
        return self.frame in (_ARITHMETIC, _PROGRESSIVE_ARITHMETIC)

    def sampling(self) -> dict[int, int]:
        """Component -> its sampling factors, in one byte."""
        return dict(zip(self.header[6::3], self.header[7::3], strict=False))


def frame_of(file: IO[bytes], image: ImageFile.ImageFile) -> tuple[bool, bool]:
    """(whether libjpeg must hold all of the picture, whether it can scale it).

    It holds what comes in several scans: progressive, or the first scan is without some components; an arithmetic-coded
    picture is taken for one. Looks at what lies
    before the position of `file`, whose header Pillow has just read.

    Raises:
      Refusal: a kind of JPEG that is not decoded.
    """
    position, num_components = file.tell(), len(getattr(image, "layer", ()))
    scan_bytes = 6 + 2 * num_components
    frame = bytes((0, 8 + 3 * num_components, 8)) + image.height.to_bytes(2, "big") + image.width.to_bytes(2, "big")
    file.seek(max(0, position - 1024))
    header = file.read(min(position, 1024))
    file.seek(position)
    found = header.rfind(frame)
    code = header[found - 1] if found > 0 else read_structure(file, max_scans=0).frame
    if code in _FRAMES and code not in _DECODED:
        raise Refusal(f"{_OTHER_KINDS[0xDE]} is not supported: convert it to PNG")
    is_whole = header[-scan_bytes:][:3] == bytes((0, scan_bytes, num_components))
    return code not in (0xC0, 0xC1) or not is_whole, code != _LOSSLESS


def read_structure(file: IO[bytes], *, max_scans: int = MAX_SCANS + 1) -> Structure:
    """Walks the markers to the end of the picture or behind so many scans. The position of `file` stays."""
    before = file.tell()
    structure = Structure()
    structure.problem = _walk(file, structure, max_scans)
    file.seek(before)
    return structure


def _walk(file: IO[bytes], structure: Structure, max_scans: int) -> str | None:
    position, restart_interval = 2, 0
    for _ in range(_MAX_MARKERS):
        marker = _next_marker(file, position, position + BLOCK_BYTES if structure.scans else MAX_METADATA_BYTES)
        if marker is None:
            return CUT
        start, code, position = marker
        if code == END:
            return None
        if code == _TEMPORARY:
            continue
        if code in _OTHER_KINDS:
            return f"{_OTHER_KINDS[code]} is not supported: convert it to PNG"
        if code not in _SEGMENTS:
            return f"damaged: ff {code:02x} at byte {start} is no part of a JPEG, copy it again or save it anew"
        file.seek(position)
        length = max(2, int.from_bytes(file.read(2), "big"))
        body = file.read(length - 2) if code in _FRAMES or code in (_START_OF_SCAN, _RESTART_INTERVAL) else b""
        position += length
        if code in _FRAMES:
            structure.frame, structure.header = code, body
        elif code == _RESTART_INTERVAL:
            restart_interval = int.from_bytes(body[:2], "big")
        elif code == _START_OF_SCAN:
            structure.first_scan = structure.first_scan or position
            if len(structure.scans) == max_scans:
                return None
            end = _next_marker(file, position, position + _most_bytes(structure.header))
            if end is None:
                return CUT
            if len(body) < 4:
                return DAMAGED
            first, last, bits = body[-3:]
            scan = Scan(body[1:-3:2], first, last, bits >> 4, bits & 15, restart_interval, position, end[0])
            structure.scans.append(scan)
            position = end[0]
    return f"damaged: it has more than {_MAX_MARKERS} JPEG markers"


def _most_bytes(header: bytes) -> int:
    """More than the data of a scan can have: 27 bits a coefficient, and a zero behind each byte of 0xff."""
    height, width = int.from_bytes(header[1:3], "big"), int.from_bytes(header[3:5], "big")
    return 8 * len(header[6::3]) * (height + 32) * (width + 32)


def _next_marker(file: IO[bytes], position: int, limit: int) -> tuple[int, int, int] | None:
    """(start with its fill bytes, code, end) of the next marker that is no restart, or None up to `limit`."""
    file.seek(position)
    fill, num_bytes = b"", 64  # most follow at once
    while position < limit and len(fill) < BLOCK_BYTES and (block := file.read(num_bytes)):
        data, num_bytes = fill + block, BLOCK_BYTES
        if (found := _MARKER.search(data)) is not None:
            start = len(data[: found.end() - 1].rstrip(b"\xff"))
            return position + start, data[found.end() - 1], position + found.end()
        num_data = len(data.rstrip(b"\xff"))
        fill = data[num_data:]
        position += num_data
    return None


def check_metadata(file: IO[bytes]) -> None:
    """Of a file at its beginning: Pillow keeps all that is before the first scan.

    Raises:
      Refusal: no scan begins within `MAX_METADATA_BYTES`.
    """
    if file_bytes(file) > MAX_METADATA_BYTES and not read_structure(file, max_scans=0).first_scan:
        raise Refusal(f"has no picture data in its first {MAX_METADATA_BYTES / 1e6:.0f} MB")


def whole_structure(file: IO[bytes]) -> Structure:
    """Structure of a picture in several scans.

    Raises:
      Refusal: scans are missing, or are too many.
    """
    structure = read_structure(file)
    if len(structure.scans) > MAX_SCANS:
        raise Refusal(f"has more than {MAX_SCANS} scans, and each costs as much time as a picture: save it anew")
    if structure.problem is not None:
        raise Refusal(structure.problem)
    left = {component: bytearray(b"\xff" * 64) for component in structure.sampling()}
    for scan in structure.scans:
        first, last, low_bit = scan.first, min(scan.last, 63), scan.low_bit
        if structure.frame not in (_PROGRESSIVE, _PROGRESSIVE_ARITHMETIC):
            first, last, low_bit = 0, 63, 0
        for component in scan.components:
            if component in left and first <= last:
                left[component][first : last + 1] = bytes([low_bit]) * (last + 1 - first)
    if no_data := sum(bits[0] == 0xFF for bits in left.values()):
        raise Refusal(f"truncated: {no_data} of its {len(left)} colour components have no data")
    if any(map(any, left.values())):
        raise Refusal("incomplete: its last scans are missing, copy it again or save it anew")
    return structure


def explanation(file: IO[bytes]) -> str:
    """Why a JPEG that Pillow refuses cannot be decoded."""
    try:
        structure = read_structure(file)
    except OSError as error:
        return reason_of(error)
    header = structure.header
    if len(header) >= 6:
        if header[0] != 8:
            return f"JPEG of {header[0]} bits a sample is not supported: save it with 8"
        if header[1:3] == b"\0\0":
            return "JPEG that gives its height only behind its data (DNL) is not supported: save it anew"
        if header[5] not in (1, 3, 4):
            return f"JPEG of {header[5]} components is not supported: expected 1 (grey), 3 (colour) or 4 (CMYK)"
    elif structure.problem is None:
        return "damaged: a JPEG without frame header"
    return structure.problem or DAMAGED
