"""Image file or bytes -> pixels, at no more resolution than the network needs.

Pillow, because its wheels carry libjpeg-turbo with Neon, it releases the GIL while decoding, and its
`draft` reports the exact box of a scaled JPEG. A 24-megapixel photo scaled 1/8 by the decoder costs a
quarter of a full decode and 4 MiB instead of 96 (docs/decoding.md has the figures); what remains is
entropy decoding, which no library avoids.

The format is told by the first bytes, never by the suffix, and Pillow's plugin for it is called directly:
`Image.open` would apply a process-wide pixel limit, and changing that global would change the host program.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import IO, cast

from PIL import ExifTags, Image, ImageFile

from .errors import DecodeError

Source = str | os.PathLike[str] | bytes
"""An image: the path of a file, or the bytes of one."""

Admit = Callable[[int], None]
"""Called with the bytes that decoding will need, before they are taken. May wait; raises MemoryError to refuse.

See `edge.pipeline.MemoryGate`."""

SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff .heic .heif .avif".split())
"""Files of a folder that count as images, in lower case. HEIC and AVIF are among them to be reported, not ignored."""

_PLUGINS = (  # (magic bytes, offset, plugin module, class)
    (b"\xff\xd8\xff", 0, "JpegImagePlugin", "JpegImageFile"),
    (b"\x89PNG\r\n\x1a\n", 0, "PngImagePlugin", "PngImageFile"),
    (b"WEBP", 8, "WebPImagePlugin", "WebPImageFile"),
    (b"BM", 0, "BmpImagePlugin", "BmpImageFile"),
    (b"II*\0", 0, "TiffImagePlugin", "TiffImageFile"),
    (b"MM\0*", 0, "TiffImagePlugin", "TiffImageFile"),
    (b"II+\0", 0, "TiffImagePlugin", "TiffImageFile"),
    (b"MM\0+", 0, "TiffImagePlugin", "TiffImageFile"),
)
_EXPECTED = "expected JPEG, PNG, WebP, BMP or TIFF"


@dataclass(frozen=True)
class PixelLimits:
    """Largest pictures accepted, in pixels of the file's header, checked before any decoding."""

    any: int = 300_000_000
    """For every image. Only baseline JPEGs come near: the decoder scales them, a 20000x14000 grey one in 33 MiB."""
    full: int = 50_000_000
    """For what must be decoded whole: progressive JPEG, PNG, WebP, BMP, TIFF, or a JPEG at full size."""


@dataclass(frozen=True)
class Decoded:
    """A picture as the decoder left it."""

    image: Image.Image
    """Mode RGB, L or RGBA, not yet rotated, possibly reduced."""
    box: tuple[float, float, float, float]
    """(left, upper, right, lower) of the true picture inside `image`, in pixels of `image`.

    A scaled JPEG is ceil(W / d) wide although the picture covers only W / d of that."""
    width: int
    """Stored width of the file in pixels, before scaling and rotation."""
    height: int
    """Stored height of the file in pixels, before scaling and rotation."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 where the tag is absent or invalid."""


def decode(
    source: Source,
    *,
    needed_size: Callable[[int, int], tuple[int, int]] | None = None,
    limits: PixelLimits = PixelLimits(),
    admit: Admit | None = None,
) -> Decoded:
    """Decodes one image.

    Args:
      source: Path of a file, or its bytes.
      needed_size: (width, height) of the stored picture -> (width, height) that the result must keep on both
        sides. A JPEG is decoded at the smallest of 1/8, 1/4, 1/2, 1/1 that keeps it. None: always 1/1.
      limits: Largest accepted pictures.
      admit: Asked before the memory-hungry part, see `Admit`.

    Returns:
      The picture, with its exact box.

    Raises:
      DecodeError: the file is missing, unreadable, no image, too large, truncated or corrupt.
    """
    name = describe(source)
    with _open_binary(source, name) as file:
        image = _open_image(file, name)
        width, height = image.size

        def failure(reason: str) -> DecodeError:
            return DecodeError(name, reason, width=width, height=height)

        is_jpeg = image.format == "JPEG"
        box: tuple[float, float, float, float] = (0.0, 0.0, float(width), float(height))
        if is_jpeg and needed_size is not None:
            drafted = image.draft(None, needed_size(width, height))
            box = drafted[1] if drafted else box
        is_reduced = image.size != (width, height) and "progressive" not in image.info
        _check_size(width * height, is_reduced, limits, failure)

        if ImageFile.LOAD_TRUNCATED_IMAGES:  # a global of Pillow that some other library of the process may have set
            raise failure("Pillow is set to pass truncated images as whole: unset ImageFile.LOAD_TRUNCATED_IMAGES")
        try:
            if admit is not None:
                admit(_decoding_bytes(image, width, height))
            image.load()
        except Exception as error:  # Pillow raises most built-in types on hostile files
            raise failure(_pillow_reason(error)) from error
        if is_jpeg and _ends_in_grey(image) and _is_cut_short(file, image):
            raise failure("truncated or corrupt: the JPEG data end before the picture does")
        try:
            picture = _to_8_bit(image)
        except ValueError as error:
            raise failure(_pillow_reason(error)) from error
        return Decoded(picture, box, width, height, _orientation(image))


def describe(source: Source) -> str:
    """The name of a source in messages: its path as given, or "<bytes>"."""
    return "<bytes>" if isinstance(source, bytes) else os.fspath(source)


def _open_binary(source: Source, name: str) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        mode = os.stat(source).st_mode
        if stat.S_ISDIR(mode):
            raise DecodeError(name, "is a folder, expected an image file")
        if not stat.S_ISREG(mode):  # opening a named pipe would wait for ever
            raise DecodeError(name, "is no regular file, expected an image file")
        return open(source, "rb")
    except FileNotFoundError as error:
        raise DecodeError(name, "no such file") from error
    except (OSError, ValueError) as error:
        raise DecodeError(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _open_image(file: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Reads the header only."""
    try:
        head = file.read(64)
        file.seek(0)
    except OSError as error:
        raise DecodeError(name, f"cannot be read: {error.strerror or error}") from error
    if not head:
        raise DecodeError(name, f"the file is empty (0 bytes), {_EXPECTED}")
    for magic, offset, module, class_name in _PLUGINS:
        if head[offset : offset + len(magic)] == magic:
            try:
                plugin = getattr(import_module(f"PIL.{module}"), class_name)
                return cast(ImageFile.ImageFile, plugin(file))
            except Exception as error:  # the plugins raise most built-in types on hostile headers
                raise DecodeError(name, f"broken header: {_pillow_reason(error)}") from error
    raise DecodeError(name, f"{_what_is(head)}, {_EXPECTED}")


def _what_is(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        brand = "AVIF" if head[8:12] in (b"avif", b"avis") else "HEIC"
        if head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
            return f"{brand} is not supported: convert it to JPEG (phones: camera format 'most compatible')"
        return "a video file"
    if head[:4] == b"GIF8":
        return "GIF is not supported: convert it to PNG"
    text = head.lstrip()
    if text[:1] == b"<":
        return f"not an image but HTML or XML (starts with {text[:15].decode('ascii', 'replace')!r})"
    return f"not a known image format (starts with bytes {head[:8].hex(' ')})"


def _check_size(pixels: int, is_reduced: bool, limits: PixelLimits, failure: Callable[[str], DecodeError]) -> None:
    size = f"too large: {pixels / 1e6:.1f} megapixels, at most"
    if pixels > limits.any:
        raise failure(f"{size} {limits.any / 1e6:.1f} (see --max-pixels)")
    if not is_reduced and pixels > limits.full:
        raise failure(f"{size} {limits.full / 1e6:.1f} for an image that must be decoded whole (see --max-pixels-full)")


def _decoding_bytes(image: ImageFile.ImageFile, width: int, height: int) -> int:
    """Peak memory of decoding, in bytes: Pillow keeps 4 per pixel, a progressive JPEG 2 per coefficient."""
    total = 4 * image.size[0] * image.size[1]
    if image.format != "JPEG":
        return 2 * total  # conversion makes a second copy
    if "progressive" in image.info:
        sampling = [v * h for _, v, h, _ in getattr(image, "layer", ())]
        total += 2 * width * height * sum(sampling) // max([1, *sampling])
    return total


def _pillow_reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return text or "not enough memory to decode it"
    if "truncated" in text.lower():
        return f"truncated ({text})"
    return text or type(error).__name__


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Any mode Pillow decodes -> RGB, L or RGBA."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _shift_16_bit(image)
    if image.has_transparency_data:
        return image if mode == "RGBA" else image.convert("RGBA")
    if mode in ("RGB", "L"):
        return image
    if mode == "1":
        return image.convert("L")
    if mode in ("P", "CMYK", "YCbCr", "RGBX"):
        return image.convert("RGB")
    raise ValueError(f"pixel format {mode!r} has no defined 8-bit form: save it as 8-bit RGB")


def _shift_16_bit(image: Image.Image) -> Image.Image:
    """16-bit grey -> 8-bit by dropping the low byte; Pillow's own conversion saturates at 255 instead."""
    import numpy as np

    grey = np.asarray(image)
    shifted = Image.fromarray((grey >> 8).astype(np.uint8))
    key = image.info.get("transparency")
    if isinstance(key, int):
        shifted.putalpha(Image.fromarray(np.where(grey == key, 0, 255).astype(np.uint8)))
        return shifted.convert("RGBA")
    return shifted


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF says nothing about the pixels, whatever Pillow's parser raises on it
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


# libjpeg fills what it has no data for with mid-grey and only warns, and Pillow drops the warning. A file cut
# short and closed again (by a camera, a recovery tool, an upload) therefore decodes "well", grey at the bottom.
# Such a picture ends in exact mid-grey, which is rare enough to afford a second look.

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_PROBE = bytes((37 * i * i + 91 * i + 5) % 251 for i in range(4096))  # no 0xff, no period a Huffman table could idle in


def _ends_in_grey(image: Image.Image) -> bool:
    return image.getpixel((image.width - 1, image.height - 1)) in (128, (128, 128, 128))


def _is_cut_short(file: IO[bytes], image: Image.Image) -> bool:
    """Whether the decoder ran out of data: then, and only then, more data before the end change the picture."""
    from PIL.JpegImagePlugin import JpegImageFile

    file.seek(0)
    data = file.read()
    position = 2
    while (marker := _MARKER.search(data, position)) is not None:
        code = marker[1][0]
        if code == 0xD9:
            break
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        position = marker.end() + max(length, 2)
    if marker is None:
        return False
    padded = JpegImageFile(io.BytesIO(data[: marker.start()] + _PROBE + data[marker.start() :]))
    padded.decoderconfig = image.decoderconfig  # type: ignore[attr-defined]
    padded._size = image.size
    padded.tile = [tile._replace(extents=(0, 0, *image.size)) for tile in padded.tile]
    try:
        padded.load()
    except (OSError, ValueError):
        return True
    return padded.tobytes() != image.tobytes()
