"""Kinds of picture files, by suffix and by first bytes: those that are read, and those that an error row only names."""

from __future__ import annotations

import re

HEAD_BYTES = 132
"""How much of a file's beginning tells its kind."""

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .pjpeg .mpo .png .webp .bmp .dib .tif .tiff "  # read
    ".gif .heic .heif .hif .avif .jp2 .j2k .jxl .dng .cr2 .cr3 .nef .arw".split()  # named in an error row
)
"""Files that count as pictures whatever they hold, in lower case: one that is empty or cut has to be reported."""

_READ = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes; "BM" alone also begins a table of BMI
_NAMED = (  # (first bytes, name)
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"8BPS\0", "PSD"),
    (b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (b"IIRO", "camera raw (ORF)"),
    (b"IIU\0", "camera raw (RW2)"),
)
_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF", b"crx ": "camera raw (CR3)",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1"), "HEIC"),
}  # fmt: skip
_PNM = re.compile(rb"P[1-6]\n[0-9#]|P7\n")


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so is of a format that is read, or of one that `foreign_name` names."""
    if head.startswith(_READ) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return True
    is_bmp = head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    return is_bmp or foreign_name(head) is not None


def foreign_name(head: bytes) -> str | None:
    """Name of the picture format that is not read, of a file that begins so; None where it is another or no picture."""
    if head[4:8] == b"ftyp":  # a box of brands: the main one, its version, those it is compatible with
        brands = head[8 : min(len(head), int.from_bytes(head[:4], "big"))]
        return next((_BRANDS[b] for i in (0, *range(8, len(brands), 4)) if (b := brands[i : i + 4]) in _BRANDS), None)
    if head[128:132] == b"DICM":
        return "DICOM"
    if _PNM.match(head):
        return "PNM"
    return next((name for magic, name in _NAMED if head.startswith(magic)), None)
