"""TIFF checks that Pillow does not make: what samples mean, whether all strips or tiles are there, how large they are.

Pillow trusts a file's tags, and where libtiff or its own reader finds no data, the picture stays black or grey without
a word. The tags of the first picture are read here, at most so many bytes of them, before anything is decoded.
"""

from __future__ import annotations

import ctypes
import io
import math
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from PIL import Image, ImageFile, ImagePalette

from ..errors import DecodeError
from .reasons import DAMAGED, MAX_METADATA_BYTES, TOO_MUCH_METADATA, Refusal, reason_of

if TYPE_CHECKING:
    from .decode import Decoded

_MAX_PARTS = 200_000
"""Strips or tiles of a picture: one a row of the tallest picture that a scanner makes."""

_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q", 6: "b", 8: "h", 9: "i", 5: "II"}  # Source: TIFF 6.0, p. 15
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 256, 257, 258, 259, 262, 277, 284
_STRIP_OFFSETS, _ROWS, _STRIP_COUNTS = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_SUBFILE, _FILL_ORDER, _MAP, _INK_SET, _EXTRA, _SAMPLE_FORMAT, _JPEG_TABLES = 254, 266, 320, 332, 338, 339, 347
_COEFFICIENTS, _SUBSAMPLING, _DEPTH, _TILE_DEPTH, _DNG = 529, 530, 32997, 32998, 50706
_WANTED = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _STRIP_OFFSETS, _ROWS, _STRIP_COUNTS,
    _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _SUBFILE, _FILL_ORDER, _MAP, _INK_SET, _EXTRA,
    _SAMPLE_FORMAT, _COEFFICIENTS, _SUBSAMPLING, _DEPTH, _TILE_DEPTH, _DNG,
}

_RAW, _JPEG = 1, 7
_COMPRESSIONS = {_RAW, 5, _JPEG, 8, 32773, 32946, 34925, 50000}
"""None, LZW, JPEG, Deflate, PackBits, LZMA, Zstandard: those whose decoders stop where the data end too early."""
_OTHER_COMPRESSIONS = {
    2: "fax", 3: "fax", 4: "fax", 6: "old-style JPEG", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000",
    50001: "WebP", 50002: "JPEG XL",
}
_MEANINGS = {
    0: "grey, white is zero", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIE Lab",
    9: "ICC Lab", 10: "ITU Lab", 32803: "sensor mosaic", 34892: "linear raw",
}
_FORMATS = {2: "signed", 3: "float", 4: "undefined", 5: "complex", 6: "complex"}
_SAVE = "save it as 8-bit RGB without compression"


@dataclass(frozen=True)
class Layout:
    """How the first picture of a TIFF lies in its file."""

    photometric: int
    compression: int
    bits: int
    """Of a sample."""
    samples: int
    """Of a pixel."""
    size: tuple[int, int]
    """(width, height) of the stored picture."""
    is_tiled: bool
    part_size: tuple[int, int]
    """(width, height) of a strip or tile."""
    parts: list[tuple[int, int]]
    """(offset, bytes) of each strip or tile, left to right and down, plane by plane."""
    colour_map: tuple[int, ...]
    """Of a palette: all reds, all greens, all blues, 16-bit."""

    @property
    def part_bytes(self) -> int:
        """What libtiff takes for a strip or tile: its samples, RGBA of YCbCr, and coefficients of JPEG."""
        pixel = -(-self.samples * self.bits // 8) + 4 * (self.photometric == 6)
        return self.part_size[0] * self.part_size[1] * (pixel + 2 * self.samples * (self.compression == _JPEG))

    def rows_of(self, number: int) -> int:
        """Rows of a strip or tile; only the last strip of a plane has fewer than the others."""
        height, rows = self.size[1], self.part_size[1]
        down = -(-height // rows)
        return height - (down - 1) * rows if not self.is_tiled and number % down == down - 1 else rows

    def prepare(self, image: ImageFile.ImageFile) -> None:
        """Puts right what Pillow read of the header, before it decodes."""
        if self.photometric == 3 and max(self.colour_map) < 256:  # 8-bit values, of which Pillow takes the high byte
            image.palette = ImagePalette.raw("RGB;L", bytes(self.colour_map))

    def check_jpegs(self, file: IO[bytes], image: Image.Image, decode: Callable[[bytes], Decoded]) -> None:
        """Decodes each JPEG strip or tile once more as a file of its own: libtiff passes what libjpeg fills with grey.

        Raises:
          Refusal: one is cut or damaged, or has fewer pixels than its place.
        """
        tables: bytes = getattr(image, "tag_v2", {}).get(_JPEG_TABLES, b"")  # what they have in common
        for number, (offset, count) in enumerate(self.parts if self.compression == _JPEG else ()):
            file.seek(offset)
            content = file.read(count)
            try:
                width, height = decode(tables[:-2] + content[2:] if tables else content).size
            except DecodeError as error:
                raise Refusal(f"JPEG {number + 1} of {len(self.parts)} in it: {error.reason}") from error
            if width < self.part_size[0] or height < self.rows_of(number):
                raise Refusal(f"truncated: JPEG {number + 1} of {len(self.parts)} has too few pixels")

    def reason(self, said: str) -> str:
        """Why the picture cannot be read, of what Pillow said on its header or its data."""
        if "decoder error" in said:  # and nothing more: libtiff prints it
            return DAMAGED
        if "mode" not in said:
            return reason_of(OSError(said))
        meaning = _MEANINGS.get(self.photometric, f"photometric interpretation {self.photometric}")
        return f"TIFF of {self.samples} x {self.bits}-bit samples ({meaning}) is not supported: {_SAVE}"


def read_layout(file: IO[bytes], *, max_part_pixels: int) -> Layout:
    """The layout of a TIFF, whose position is kept.

    Raises:
      Refusal: the picture is of a kind that is not read, or not all of its data are there.
    """
    position = file.tell()
    try:
        tags = _read_tags(file)
        file_bytes = file.seek(0, io.SEEK_END)
    finally:
        file.seek(position)
    _check_kind(tags)
    size = _one(tags, _WIDTH), _one(tags, _HEIGHT)
    samples, bits = _one(tags, _SAMPLES, 1), max(tags.get(_BITS, (1,)))
    is_tiled = _TILE_WIDTH in tags or _TILE_OFFSETS in tags
    if is_tiled and _STRIP_OFFSETS in tags:
        raise Refusal("has both strips and tiles, expected one of them")
    if is_tiled:
        part_size, names = (_one(tags, _TILE_WIDTH), _one(tags, _TILE_HEIGHT)), (_TILE_OFFSETS, _TILE_COUNTS)
    else:
        part_size, names = (size[0], min(_one(tags, _ROWS, size[1]), size[1])), (_STRIP_OFFSETS, _STRIP_COUNTS)
    if min(*size, *part_size, samples, bits) < 1:
        raise Refusal("broken header: a size of zero")
    if part_size[0] * part_size[1] > max_part_pixels:
        raise Refusal(
            f"too large: a tile of {part_size[0] * part_size[1] / 1e6:.1f} megapixels, at most "
            f"{max_part_pixels / 1e6:.1f} for an image that must be decoded whole (see --max-pixels-full)"
        )
    offsets, counts = (tags.get(name, ()) for name in names)
    layout = Layout(
        _one(tags, _PHOTOMETRIC), _one(tags, _COMPRESSION, _RAW), bits, samples, size, is_tiled, part_size,
        list(zip(offsets, counts)), tags.get(_MAP, ()),
    )
    num_planes = samples if _one(tags, _PLANAR, 1) == 2 else 1
    expected = num_planes * math.prod(-(-whole // part) for whole, part in zip(size, part_size, strict=True))
    name = "tile" if is_tiled else "strip"
    if not expected == len(offsets) == len(counts):
        raise Refusal(f"truncated: {len(offsets)} {name}s with {len(counts)} lengths, expected {expected}")
    row_bytes = -(-part_size[0] * samples // num_planes * bits // 8)
    for number, (offset, count) in enumerate(layout.parts):
        needed = row_bytes * layout.rows_of(number) if layout.compression == _RAW else max(count, 1)
        if offset < 8 or count < needed or offset + needed > file_bytes:
            raise Refusal(f"truncated: {name} {number + 1} of {expected} is missing or cut off")
    return layout


def silence_libtiff() -> None:
    """Keeps libtiff from printing what rows say anyway: it is set for a whole process, so for a command to ask for."""
    with suppress(OSError, AttributeError):
        lines = Path("/proc/self/maps").read_text().splitlines()
        paths = {line.split(maxsplit=5)[-1] for line in lines if "/libtiff" in line}  # loaded with Pillow
        for path in paths:
            ctypes.CDLL(path).TIFFSetErrorHandler(None)


def _read_tags(file: IO[bytes]) -> dict[int, tuple[int, ...]]:
    """The tags of the first picture that are wanted; a rational as numerator and denominator."""
    file.seek(0)
    head = file.read(16)
    if head[:4] == b"MM\0+":  # Pillow reads it as if it were no BigTIFF
        raise Refusal(f"BigTIFF of this byte order is not supported: {_SAVE}")
    order = "<" if head[:2] == b"II" else ">"
    is_big = 43 in head[2:4]
    entry = struct.Struct(order + ("HHQ8s" if is_big else "HHI4s"))
    word, num_entries_type = (order + "Q", order + "Q") if is_big else (order + "I", order + "H")
    try:
        (start,) = struct.unpack_from(word, head, 8 if is_big else 4)
        file.seek(start)
        (num_entries,) = struct.unpack(num_entries_type, file.read(struct.calcsize(num_entries_type)))
        entries = file.read(min(num_entries, 65535) * entry.size)
        tags: dict[int, tuple[int, ...]] = {}
        num_bytes = 0  # of all tags: Pillow keeps them, several times
        for tag, kind, count, inline in entry.iter_unpack(entries[: len(entries) // entry.size * entry.size]):
            num_bytes += count * _TYPE_BYTES.get(kind, 0)
            if num_bytes > MAX_METADATA_BYTES:
                raise Refusal(TOO_MUCH_METADATA)
            if tag not in _WANTED or kind not in _TYPES:
                continue
            if tag in tags:
                raise Refusal(f"broken header: has the tag {tag} twice")
            if count > _MAX_PARTS:
                raise Refusal(f"has {count} values in the tag {tag}, at most {_MAX_PARTS}")
            values = struct.Struct(order + count * _TYPES[kind])
            content = inline
            if values.size > len(inline):
                file.seek(*struct.unpack(word, inline))
                content = file.read(values.size)
            tags[tag] = values.unpack_from(content)
        return tags
    except (struct.error, OSError, OverflowError) as error:
        raise Refusal("broken header: its tags are cut off") from error


def _one(tags: dict[int, tuple[int, ...]], tag: int, default: int = 0) -> int:
    return (tags.get(tag) or (default,))[0]


def _check_kind(tags: dict[int, tuple[int, ...]]) -> None:
    """Refuses what Pillow would read as something else."""
    if _DNG in tags:
        raise Refusal("DNG, a camera's raw data, is not supported: convert it to JPEG")
    if _one(tags, _SUBFILE) & 5:
        raise Refusal("its first picture is a preview or a mask, as of a camera's raw data: convert it to JPEG")
    if not (tags.get(_WIDTH) and tags.get(_HEIGHT) and tags.get(_PHOTOMETRIC)):
        raise Refusal("broken header: no size or no photometric interpretation")
    compression, photometric = _one(tags, _COMPRESSION, _RAW), _one(tags, _PHOTOMETRIC)
    if compression not in _COMPRESSIONS:
        name = _OTHER_COMPRESSIONS.get(compression, f"unknown ({compression})")
        raise Refusal(f"TIFF with {name} compression is not supported: {_SAVE}")
    for value in tags.get(_SAMPLE_FORMAT, ()):
        if value != 1:
            kind = _FORMATS.get(value, "unknown")
            raise Refusal(f"TIFF of {kind} samples has no defined 8-bit form: {_SAVE}")
    bits = tags.get(_BITS, (1,))
    if max(bits) > 16 or len(set(bits)) > 1:
        raise Refusal(f"TIFF of {'/'.join(map(str, bits[:8]))}-bit samples has no defined 8-bit form: {_SAVE}")
    if photometric == 5 and _one(tags, _INK_SET, 1) != 1:
        raise Refusal(f"TIFF of inks other than CMYK is not supported: {_SAVE}")
    if photometric == 3 and len(tags.get(_MAP, ())) != 3 << bits[0]:
        raise Refusal("broken header: its palette is missing or of another length than the bits ask for")
    samples, planes = _one(tags, _SAMPLES, 1), _one(tags, _PLANAR, 1)
    is_raw = compression == _RAW
    if samples > 6:  # Pillow would log it as well
        raise Refusal(f"TIFF of {samples} samples a pixel is not supported: {_SAVE}")
    has_odd_planes = planes != 2 or photometric not in (2, 5) or is_raw and (bits[0] > 8 or 0 in tags.get(_EXTRA, ()))
    if planes != 1 and samples > 1 and has_odd_planes:  # of which Pillow's own reader makes noise
        raise Refusal(f"TIFF of samples in planes of this kind is not supported: {_SAVE}")
    if _one(tags, _FILL_ORDER, 1) != 1 and (not is_raw or planes != 1):
        raise Refusal(f"TIFF of reversed bits in planes or compressed is not supported: {_SAVE}")
    if photometric == 2 and samples > 3 and len(tags.get(_EXTRA, ())) != samples - 3:
        raise Refusal(f"broken header: {samples} samples for RGB, and not said what the others are: {_SAVE}")
    if photometric == 6 and compression != _JPEG:  # Pillow's own reader knows one kind alone
        n = tags.get(_COEFFICIENTS, (299, 1000, 587, 1000, 114, 1000))
        is_usual = len(n) == 6 and all(abs(1000 * a - b * c) <= b for a, b, c in zip(n[::2], n[1::2], (299, 587, 114)))
        if _SUBSAMPLING not in tags or is_raw and (tags[_SUBSAMPLING] != (1, 1) or not is_usual):
            raise Refusal(f"TIFF of YCbCr of this kind is not supported: {_SAVE}")
    if _one(tags, _DEPTH, 1) != 1 or _one(tags, _TILE_DEPTH, 1) != 1:
        raise Refusal(f"TIFF of a volume is not supported: {_SAVE}")
