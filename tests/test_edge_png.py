"""PNG, BMP and WebP: every row came from the file, and nothing else of it takes memory."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from sample_images import encoded, photo

from edge.errors import DecodeError
from edge.memory_gate import MemoryGate
from edge.photo.bmp import MAX_RUN_PIXELS
from edge.photo.decode import decode

W, H = 24, 17
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind, content=b""):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def rows_of(bits, colour, interlaced, value=0x5A):
    """All rows behind their filter bytes, pass by pass."""
    rows = []
    for x, y, dx, dy in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, count = len(range(x, W, dx)), len(range(y, H, dy))
        rows += [b"\0" + bytes([value]) * (-(-columns * bits * CHANNELS[colour] // 8))] * (count if columns else 0)
    return rows


def png(data, bits=8, colour=2, interlaced=False, before=b"", after=b"", parts=1):
    stream = zlib.compress(data)
    size = -(-len(stream) // parts)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, bits, colour, 0, 0, interlaced))
        + (chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b"") + before
        + b"".join(chunk(b"IDAT", stream[i : i + size]) for i in range(0, len(stream), size)) + after + chunk(b"IEND")
    )


KINDS = [(8, 2), (8, 0), (1, 0), (2, 0), (16, 0), (16, 2), (8, 3), (4, 3), (8, 4), (8, 6), (16, 6)]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("bits", "colour"), KINDS)
@pytest.mark.parametrize("value", [0x5A, 0])
def test_a_png_whose_stream_ends_early_is_an_error(bits, colour, interlaced, value):
    rows = rows_of(bits, colour, interlaced, value)
    for parts in (1, 3):
        assert decode(png(b"".join(rows), bits, colour, interlaced, parts=parts)).size == (W, H)
    for kept in (0, 1, len(rows) // 2, len(rows) - 1):
        with pytest.raises(DecodeError, match="truncated: its data end before its picture does"):
            decode(png(b"".join(rows[:kept]), bits, colour, interlaced))
    with pytest.raises(DecodeError, match="truncated"):
        decode(png(b"".join(rows)[:-1], bits, colour, interlaced))


def test_black_and_transparent_last_rows_are_pictures():
    for mode in ("RGB", "L", "1", "P", "RGBA", "LA"):
        image = photo(32, 24).convert("RGB").convert(mode)
        image.paste(0 if len(image.getbands()) == 1 else (0,) * len(image.getbands()), (0, 12, 32, 24))
        assert decode(encoded(image, "PNG")).size == (32, 24)


def test_more_than_the_picture_does_no_harm():
    data = b"".join(rows_of(8, 2, False))
    control = struct.pack(">IIIIIHHBB", 0, W, H, 0, 0, 1, 1, 0, 0)
    animated = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", control)
    second = chunk(b"fcTL", struct.pack(">I", 1) + control[4:]) + chunk(b"fdAT", struct.pack(">I", 2) + b"broken")
    more = ({"after": chunk(b"tEXt", b"a\0b")}, {"before": animated, "after": second})
    for content in (png(data + bytes(500)), *(png(data, **chunks) for chunks in more)):
        assert np.asarray(decode(content).image).min() == 0x5A
    small = struct.pack(">IIIIIHHBB", 0, W, H // 2, 0, 0, 1, 1, 0, 0)
    with pytest.raises(DecodeError, match="truncated"):  # the first frame is no whole picture
        decode(png(data[: len(data) // 2], before=chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", small)))


@pytest.mark.parametrize("kind", [b"prIv", b"tEXt", b"IDAT"])
@pytest.mark.parametrize("is_before", [False, True])
def test_huge_chunks_are_not_read(tmp_path, kind, is_before):
    content = png(b"".join(rows_of(8, 2, False)))
    place = 33 if is_before else len(content) - 12
    with open(tmp_path / "huge.png", "wb") as file:
        file.write(content[:place] + struct.pack(">I", 1 << 30) + kind)
        file.seek(place + 8 + (1 << 30))
        file.write(bytes(4) + content[place:])
    with pytest.raises(DecodeError, match="has more than 17 MB beside its picture"):
        decode(file.name)


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP", "MPO"])
def test_tails_are_not_read(tmp_path, format):
    with open(tmp_path / "tail", "wb") as file:
        file.write(encoded(photo(64, 48), format))
        file.truncate(1 << 32)
    with MemoryGate(1 << 20, is_strict=True).image() as admit:
        assert decode(file.name, admit=admit).size == (64, 48)


def test_a_webps_own_length_counts_for_the_gate(tmp_path):
    content = encoded(photo(64, 48), "WEBP")
    with open(tmp_path / "long.webp", "wb") as file:
        file.write(content[:4] + struct.pack("<I", 1 << 30) + content[8:])
        file.truncate(1 << 32)
    with MemoryGate(100 << 20, is_strict=True).image() as admit:
        with pytest.raises(DecodeError, match="needs about 3221 MB to decode, at most 105"):
            decode(file.name, admit=admit)


def test_what_pillow_fails_on_is_an_error_in_words():
    no_palette = png(b"".join(rows_of(8, 3, False)), colour=3).replace(chunk(b"PLTE", bytes(range(256)) * 3), b"")
    for content in (no_palette, png(b"")[:33] + chunk(b"IEND"), png(b"x" * 999)):
        with pytest.raises(DecodeError, match="damaged: "):
            decode(content)


def test_a_16_bit_colour_key_asks_for_its_copies():
    asked: list[int] = []
    image = Image.fromarray(np.zeros((10, 20), np.uint16))
    decode(encoded(image, "PNG"), admit=asked.append)
    decode(encoded(image, "PNG", transparency=7), admit=asked.append)
    assert asked == [2 * 4 * 200, 4 * 4 * 200]


# Run-length-coded BMP


def bmp(runs, width=4, height=2, compression=1):
    palette = b"".join(bytes((i, i, 255 - i, 0)) for i in range(256 if compression == 1 else 16))
    bits = 8 if compression == 1 else 4
    offset = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(runs), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + header + palette + runs


@pytest.mark.parametrize(
    ("runs", "is_whole"),
    [
        (b"\4\7\0\0\4\7\0\1", True),
        (b"\4\7\0\0\0\4abcd\0\1", True),
        (b"\4\7\0\0\0\3abc\0\1\7\0\1", True),
        (b"\4\7\0\0\4\7", True),  # no end marker
        (b"\4\7\0\0\3\7\0\1", False),  # one pixel short
        (b"\3\7\0\0\4\7\0\1", False),  # a short row
        (b"\4\7\0\2\1\0\3\7\0\1", False),  # a step over one pixel
        (b"\4\7\0\0\0\4ab", False),  # cut off
        (b"\4\7", False),
        (b"", False),
    ],
)
def test_runs_of_a_bmp_give_every_pixel(runs, is_whole):
    if is_whole:
        assert 0 not in np.asarray(decode(bmp(runs)).image)[..., 2]
    else:
        with pytest.raises(DecodeError, match="runs leave out pixels"):
            decode(bmp(runs))


def test_runs_of_4_bits_and_a_limit():
    assert decode(bmp(b"\4\x12\0\0\4\x12\0\1", compression=2)).size == (4, 2)
    side = int(MAX_RUN_PIXELS**0.5) + 1
    with pytest.raises(DecodeError, match=r"run-length-coded BMP of 1\.0 megapixels, at most 1\.0: convert it to PNG"):
        decode(bmp(b"\4\7", side, side))


def test_a_cut_bmp_is_an_error():
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "BMP")
    with pytest.raises(DecodeError, match="truncated: its data end before its picture does"):
        decode(buffer.getvalue()[:-40])
