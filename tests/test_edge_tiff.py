"""TIFF: samples of every depth, polarity and order give the same picture or an error, and no part may be missing."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from sample_images import encoded, photo

from edge.errors import DecodeError
from edge.memory_gate import MemoryGate
from edge.photo.decode import PixelLimits, decode
from edge.photo.tiff import silence_libtiff

WIDTH, HEIGHT = 50, 37
ROW, COLUMN = np.mgrid[0:HEIGHT, 0:WIDTH]
PICTURE = np.stack([COLUMN * 5, ROW * 6, 255 - COLUMN * 3, (ROW + COLUMN) * 2, 255 - ROW], -1)  # of 0 to 255
FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}


def tiff(tags, data, order="<"):
    """A file of one picture: its data from byte 8 on, then its tags, (number, type) -> values."""
    start = 8 + len(data) + len(data) % 2
    entries, extra, after = b"", b"", start + 2 + 12 * len(tags) + 4
    for (tag, kind), values in sorted(tags.items()):
        values = values if isinstance(values, list | tuple) else [values]
        content = struct.pack(f"{order}{len(values)}{FORMATS[kind]}", *values)
        entries += struct.pack(order + "HHI", tag, kind, len(values))
        if len(content) > 4:
            entries += struct.pack(order + "I", after + len(extra))
            extra += content
        else:
            entries += content.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + data.ljust(start - 8, b"\0") + struct.pack(order + "H", len(tags)) + entries + bytes(4) + extra


def packed(samples, bits, order):
    """(rows, row) integers -> bytes, each row padded."""
    if bits == 16:
        return samples.astype(order + "u2").tobytes()
    return np.packbits((samples[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(len(samples), -1), 1).tobytes()


def picture(meaning=1, bits=8, samples=1, *, planes=1, tile=None, compression=1, order="<", tags=None):
    """The first channels of PICTURE as a TIFF, in strips of 10 rows or tiles of 16 x 32."""
    most = (1 << bits) - 1
    values = (PICTURE[..., :samples] * most + 127) // 255
    values = most - values if meaning == 0 else values
    (width, height), parts = (16, 32) if tile else (WIDTH, 10), []
    for plane in np.split(values, samples, -1) if planes == 2 else [values]:
        for top in range(0, HEIGHT, height):
            for left in range(0, WIDTH, width):
                part = plane[top : top + height, left : left + width]
                if tile:
                    part = np.pad(part, ((0, height - part.shape[0]), (0, width - part.shape[1]), (0, 0)))
                content = packed(part.reshape(len(part), -1), bits, order)
                parts.append(content if compression == 1 else zlib.compress(content))
    offsets = (8 + np.cumsum([0, *map(len, parts)])[:-1]).tolist()
    where = (
        {(322, 4): width, (323, 4): height, (324, 4): offsets, (325, 4): [*map(len, parts)]} if tile
        else {(278, 4): height, (273, 4): offsets, (279, 4): [*map(len, parts)]}
    )
    own = {
        (256, 4): WIDTH, (257, 4): HEIGHT, (258, 3): [bits] * samples, (259, 3): compression, (262, 3): meaning,
        (277, 3): samples, (284, 3): planes, **where,
    }
    merged = {key: value for key, value in {**own, **(tags or {})}.items() if value is not None}
    return tiff(merged, b"".join(parts), order)


def reason(content, **options):
    with pytest.raises(DecodeError) as caught:
        decode(content, **options)
    return caught.value.reason


LAYOUTS = [{}, {"tile": True}, {"compression": 8}, {"tile": True, "compression": 8}]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("meaning", [0, 1])
def test_grey_of_every_depth_and_polarity(meaning, bits, order, layout):
    content = picture(meaning, bits, order=order, **layout)
    if bits == 12 and (order, meaning) != ("<", 1) or bits == 16 and (order, meaning) == (">", 0):
        assert f"1 x {bits}-bit samples (grey" in reason(content)
        return
    found = np.asarray(decode(content).image).astype(int)
    assert np.abs(found - PICTURE[..., 0]).max() <= max(1, 128 / ((1 << bits) - 1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("meaning", "samples", "extra"), [(2, 3, None), (2, 4, [2]), (2, 5, [0, 0]), (5, 4, None)])
def test_colours_of_every_depth_and_order(meaning, samples, extra, bits, planes, order, layout):
    content = picture(meaning, bits, samples, planes=planes, order=order, tags={(338, 3): extra}, **layout)
    if planes == 2 and "compression" not in layout and (bits == 16 or extra == [0, 0]):
        assert "samples in planes of this kind is not supported" in reason(content)
        return
    if samples == 5 and bits == 16 and planes == 1:
        assert "5 x 16-bit samples (RGB) is not supported" in reason(content)
        return
    found = np.asarray(decode(content).image).astype(int)
    expected = PICTURE[..., : found.shape[-1]]
    if meaning == 5:
        expected = np.asarray(Image.fromarray(PICTURE[..., :4].astype(np.uint8), "CMYK").convert("RGB")).astype(int)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("factor", [1, 257])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_palette_has_8_or_16_bit_values(bits, compression, factor):
    colours = np.random.default_rng(0).integers(0, 256, (1 << bits, 3))
    tags = {(320, 3): (colours.T.ravel() * factor).tolist()}
    found = np.asarray(decode(picture(3, bits, compression=compression, tags=tags)).image)
    assert np.array_equal(found, colours[(PICTURE[..., 0] * ((1 << bits) - 1) + 127) // 255])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tags": {(339, 3): 2}}, "signed samples has no defined 8-bit form"),
        ({"bits": 16, "tags": {(339, 3): 2}}, "signed samples has no defined 8-bit form"),
        ({"tags": {(339, 3): 4}}, "undefined samples"),
        ({"meaning": 2, "samples": 3, "tags": {(258, 3): [5, 6, 5]}}, "5/6/5-bit samples"),
        ({"tags": {(258, 3): 32}}, "32-bit samples"),
        ({"meaning": 3}, "palette is missing"),
        ({"meaning": 3, "tags": {(320, 3): [0] * 300}}, "palette is missing or of another length"),
        ({"meaning": 8, "samples": 3}, "'LAB' has no defined 8-bit form"),
        ({"meaning": 9, "samples": 3}, "3 x 8-bit samples (ICC Lab) is not supported"),
        ({"meaning": 32803, "bits": 16}, "1 x 16-bit samples (sensor mosaic) is not supported"),
        ({"meaning": 2, "samples": 4}, "4 samples for RGB, and not said what the others are"),
        ({"meaning": 5, "samples": 4, "tags": {(332, 3): 2}}, "inks other than CMYK"),
        ({"meaning": 6, "samples": 3}, "YCbCr of this kind"),
        ({"meaning": 6, "samples": 3, "tags": {(530, 3): [2, 2]}}, "YCbCr of this kind"),
        ({"samples": 2, "planes": 2, "tags": {(338, 3): [2]}}, "samples in planes of this kind"),
        ({"compression": 8, "tags": {(266, 3): 2}}, "reversed bits"),
        ({"tags": {(262, 3): None}}, "no size or no photometric interpretation"),
        ({"tags": {(32997, 4): 3}}, "volume"),
        ({"tags": {(254, 4): 1}}, "preview or a mask"),
        ({"tags": {(50706, 1): [1, 4, 0, 0]}}, "DNG"),
        ({"tags": {(259, 3): 4}}, "fax compression"),
        ({"tags": {(259, 3): 50001}}, "WebP compression"),
        ({"tags": {(256, 3): 12}}, "has the tag 256 twice"),
        ({"tags": {(322, 4): 16, (323, 4): 16}}, "both strips and tiles"),
    ],
)
def test_samples_that_are_not_read_give_the_true_reason(options, expected, capfd):
    assert expected in reason(picture(**options))
    assert not capfd.readouterr().err


OFFSETS, COUNTS = [8, 508, 1008, 1508], [500, 500, 500, 350]


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("tags", [(273, 0), (273, 1 << 20), (279, 0), (279, 340)])
def test_a_strip_that_is_missing_or_cut_off_is_an_error(tags, part):
    changed = {273: list(OFFSETS), 279: list(COUNTS)}
    changed[tags[0]][part] = tags[1]
    content = picture(tags={(number, 4): values for number, values in changed.items()})
    assert reason(content) == f"truncated: strip {part + 1} of 4 is missing or cut off"


@pytest.mark.parametrize(
    "layout", [{"tile": True}, {"tile": True, "compression": 8}, {"planes": 2, "samples": 3, "meaning": 2}]
)
@pytest.mark.parametrize("value", [0, 1 << 24])
def test_every_part_is_looked_at(layout, value):
    whole = picture(**layout)
    tags = TiffImageFile(io.BytesIO(whole)).tag_v2
    name = 324 if "tile" in layout else 273
    offsets = list(tags[name])
    for part in range(len(offsets)):
        changed = [*offsets[:part], value, *offsets[part + 1 :]]
        assert "is missing or cut off" in reason(picture(**layout, tags={(name, 4): changed}))


@pytest.mark.parametrize("num", [3, 5])
def test_fewer_or_more_strips_than_the_picture_has_are_an_error(num):
    tags = {(273, 4): (OFFSETS + [8])[:num], (279, 4): (COUNTS + [500])[:num]}
    assert reason(picture(tags=tags)) == f"truncated: {num} strips with {num} lengths, expected 4"
    assert reason(picture(tags={(279, 4): None})) == "truncated: 4 strips with 0 lengths, expected 4"


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"])
def test_compressed_data_that_end_early_are_an_error(compression):
    content = encoded(photo(64, 64), "TIFF", compression=compression)
    tags = TiffImageFile(io.BytesIO(content)).tag_v2
    start, (count,) = tags[273][0], tags[279]
    predictor = {(317, 3): tags.get(317, 1)}
    own = {(256, 4): 64, (257, 4): 64, (258, 3): [8] * 3, (262, 3): 2, (277, 3): 3, (273, 4): 8, **predictor}
    for kept in (count, count // 2, count - 40):
        copy = tiff({**own, (259, 3): tags[259], (279, 4): kept}, content[start : start + kept])
        if kept == count:
            assert np.array_equal(np.asarray(decode(copy).image), np.asarray(photo(64, 64)))
        else:
            assert reason(copy) == "damaged: its compressed data cannot be decoded, copy it again"


def test_a_command_keeps_libtiff_from_printing(capfd):
    silence_libtiff()
    assert reason(picture(compression=8, tags={(259, 3): 5})).startswith("damaged")
    assert not capfd.readouterr().err


def test_jpeg_data_that_end_early_are_an_error():
    content = encoded(photo(64, 64), "TIFF", compression="jpeg")
    tags = TiffImageFile(io.BytesIO(content)).tag_v2
    end, lost = tags[273][-1] + tags[279][-1], tags[279][-1] // 2
    assert decode(content).image.size == (64, 64)
    for rest in (bytes(lost), b"\xff\xd9".ljust(lost, b"\0"), content[end - lost : end - 1] + b"\0"):
        assert "truncated" in reason(content[: end - lost] + rest + content[end:])


def test_a_file_cut_anywhere_is_an_error():
    for content in (picture(), picture(tile=True, compression=8)):
        for length in range(4, len(content), 97):
            reason(content[:length])


def test_one_strip_of_any_height_is_whole():
    for rows in (None, HEIGHT, 2**32 - 1):
        data = packed(PICTURE[..., 0], 8, "<")
        for compression, content in ((1, data), (8, zlib.compress(data))):
            tags = {(278, 4): rows, (273, 4): 8, (279, 4): len(content), (259, 3): compression}
            own = {(256, 4): WIDTH, (257, 4): HEIGHT, (258, 3): 8, (262, 3): 1, **tags}
            decoded = decode(tiff({key: value for key, value in own.items() if value is not None}, content)).image
            assert np.array_equal(np.asarray(decoded), PICTURE[..., 0])


def tile_of(side):
    """A picture of 64 x 64 in one black tile that has more pixels."""
    data = zlib.compress(bytes(3 * side * side))
    return tiff({(256, 4): 64, (257, 4): 64, (258, 3): [8] * 3, (259, 3): 8, (262, 3): 2, (277, 3): 3, (322, 4): side,
                 (323, 4): side, (324, 4): 8, (325, 4): len(data)}, data)


def test_memory_is_asked_for_by_the_tile():
    asked = []
    decode(tile_of(1024), admit=asked.append)
    assert asked == [4 * 64 * 64 + 3 * 1024 * 1024]
    with MemoryGate(1_000_000, is_strict=True).image() as admit:
        assert reason(tile_of(2560), admit=admit).startswith("needs about 20 MB to decode")
    assert reason(tile_of(1024), limits=PixelLimits(full=1_000_000)).startswith("too large: a tile of 1.0 megapixels")


def test_headers_are_read_with_bounds():
    assert reason(picture(tags={(273, 4): [8] * 200_001})) == "has 200001 values in the tag 273, at most 200000"
    for content in (b"II*\0", b"II*\0\xff\xff\xff\x7f" + bytes(99), b"II+\0\x08\0\0\0" + b"\xff" * 8):
        assert reason(content).startswith("broken header")
    assert reason(b"MM\0+\0\x08" + bytes(99)).startswith("BigTIFF of this byte order is not supported")


@pytest.mark.parametrize("tag", [270, 700, 33723, 34675, 37724, 65000])  # texts, layers of Photoshop, a profile, own
def test_tags_beside_the_picture_have_a_limit(tmp_path, tag):
    place = tmp_path / "a.tif"
    for num_bytes, is_whole in ((1 << 20, True), (64 << 20, False)):
        place.write_bytes(picture(tags={(tag, 4): 1}))
        entry = place.read_bytes().find(struct.pack("<HHI", tag, 4, 1))
        with open(place, "r+b") as file:
            file.seek(entry)
            file.write(struct.pack("<HHII", tag, 7, num_bytes, 8))
            file.truncate(num_bytes + 100_000)
        if is_whole:
            assert decode(place).size == (WIDTH, HEIGHT)
        else:
            assert reason(place).startswith("has more than 17 MB beside its picture")


def test_12_bit_pictures_of_pillow_are_as_bright_as_their_file():
    content = picture(bits=12)
    assert np.array_equal(np.asarray(decode(TiffImageFile(io.BytesIO(content))).image), decode(content).image)
