"""Image file, bytes or picture in memory -> pixels, at no more resolution than the network needs.

Pillow, because its wheels carry libjpeg-turbo with Neon, it releases the GIL while decoding, and its `draft` reports
the exact box of a scaled JPEG. A 24-megapixel photo scaled 1/8 by the decoder costs a quarter of a full decode and
4 MiB instead of 96 (docs/decoding.md has the figures); what remains is entropy decoding, which no library avoids.

The first bytes decide the format, never the suffix, and Pillow's plugin for it is called directly: `Image.open` would
apply a process-wide pixel limit, and changing that global would change the host program. (The plugins of WebP and TIFF
apply it all the same, above the limits here.)
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import IO, TYPE_CHECKING, Union, cast

from PIL import ExifTags, Image, ImageFile

from ..errors import DecodeError
from . import bmp, colour, jpeg, jpeg_proof, png, webp
from .kinds import HEAD_BYTES, foreign_name
from .reasons import CUT, Refusal, reason_of

if TYPE_CHECKING:
    import numpy as np

    from .tiff import Layout

Source = Union[str, os.PathLike[str], bytes, Image.Image, "np.ndarray"]
"""An image: the path of a file, the bytes of one, a PIL image, or an (H, W, 3) uint8 array of RGB."""

FILE_TYPES = (str, bytes, os.PathLike)
"""Of a source that is a file, or the bytes of one, and not a picture in memory."""

Admit = Callable[[int], None]
"""Called with the bytes that decoding will need. May wait; raises MemoryError to refuse. As of `MemoryGate`."""

_PLUGINS = (  # (magic bytes, offset, plugin module, class)
    (b"\xff\xd8\xff", 0, "JpegImagePlugin", "JpegImageFile"),
    (b"\x89PNG\r\n\x1a\n", 0, "PngImagePlugin", "PngImageFile"),
    (b"WEBP", 8, "WebPImagePlugin", "WebPImageFile"),
    (b"BM", 0, "BmpImagePlugin", "BmpImageFile"),
    *((magic, 0, "TiffImagePlugin", "TiffImageFile") for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)
_CHECK_METADATA = {"JpegImageFile": jpeg.check_metadata, "PngImageFile": png.check_metadata}
"""Of the plugins that keep all that a file holds beside its picture."""
_EXPECTED = "expected JPEG, PNG, WebP, BMP or TIFF"


@dataclass(frozen=True)
class PixelLimits:
    """Largest pictures accepted, in pixels of the file's header, checked before any decoding."""

    any: int = 300_000_000
    """For every image. Only baseline JPEGs come near: the decoder scales them, a 20000x14000 grey one in 33 MiB."""
    full: int = 50_000_000
    """For what must be decoded whole: progressive (multi-scan) JPEG, PNG, WebP, BMP, TIFF, a JPEG at full size."""


@dataclass(frozen=True)
class Decoded:
    """A picture as the decoder left it."""

    image: Image.Image
    """Mode RGB, L, RGBA or CMYK, not yet rotated, possibly reduced."""
    box: tuple[float, float, float, float]
    """(left, upper, right, lower) of the true picture inside `image`, in pixels of `image`.

    A scaled JPEG is ceil(W / d) wide although the picture covers only W / d of that."""
    size: tuple[int, int]
    """(width, height) of the whole picture at full scale, turned as `image` is."""
    stored_size: tuple[int, int]
    """(width, height) in the file's header: not `size` where the decoder has turned the picture (TIFF)."""
    orientation: int
    """EXIF orientation still to be applied, 1 to 8; 1 where the tag is absent or invalid."""
    conversion: colour.Convert | None = None
    """What brings `image`, or a scaled copy, to sRGB; None: it is sRGB."""

    def in_srgb(self, image: Image.Image) -> Image.Image:
        """`image`, or a scaled copy, in sRGB."""
        return image if self.conversion is None else self.conversion(image)


def decode(
    source: Source, *, needed_size: Callable[[int, int], tuple[int, int]] | None = None,
    limits: PixelLimits = PixelLimits(), admit: Admit | None = None,
) -> Decoded:
    """Decodes one image.

    Args:
      source: A file, its bytes, or a picture that is in memory already.
      needed_size: (width, height) of the stored picture -> (width, height) that the result must keep. A JPEG is decoded
        at the smallest of 1/8, 1/4, 1/2, 1/1 that keeps both. None: always 1/1.
      limits: Largest accepted pictures.
      admit: Asked before the memory-hungry part, see `Admit`.

    Raises:
      DecodeError: the file is missing, unreadable, no image, too large, truncated or corrupt.
    """
    name = describe(source)
    if not isinstance(source, FILE_TYPES):
        return _from_memory(source, name, limits)
    with _open_binary(source, name) as file:
        image, layout = _open_image(file, name, limits, admit)
        width, height = size = image.size
        stored = _stored_size(image)

        def failure(reason: str) -> DecodeError:
            return DecodeError(name, reason, width=stored[0], height=stored[1])

        is_jpeg = image.format == "JPEG"
        box: tuple[float, float, float, float] = (0.0, 0.0, float(width), float(height))
        try:
            data_start = file.tell()
            is_held, can_scale = jpeg.frame_of(file, image) if is_jpeg else (False, False)
            if can_scale and needed_size is not None:
                drafted = image.draft(None, needed_size(width, height))
                box = drafted[1] if drafted else box
            _check_size(name, stored, limits, is_reduced=image.size != size and not is_held)
            structure = jpeg.whole_structure(file) if is_held else None
            part_bytes = layout.part_bytes if layout else 0
            if structure is not None and structure.is_arithmetic:  # libjpeg wants such a picture in one block
                image.decodermaxblock = structure.scans[-1].end + 2
                part_bytes = 3 * image.decodermaxblock
            if image.format == "BMP":
                bmp.check_runs(file, image)
            if ImageFile.LOAD_TRUNCATED_IMAGES:  # a global of Pillow that another library may have set
                raise Refusal("Pillow is set to pass truncated images: unset ImageFile.LOAD_TRUNCATED_IMAGES")
            if admit is not None and image.format != "WEBP":  # that has been asked for when its header was read
                admit(_decoding_bytes(image, size, is_held, part_bytes))
            conversion = colour.conversion(image, file)
            if layout is not None:
                layout.prepare(image)
            image.load()
            if is_jpeg:
                image = jpeg_proof.proven(file, image, data_start, structure)
            elif image.format == "PNG" and png.lacks_rows(file, image):
                raise Refusal(CUT)
            elif layout is not None:
                layout.check_jpegs(file, image, decode)
            picture = colour.to_8_bit(image, keep_inks=conversion is not None)
        except DecodeError:
            raise
        except Exception as error:  # Pillow raises most built-in types on hostile files
            raise failure(_reason(error, file, is_jpeg, layout=layout)) from error
        return Decoded(picture, box, size, stored, _orientation(image), conversion)


def stored_size(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """(width, height) in a file's header, before EXIF rotation, or a DecodeError; no pixel is decoded."""
    name = describe(source)
    with _open_binary(source, name) as file:
        return _stored_size(_open_image(file, name, PixelLimits(), None)[0])


def describe(source: Source) -> str:
    """The name of a source in messages: its path as given, or what it is: "<bytes>", "<image>" or "<array>"."""
    if isinstance(source, bytes):
        return "<bytes>"
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return "<image>" if isinstance(source, Image.Image) else "<array>"


def check_source(source: object, where: str) -> Source:
    """The source itself, if it is one; else a TypeError, or a ValueError for an array of another shape or dtype."""
    expected = "expected a path, the bytes of an image file, a PIL image or an (H, W, 3) uint8 array of RGB"
    if isinstance(source, (*FILE_TYPES, Image.Image)):
        return source
    shape, dtype = getattr(source, "shape", None), getattr(source, "dtype", None)
    if not hasattr(source, "__array_interface__") or shape is None:
        raise TypeError(f"{where}: got {type(source).__name__}, {expected}")
    if dtype != "uint8" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"{where}: got an array {shape} {dtype}, {expected}")
    return cast("np.ndarray", source)


def _from_memory(source: Image.Image | np.ndarray, name: str, limits: PixelLimits) -> Decoded:
    check_source(source, "image")
    image = source if isinstance(source, Image.Image) else Image.fromarray(source)
    width, height = size = image.size
    _check_size(name, size, limits)
    try:
        image.load()  # of an image that was only opened
        conversion = colour.conversion(image)
        picture = colour.to_8_bit(image, keep_inks=conversion is not None)
    except Exception as error:  # Pillow raises most built-in types on hostile files
        raise DecodeError(name, reason_of(error), width=width, height=height) from error
    return Decoded(picture, (0.0, 0.0, float(width), float(height)), size, size, _orientation(image), conversion)


def _open_binary(source: str | os.PathLike[str] | bytes, name: str) -> IO[bytes]:
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


def _open_image(
    file: IO[bytes], name: str, limits: PixelLimits, admit: Admit | None
) -> tuple[ImageFile.ImageFile, Layout | None]:
    """Reads the header only, of a TIFF its layout; a WebP, whose decoder takes its memory at once, after `admit`."""
    try:
        head = file.read(HEAD_BYTES)
        file.seek(0)
    except OSError as error:
        raise DecodeError(name, f"cannot be read: {error.strerror or error}") from error
    if not head:
        raise DecodeError(name, f"the file is empty (0 bytes), {_EXPECTED}")
    for magic, offset, module, class_name in _PLUGINS:
        if head[offset : offset + len(magic)] == magic:
            layout = None
            try:
                if class_name in _CHECK_METADATA:
                    _CHECK_METADATA[class_name](file)
                content = _webp_alone(file, head, name, limits, admit) if magic == b"WEBP" else file
                layout = _tiff_layout(file, limits) if class_name == "TiffImageFile" else None
                plugin = getattr(import_module(f"PIL.{module}"), class_name)
                return plugin(content), layout
            except DecodeError:
                raise
            except Exception as error:  # the plugins raise most built-in types on hostile headers
                reason = _reason(error, file, class_name == "JpegImageFile", "broken header: ", layout)
                raise DecodeError(name, reason) from error
    raise DecodeError(name, f"{_what_is(head)}, {_EXPECTED}")


def _tiff_layout(file: IO[bytes], limits: PixelLimits) -> Layout:
    from . import tiff

    return tiff.read_layout(file, max_part_pixels=limits.full)


def _what_is(head: bytes) -> str:
    if (name := foreign_name(head)) in ("HEIC", "AVIF"):
        return f"{name} is not supported: convert it to JPEG (phones: camera format 'most compatible')"
    if name is not None:
        return f"{name} is not supported: convert it to PNG"
    if head[4:8] == b"ftyp":
        return "a video file"
    text = head.lstrip()
    if text[:1] == b"<":
        return f"not an image but HTML or XML (starts with {text[:15].decode('ascii', 'replace')!r})"
    return f"not a known image format (starts with bytes {head[:8].hex(' ')})"


def _webp_alone(file: IO[bytes], head: bytes, name: str, limits: PixelLimits, admit: Admit | None) -> IO[bytes]:
    """A WebP without what follows it, after limits and `admit`: its decoder takes all its memory at once."""
    width, height = size = webp.canvas_size(head)
    num_bytes = webp.own_bytes(file, head)
    _check_size(name, size, limits)
    try:
        if admit is not None:
            admit(webp.decoding_bytes(size, num_bytes))
    except MemoryError as error:
        raise DecodeError(name, reason_of(error), width=width, height=height) from error
    return io.BytesIO(file.read(num_bytes))


def _check_size(name: str, size: tuple[int, int], limits: PixelLimits, *, is_reduced: bool = False) -> None:
    pixels = size[0] * size[1]
    if pixels > limits.any:
        most = f"{limits.any / 1e6:.1f} (see --max-pixels)"
    elif pixels > limits.full and not is_reduced:
        most = f"{limits.full / 1e6:.1f} for an image that must be decoded whole (see --max-pixels-full)"
    else:
        return
    raise DecodeError(name, f"too large: {pixels / 1e6:.1f} megapixels, at most {most}", width=size[0], height=size[1])


def _stored_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    tags = getattr(image, "tag_v2", {})  # TIFF: image.size is that of the turned picture
    width, height = tags.get(256), tags.get(257)
    return (width, height) if isinstance(width, int) and isinstance(height, int) else image.size


def _decoding_bytes(image: ImageFile.ImageFile, size: tuple[int, int], is_buffered: bool, part_bytes: int) -> int:
    """Peak memory of decoding, in bytes: Pillow keeps 4 per pixel, libjpeg 2 per coefficient it must hold."""
    total = 4 * image.size[0] * image.size[1]
    if image.format != "JPEG":
        copies = 3 if image.mode.startswith("I;16") and "transparency" in image.info else 1  # that conversion makes
        return total + max(copies * total, part_bytes)  # libtiff's part is free again by then
    held = 0
    if is_buffered:
        sampling = [v * h for _, v, h, _ in getattr(image, "layer", ())]
        held = 2 * size[0] * size[1] * sum(sampling) // max([1, *sampling])
    inks = total if image.mode == "CMYK" else 0  # what libjpeg held is free again when they become RGB
    return total + part_bytes + max(held, inks)


def _reason(
    error: Exception, file: IO[bytes], is_jpeg: bool, other: str = "", layout: Layout | None = None
) -> str:
    is_known = isinstance(error, MemoryError | Refusal) or getattr(error, "errno", None) is not None
    if layout is not None and not is_known:
        return layout.reason(str(error))
    return jpeg.explanation(file) if is_jpeg and not is_known else reason_of(error, other=other)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF says nothing about the pixels, whatever Pillow's parser raises on it
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
