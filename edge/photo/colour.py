"""The colours of a decoded picture: any mode -> 8 bits a channel, and what its file says of its colours -> sRGB.

A network knows numbers, not colours: (200, 120, 90) of Display P3, which phones write, is a redder skin than the same
numbers of sRGB. littleCMS, which Pillow's wheels carry, converts the small picture after scaling, by relative
colorimetry with black point compensation: what sRGB can show stays exactly as measured, where a perceptual table would
move every colour to taste, and black stays black, so prints keep their contrast. docs/decoding.md has the table of what
is converted, taken as sRGB, or refused.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import lru_cache, partial
from typing import IO, Any

from PIL import ExifTags, Image

from .reasons import Refusal

Convert = Callable[[Image.Image], Image.Image]
"""A picture of any size, mode as decoded -> RGB, or RGBA where it has transparency, in sRGB."""

MAX_PROFILE_BYTES = 4 << 20
"""Profiles of printers have up to 3 MB; a file can hold one of 16 MB, and the converter takes several times that."""

_GREY, _INKS = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"), ("CMYK",)
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile -> Pillow's mode
_CLASSES = ("scnr", "mntr", "prtr", "spac")  # of profiles: not links between devices, abstract or named colours

Primaries = tuple[float, float, float, float, float, float, float, float]
"""x and y of white, red, green and blue."""

_D65 = (0.3127, 0.3290)
_SRGB: Primaries = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_ADOBE_RGB: Primaries = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_CICP_PRIMARIES: dict[int, Primaries] = {  # Source: ITU-T H.273, table 2
    1: _SRGB,
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
_CICP_GAMMAS: dict[int, float | None] = {4: 2.2, 5: 2.8, 8: 1.0, 13: None}  # Source: table 3; None: sRGB's curve


def to_8_bit(image: Image.Image, *, keep_inks: bool = False) -> Image.Image:
    """Any mode Pillow decodes -> RGB, L or RGBA, or CMYK where that is to be kept.

    Raises:
      Refusal: the values have no defined range (32-bit integers, float).
    """
    mode = image.mode
    if mode.startswith("I;16"):
        return _shift_16_bit(image)
    if image.has_transparency_data:
        return image if mode == "RGBA" else image.convert("RGBA")
    if mode in ("RGB", "L") or (mode == "CMYK" and keep_inks):
        return image
    if mode in ("1", "P", "CMYK", "YCbCr", "RGBX"):
        return image.convert("L" if mode == "1" else "RGB")
    raise Refusal(f"pixel format {mode!r} has no defined 8-bit form: save it as 8-bit RGB")


def _shift_16_bit(image: Image.Image) -> Image.Image:
    """16-bit grey -> 8-bit by dropping the low byte; Pillow's own conversion saturates at 255 instead."""
    import numpy as np

    grey = np.asarray(image)
    tags = getattr(image, "tag_v2", {})  # of a TIFF: Pillow leaves 12 bits, and white at zero, as stored
    high = grey >> (4 if tags.get(258) == (12,) else 8)
    shifted = Image.fromarray((255 - high if tags.get(262) == 0 else high).astype(np.uint8))
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return shifted
    shifted.putalpha(Image.fromarray((grey != key).astype(np.uint8) * np.uint8(255)))
    return shifted.convert("RGBA")


def conversion(image: Image.Image, file: IO[bytes] | None = None) -> Convert | None:
    """What brings the colours of an opened picture to sRGB; None where they are sRGB, or nothing usable says otherwise.

    Args:
      image: As opened, its pixels need not be decoded.
      file: Of the picture, at any position, which is kept.

    Raises:
      Refusal: the colours cannot be converted, and why.
    """
    profile = _profile(image, file)
    if not profile:
        return None
    if len(profile) > MAX_PROFILE_BYTES:
        raise Refusal(f"its colour profile has {len(profile)} bytes, at most {MAX_PROFILE_BYTES} are read")
    space = "GRAY" if image.mode in _GREY else "CMYK" if image.mode in _INKS else "RGB"
    found = _transform(profile)
    if found is None or found[0] != space and (found[0], space) != ("RGB", "GRAY"):
        return None
    return partial(_convert, *found)


def _convert(space: str, transform: Any, image: Image.Image) -> Image.Image:
    """Applies a transform of ImageCms to a picture as decoded."""
    mode = _MODES[space]
    # Grey under a profile of RGB is RGB of three equal channels; grey with transparency was decoded as RGBA.
    colours = image if image.mode == mode else image.getchannel(0) if mode == "L" else image.convert(mode)
    converted: Image.Image = transform.apply(colours)
    converted.info.clear()  # that of sRGB, which nobody needs
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


def _profile(image: Image.Image, file: IO[bytes] | None) -> bytes | None:
    """The ICC profile of a picture, or one made of what else the file says. Source: PNG 3rd edition, 4.3; DCF 2.0."""
    info = image.info
    if image.format == "PNG" and file is not None and (cicp := _cicp(file)) is not None:
        primaries, transfer, _, is_full = cicp
        if primaries in _CICP_PRIMARIES and transfer in _CICP_GAMMAS and is_full:
            return _rgb_profile(_CICP_PRIMARIES[primaries], _CICP_GAMMAS[transfer])
        kind = f"primaries {primaries}, transfer {transfer}, {'full' if is_full else 'narrow'} range"
        raise Refusal(f"its colours (cICP: {kind}) are those of HDR or video: save it as sRGB")
    if image.format == "BMP" and file is not None and (profile := _bmp_profile(file)):
        return profile
    if profile := info.get("icc_profile") or _late_profile(image):
        return profile if isinstance(profile, bytes) else None
    if "srgb" not in info and ("gamma" in info or "chromaticity" in info):  # PNG's, also of a copy
        return _of_png(info.get("gamma"), info.get("chromaticity"))
    if _is_adobe_rgb(image):
        return _rgb_profile(_ADOBE_RGB, 563 / 256)
    return None


def _late_profile(image: Image.Image) -> bytes | None:
    """The profile that follows the frame's header in a JPEG, of which Pillow keeps the pieces alone."""
    pieces: list[bytes] = sorted(getattr(image, "icclist", ()))
    is_whole = bool(pieces) and pieces[0][13:14] == bytes((len(pieces),))  # the pieces say how many they are
    return b"".join(piece[14:] for piece in pieces) if is_whole else None


def _cicp(file: IO[bytes]) -> tuple[int, int, int, int] | None:
    """The four numbers of a PNG's cICP chunk, which Pillow does not read; only headers of the chunks before it are."""
    position = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"PLTE"):
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"cICP":
                body = file.read(4)
                return (body[0], body[1], body[2], body[3]) if length == len(body) == 4 else None
            file.seek(length + 4, io.SEEK_CUR)
        return None
    finally:
        file.seek(position)


def _bmp_profile(file: IO[bytes]) -> bytes | None:
    """The profile in a BMP, which Pillow does not read. Source: BITMAPV5HEADER."""
    position = file.tell()
    try:
        file.seek(14)
        header = file.read(124)
        if len(header) < 124 or header[56:60] != b"DEBM":
            return None
        offset, size = struct.unpack_from("<II", header, 112)
        file.seek(14 + offset)
        return file.read(min(size, MAX_PROFILE_BYTES + 1))
    finally:
        file.seek(position)


def _of_png(gamma: Any, chromaticity: Any) -> bytes | None:
    """The profile of the chunks gAMA and cHRM; None where they mean sRGB, which most writers do, or nothing."""
    primaries = chromaticity or _SRGB
    if max(abs(a - b) for a, b in zip(primaries, _SRGB, strict=True)) <= 0.01:
        primaries = _SRGB
    # 0.45455 stands for the curve of sRGB; libpng takes what is within 5 % of it for the same.
    is_srgb_curve = not gamma or abs(gamma / 0.45455 - 1) <= 0.05
    if is_srgb_curve and primaries == _SRGB:
        return None
    return _rgb_profile(tuple(primaries), None if is_srgb_curve else 1 / gamma)


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether EXIF says Adobe RGB: by DCF's "R03", as cameras set to it write without a profile, or ColorSpace 2."""
    raw = image.info.get("exif")
    # Parsing EXIF would cost a hundred microseconds; without these bytes there is no such entry.
    if not isinstance(raw, bytes) or b"R03" not in raw and not any(two in raw[:4096] for two in _COLOR_SPACE_2):
        return False
    try:
        exif = image.getexif()
        space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        return space == 2 or space != 1 and exif.get_ifd(ExifTags.IFD.Interop).get(1) == "R03"
    except Exception:  # broken EXIF says nothing, whatever Pillow's parser raises on it
        return False


_COLOR_SPACE_2 = (b"\x01\xa0\3\0\1\0\0\0\2", b"\xa0\1\0\3\0\0\0\1\0\2")  # the entry, in both byte orders


@lru_cache(maxsize=8)
def _transform(profile: bytes) -> tuple[str, Any] | None:
    """(colour space, transform to sRGB) of an ICC profile; None where it means sRGB, or is broken.

    Workers share a transform: littleCMS only reads it.
    """
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space not in _MODES or source.profile.device_class not in _CLASSES:
            return None
        transform = ImageCms.ImageCmsTransform(
            source, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), _MODES[space], "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return None if space != "CMYK" and _changes_nothing(transform, _MODES[space]) else (space, transform)
    except ImportError as error:
        missing = "has a colour profile, and this Pillow has no littleCMS to convert it: install its wheel"
        raise Refusal(missing) from error
    except (OSError, ValueError, TypeError, AttributeError):
        return None  # a broken profile is none, as every browser has it: the network sees what people see


def _changes_nothing(transform: Any, mode: str) -> bool:
    """Whether a transform keeps colours within one of 255: a lattice of them, and all greys."""
    import numpy as np

    steps = np.arange(0, 256, 15, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    greys = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    colours = greys[None] if mode == "L" else np.concatenate([lattice, greys])[None]
    before = Image.fromarray(colours)
    after = transform.apply(before.convert(mode))
    return bool(np.abs(np.asarray(after).astype(np.int16) - colours).max() <= 1)


@lru_cache(maxsize=8)
def _rgb_profile(primaries: Primaries, exponent: float | None) -> bytes | None:
    """An ICC profile; `exponent` None: the curve of sRGB. None for numbers that are no colours. Source: ICC.1:2010."""
    import numpy as np

    try:
        xyz = [np.array((x / y, 1, (1 - x - y) / y)) for x, y in zip(primaries[::2], primaries[1::2], strict=True)]
        white, columns = xyz[0], np.stack(xyz[1:], -1)
        cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])  # Bradford
        d50 = np.array((0.9642, 1.0, 0.8249))
        to_d50 = np.linalg.inv(cone) @ np.diag((cone @ d50) / (cone @ white)) @ cone
        colorants = to_d50 @ columns * np.linalg.solve(columns, white)
        curve = (0, exponent) if exponent else (3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        para = b"para\0\0\0\0" + struct.pack(">HH", curve[0], 0) + _fixed(*curve[1:])
        tags = [(b"wtpt", b"XYZ \0\0\0\0" + _fixed(*d50))]
        tags += [(name, b"XYZ \0\0\0\0" + _fixed(*colour)) for name, colour in zip(_COLORANTS, colorants.T)]
        tags += [(name, para) for name in (b"rTRC", b"gTRC", b"bTRC")]
        table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
        for name, content in tags:
            table += name + struct.pack(">II", start + len(body), len(content))
            body += content
        head = struct.pack(">I4xI", start + len(body), 0x04200000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
        return (head + _fixed(*d50)).ljust(128, b"\0") + table + body
    except (ArithmeticError, ValueError, struct.error, np.linalg.LinAlgError):
        return None


_COLORANTS = (b"rXYZ", b"gXYZ", b"bXYZ")


def _fixed(*values: float) -> bytes:
    """Numbers as s15Fixed16."""
    return struct.pack(f">{len(values)}i", *(round(65536 * value) for value in values))
