"""Files to pixels: the scale rule, every mode and format, limits, and everything that is no image."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile
from sample_images import encoded, photo

from edge.errors import DecodeError
from edge.photo.decode import PixelLimits, decode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about odd but decodable files


def needs(width, height):
    return lambda w, h: (width, height)


@pytest.mark.parametrize(
    ("size", "needed", "reduced"),
    [
        ((2592, 1944), (256, 192), (324, 243)),  # 1/8: 324 >= 256
        ((600, 450), (256, 192), (300, 225)),  # 1/2
        ((600, 450), (301, 192), (600, 450)),  # 1/2 would leave 300
        ((1025, 770), (256, 192), (257, 193)),  # 1/4, neither side divisible
        ((1025, 770), (256, 193), (513, 385)),  # 770 // 4 = 192 is too little although ceil gives 193
        ((3000, 40), (100, 1), (375, 5)),
    ],
)
def test_jpeg_is_decoded_at_the_smallest_sufficient_scale(size, needed, reduced):
    decoded = decode(encoded(photo(64, 48).resize(size)), needed_size=needs(*needed))
    assert decoded.image.size == reduced
    assert decoded.size == decoded.stored_size == size
    scale = round(size[0] / reduced[0])
    assert decoded.box == (0, 0, size[0] / scale, size[1] / scale)


def test_without_needed_size_a_jpeg_is_decoded_whole():
    assert decode(encoded(photo(640, 480))).image.size == (640, 480)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_reported(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(encoded(photo(), exif=exif)).orientation == orientation


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert decode(encoded(photo(), exif=exif)).orientation == 1


def test_broken_exif_does_not_cost_the_picture():
    content = encoded(photo(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(content).orientation == 1


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_their_pixels(format):
    image = photo(60, 40)
    options = {"lossless": True} if format == "WEBP" else {}
    decoded = decode(encoded(image, format, **options), needed_size=needs(4, 4))
    assert np.array_equal(np.asarray(decoded.image), np.asarray(image))


def test_grey_stays_grey_and_palette_becomes_rgb():
    assert decode(encoded(photo(mode="L"))).image.mode == "L"
    assert decode(encoded(photo(mode="1"), "PNG")).image.mode == "L"
    palette = photo().quantize(16)
    decoded = decode(encoded(palette, "PNG")).image
    assert np.array_equal(np.asarray(decoded), np.asarray(palette.convert("RGB")))


def test_cmyk_jpeg_is_near_its_rgb_original():
    image = Image.fromarray(np.full((40, 60, 3), (200, 120, 60), np.uint8))
    decoded = decode(encoded(image.convert("CMYK"), quality=95)).image
    assert decoded.mode == "RGB"
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(image)).max() <= 6


def test_16_bit_grey_is_shifted_not_saturated():
    values = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    decoded = decode(encoded(Image.fromarray(values), "PNG")).image
    assert np.asarray(decoded).tolist() == [[0, 0, 1, 128, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_kept_for_compositing(mode):
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    options = {}
    if mode == "P":
        image, options = Image.new("P", (8, 8), 3), {"transparency": 3}
        image.putpalette(range(30))
    else:
        image = image.convert(mode)
    decoded = decode(encoded(image, "PNG", **options)).image
    assert decoded.mode == "RGBA"
    assert decoded.getchannel("A").getextrema() == (0, 0)


def test_16_bit_colour_key_is_transparent():
    image = Image.fromarray(np.array([[1000, 2000]], np.uint16))
    decoded = decode(encoded(image, "PNG", transparency=1000)).image
    assert np.asarray(decoded)[0, :, 3].tolist() == [0, 255]


def test_float_tiff_is_refused_because_its_range_is_unknown():
    with pytest.raises(DecodeError, match="float samples has no defined 8-bit form"):
        decode(encoded(Image.new("F", (8, 8)), "TIFF"))


# Limits


def with_frame_size(jpeg, width, height):
    """The same JPEG claiming another size in its SOF header."""
    position = next(i for i in range(len(jpeg)) if jpeg[i] == 0xFF and jpeg[i + 1] in (0xC0, 0xC2))
    return jpeg[: position + 5] + struct.pack(">HH", height, width) + jpeg[position + 9 :]


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", 9) + b"IDAT" + bytes(13)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png_header(20000, 14000), r"280\.0 megapixels, at most 50\.0 for an image that must be decoded whole"),
        (with_frame_size(encoded(photo(), progressive=True), 20000, 14000), r"at most 50\.0 .*--max-pixels-full"),
        (with_frame_size(encoded(photo()), 20001, 15000), r"300\.0 megapixels, at most 300\.0 \(see --max-pixels\)"),
        (with_frame_size(encoded(photo()), 20000, 14000), "truncated"),  # within the limit: decoding is tried
    ],
)
def test_size_is_checked_from_the_header(content, message):
    with pytest.raises(DecodeError, match=message) as info:
        decode(content, needed_size=needs(256, 256))
    assert (info.value.width or 0) >= 20000


def test_a_baseline_jpeg_decoded_whole_falls_under_the_full_limit():
    with pytest.raises(DecodeError, match="decoded whole"):
        decode(encoded(photo(100, 100)), limits=PixelLimits(full=9_999))


def in_several_scans(image):
    """A baseline JPEG whose components come one after the other: libjpeg must hold all of it."""
    planes = [np.asarray(plane) for plane in image.convert("YCbCr").split()]
    parts = [encoded(Image.fromarray(plane)) for plane in planes]  # grey files with the same standard tables

    def segment(data, code):
        start = data.index(bytes((0xFF, code)))
        return start, start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")

    first = parts[0]
    start, end = segment(first, 0xC0)
    frame = first[start + 4 : start + 9] + bytes((3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0))
    frame = b"\xff\xc0" + struct.pack(">H", 2 + len(frame)) + frame
    body = first[:start] + frame + first[end : segment(first, 0xDA)[0]]
    for component, data in enumerate(parts, 1):
        entropy = data[segment(data, 0xDA)[1] : -2]
        body += b"\xff\xda\x00\x08\x01" + bytes((component, 0x00, 0, 63, 0)) + entropy
    return body + b"\xff\xd9"


def test_a_baseline_jpeg_in_several_scans_counts_as_progressive():
    content = in_several_scans(photo(640, 480))
    asked: list[int] = []
    decoded = decode(content, needed_size=needs(32, 24), admit=asked.append)
    assert decoded.image.size == (80, 60)
    assert asked == [80 * 60 * 4 + 640 * 480 * 6]
    with pytest.raises(DecodeError, match="decoded whole"):
        decode(content, needed_size=needs(32, 24), limits=PixelLimits(full=100_000))


def test_a_progressive_jpeg_with_countless_scans_is_refused():
    content = encoded(photo(), progressive=True)
    last = content.rindex(b"\xff\xda")
    with pytest.raises(DecodeError, match="has more than 100 scans"):
        decode(content[:-2] + content[last:-2] * 100 + b"\xff\xd9")


def test_a_webps_size_is_checked_before_its_decoder_takes_memory():
    for options in ({"lossless": True}, {}, {"lossless": True, "exif": b"Exif\0\0"}):
        content = encoded(photo(200, 100), "WEBP", **options)
        asked: list[int] = []
        assert decode(content, admit=asked.append).size == (200, 100)
        assert asked == [16 * 200 * 100 + 3 * len(content)]
        with pytest.raises(DecodeError, match="decoded whole") as info:
            decode(content, limits=PixelLimits(full=19_999))
        assert (info.value.width, info.value.height) == (200, 100)


def test_stored_size_of_a_turned_tiff_is_that_of_the_file():
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(encoded(photo(60, 40), "TIFF", exif=exif))
    assert (decoded.stored_size, decoded.size) == ((60, 40), (40, 60))


def test_pillows_own_limit_is_neither_used_nor_changed():
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = 100
    try:
        assert decode(encoded(photo())).size == (320, 240)
        assert Image.MAX_IMAGE_PIXELS == 100
    finally:
        Image.MAX_IMAGE_PIXELS = before


def test_large_decodes_ask_the_gate_with_their_bytes():
    asked: list[int] = []
    decode(encoded(photo(640, 480)), needed_size=needs(32, 24), admit=asked.append)
    decode(encoded(photo(640, 480), progressive=True, subsampling=2), needed_size=needs(32, 24), admit=asked.append)
    decode(encoded(photo(640, 480), progressive=True, subsampling=0), needed_size=needs(32, 24), admit=asked.append)
    decode(encoded(photo(640, 480), "PNG"), admit=asked.append)
    reduced = 80 * 60 * 4
    assert asked == [reduced, reduced + 640 * 480 * 3, reduced + 640 * 480 * 6, 2 * 640 * 480 * 4]


# What is no image


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n\n <?xml version", "HTML or XML"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not supported: convert it to JPEG"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"GIF89a\1\0\1\0", "GIF is not supported"),
        (b"hello world", "not a known image format"),
        (b"\xff\xd8\xff", "truncated: its data end before its picture does"),
        (b"\x89PNG\r\n\x1a\n", "broken header"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "broken header"),
        (b"II*\0\x08\0\0\0", "broken header"),
        (b"BM" + bytes(60), "broken header"),
    ],
)
def test_other_content_is_one_line(content, message):
    with pytest.raises(DecodeError, match=message) as info:
        decode(content)
    assert "\n" not in str(info.value)
    assert str(info.value).startswith("<bytes>: ")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_truncated_files_are_errors(format, share):
    content = encoded(photo(200, 150), format)
    with pytest.raises(DecodeError):
        decode(content[: int(share * len(content))])


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("scale", [1, 4])
def test_a_jpeg_cut_short_and_closed_again_is_no_grey_picture(share, mode, scale):
    content = encoded(photo(640, 480, mode=mode))
    cut = content[: int(share * len(content))].rstrip(b"\xff") + b"\xff\xd9"
    size = needs(640 // scale, 480 // scale)
    with Image.open(io.BytesIO(cut)) as image:  # Pillow alone passes it, grey at the bottom
        image.load()
        assert image.getpixel((639, 479)) in (128, (128, 128, 128), (127, 127, 127, 127))
    with pytest.raises(DecodeError, match="end before the picture does"):
        decode(cut, needed_size=size)
    decode(content, needed_size=size)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_jpeg_cut_at_a_restart_marker_is_no_grey_picture(rows):
    content = encoded(photo(320, 240), restart_marker_rows=rows)
    markers = [i for i in range(600, len(content) - 2) if content[i] == 0xFF and 0xD0 <= content[i + 1] <= 0xD7]
    assert markers
    decode(content, needed_size=needs(80, 60))
    for position in markers:
        for cut in (position, position + 2):
            with pytest.raises(DecodeError, match="end before the picture does"):
                decode(content[:cut] + b"\xff\xd9", needed_size=needs(80, 60))


@pytest.mark.parametrize("restart_marker_rows", [0, 1])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_picture_that_is_grey_at_the_bottom_is_accepted(mode, progressive, restart_marker_rows):
    image = photo(320, 240, mode=mode)
    image.paste(128 if mode == "L" else (128,) * len(mode), (0, 100, 320, 240))
    content = encoded(image, progressive=progressive, restart_marker_rows=restart_marker_rows)
    for needed in (320, 80):
        decode(content, needed_size=needs(needed, needed * 3 // 4))


def test_pillows_truncation_switch_does_not_let_damage_through(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DecodeError, match="LOAD_TRUNCATED_IMAGES"):
        decode(encoded(photo())[:-200])


def test_what_is_no_file(tmp_path):
    folder = tmp_path / "holiday.jpg"
    folder.mkdir()
    with pytest.raises(DecodeError, match="is a folder") as info:
        decode(folder)
    assert info.value.path == str(folder)
    with pytest.raises(DecodeError, match="no such file"):
        decode(tmp_path / "gone.jpg")
    with pytest.raises(DecodeError, match="null"):
        decode("a\0b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DecodeError, match="no regular file"):
        decode(tmp_path / "pipe.jpg")


def test_an_unreadable_file_says_so(tmp_path, monkeypatch):
    path = tmp_path / "secret.jpg"
    path.write_bytes(encoded(photo()))

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)  # chmod does not stop root
    with pytest.raises(DecodeError, match="cannot be read: Permission denied"):
        decode(path)


@pytest.mark.parametrize("name", ["Läsion.jpg", "皮膚.JPG", "two\nlines.jpg", os.fsdecode(b"\xff\xfe.jpg"), "no suffix"])
def test_any_name_will_do(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encoded(photo()))
    assert decode(path).size == (320, 240)
