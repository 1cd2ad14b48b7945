"""JPEG structure: scans, ends, tails, and kinds that are refused with their true reason."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_images import encoded, photo

from edge.errors import DecodeError
from edge.photo import jpeg
from edge.photo.decode import decode
from edge.photo.reasons import MAX_METADATA_BYTES

VIDEO = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(200_000)  # holds markers of every kind
END = b"\xff\xd9"


def scaled(content, scale):
    return np.asarray(decode(content, needed_size=lambda w, h: (w // scale, h // scale)).image)


def structure_of(content):
    return jpeg.read_structure(io.BytesIO(content))


def in_components():
    """Head and scans of a baseline JPEG whose components come one after the other, from grey files with its tables."""
    parts = [encoded(plane) for plane in photo(160, 120).convert("YCbCr").split()]
    start = parts[0].index(b"\xff\xc0")
    end = start + 2 + parts[0][start + 3]
    frame = parts[0][start + 4 : start + 9] + bytes((3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0))
    head = parts[0][:start] + b"\xff\xc0" + struct.pack(">H", 2 + len(frame)) + frame
    scans = []
    for component, part in enumerate(parts, 1):
        first = part.index(b"\xff\xda")
        scans.append(b"\xff\xda\0\x08\x01" + bytes((component, 0, 0, 63, 0)) + part[first + 10 : -2])
    return head + parts[0][end : parts[0].index(b"\xff\xda")], scans


def test_scans_are_those_of_the_picture():
    content = encoded(photo(160, 120), progressive=True)
    found = structure_of(content)
    assert found.problem is None and len(found.scans) == content.count(b"\xff\xda") == 10
    metadata = b"".join(b"\xff\xeb" + struct.pack(">H", 60_002) + (60_000 // 4) * b"\xff\xda\xff\xd9" for _ in range(5))
    longer = content[:2] + metadata + content[2:] + VIDEO
    assert len(structure_of(longer).scans) == 10
    assert np.array_equal(scaled(longer, 2), scaled(content, 2))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("grey_end", [False, True])
def test_what_follows_the_picture_is_not_read(tmp_path, options, grey_end):
    image = photo(160, 120)
    if grey_end:
        image.paste((128, 128, 128), (0, 60, 160, 120))
    content = encoded(image, **options)
    with open(tmp_path / "tail.jpg", "wb") as file:
        file.write(content + VIDEO)
        file.truncate(1 << 32)  # takes no disk
    decoded = decode(tmp_path / "tail.jpg", needed_size=lambda w, h: (80, 60))
    assert np.array_equal(np.asarray(decoded.image), scaled(content, 2))


@pytest.mark.parametrize("tail", [bytes(100_000), VIDEO, b"\xff" * 1000, b"SEFT"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("share", [0.5, 1])
def test_a_jpeg_without_end_is_an_error_whatever_follows(tail, options, share):
    content = encoded(photo(160, 120), **options)
    with pytest.raises(DecodeError, match="truncated|damaged"):
        decode(content[: int(share * (len(content) - 2))] + tail)


def test_a_cut_file_is_not_read_to_the_end_of_its_space(tmp_path):
    for content in (encoded(photo())[:3000], encoded(photo(), progressive=True)[:-2]):
        with open(tmp_path / "hole.jpg", "wb") as file:
            file.write(content)
            file.truncate(1 << 34)
        with pytest.raises(DecodeError, match="truncated: its data end before its picture does"):
            decode(file.name)


@pytest.mark.parametrize("place", range(0, 100, 7))
@pytest.mark.parametrize("scale", [1, 2, 8])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"restart_marker_rows": 1}])
def test_a_cut_progressive_jpeg_is_an_error_or_has_the_same_pixels(place, scale, options):
    content = encoded(photo(64, 48), progressive=True, **options)
    start = structure_of(content).first_scan
    cut = content[: start + (len(content) - start) * place // 100].rstrip(b"\xff") + END
    try:
        pixels = scaled(cut, scale)
    except DecodeError:
        return
    assert scale == 8 and np.array_equal(pixels, scaled(content, 8))


@pytest.mark.parametrize("scale", [1, 8])
def test_every_component_needs_its_scan_and_all_of_it(scale):
    head, scans = in_components()
    whole = head + b"".join(scans) + END
    assert scaled(whole, scale).shape[2] == 3
    for number in range(3):
        lost = [scan for index, scan in enumerate(scans) if index != number]
        with pytest.raises(DecodeError, match="1 of its 3 colour components have no data"):
            scaled(head + b"".join(lost) + END, scale)
        short = list(scans)
        short[number] = scans[number][: len(scans[number]) // 2].rstrip(b"\xff")
        with pytest.raises(DecodeError, match="data end before the picture does"):
            scaled(head + b"".join(short) + END, scale)


def test_lost_scans_of_a_progressive_jpeg_are_an_error():
    content = encoded(photo(64, 48), progressive=True)
    for scan in structure_of(content).scans[:-1]:
        with pytest.raises(DecodeError, match="its last scans are missing|have no data"):
            decode(content[: scan.end] + END)


def test_the_gate_is_asked_once_and_a_second_look_holds_no_second_picture():
    image = photo(640, 480)
    image.paste((128, 128, 128), (0, 200, 640, 480))
    asked: list[int] = []
    decode(encoded(image), admit=asked.append)
    decode(encoded(image.convert("CMYK")), admit=asked.append)
    assert asked == [640 * 480 * 4, 2 * 640 * 480 * 4]


@pytest.mark.parametrize("name", ["arithmetic", "arithmetic_progressive"])  # by cjpeg -arithmetic: Pillow writes none
def test_arithmetic_coding_is_read_whole_or_not_at_all(name):
    content = (Path(__file__).parent / "data" / f"{name}.jpg").read_bytes()  # ends in mid-grey
    pixels = scaled(content, 1)
    assert pixels[:40].std() > 20 and np.abs(pixels[48:].astype(int) - 128).max() <= 3
    metadata = b"".join(b"\xff\xeb" + struct.pack(">H", 60_002) + bytes(60_000) for _ in range(3))
    assert np.array_equal(scaled(content[:2] + metadata + content[2:] + VIDEO, 1), pixels)  # longer than Pillow's block
    for scan in structure_of(content).scans:
        if scan.end - scan.start > 200:
            for part in (0.2, 0.5, 0.8):
                cut = content[: scan.start + int(part * (scan.end - scan.start))].rstrip(b"\xff")
                for closed in (cut, cut + END, cut + content[scan.end :]):
                    with pytest.raises(DecodeError, match="truncated"):
                        decode(closed)


def with_frame(code=0xC0, **fields):
    content = bytearray(encoded(photo(64, 48)))
    start = content.index(b"\xff\xc0")
    content[start + 1] = code
    for name, value in fields.items():
        position = start + {"bits": 4, "height": 6, "components": 9}[name]
        content[position] = value
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (with_frame(0xC5), "hierarchical JPEG is not supported: convert it to PNG"),
        (with_frame(0xF7), "JPEG-LS is not supported"),
        (with_frame(bits=12), "JPEG of 12 bits a sample is not supported: save it with 8"),
        (with_frame(height=0), r"gives its height only behind its data \(DNL\)"),
        (with_frame(components=2), "JPEG of 2 components is not supported"),
        (encoded(photo())[:300], "truncated: its data end before its picture does"),
        (encoded(photo())[:2] + encoded(photo()), "damaged: ff d8 at byte 2 is no part of a JPEG"),
    ],
)
def test_the_reason_is_the_true_one(content, reason):
    with pytest.raises(DecodeError, match=reason) as info:
        decode(content, needed_size=lambda w, h: (8, 6))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("num_segments", [10, 300])
def test_metadata_has_a_limit(tmp_path, num_segments):
    content = encoded(photo())
    with open(tmp_path / "meta.jpg", "wb") as file:
        file.write(content[:2])
        for index in range(num_segments):
            file.seek(2 + index * 65537)
            file.write(b"\xff\xeb\xff\xff")
        file.seek(2 + num_segments * 65537)
        file.write(content[2:])
    if num_segments * 65537 < MAX_METADATA_BYTES:
        assert decode(file.name).size == (320, 240)
    else:
        with pytest.raises(DecodeError, match="has no picture data in its first 17 MB"):
            decode(file.name)


def test_markers_without_end_are_not_walked_for_ever():
    content = encoded(photo(), progressive=True)
    end = structure_of(content).scans[0].end
    with pytest.raises(DecodeError, match="more than 10000 JPEG markers"):
        decode(content[:end] + b"\xff\xfe\0\2" * 20_000 + content[end:])


def test_fill_bytes_before_a_marker_belong_to_it():
    content = encoded(photo(64, 48), progressive=True)
    end = structure_of(content).scans[-1].end
    filled = content[:end] + b"\xff" * 500 + content[end:]
    assert structure_of(filled).scans == structure_of(content).scans
    assert np.array_equal(scaled(filled, 1), scaled(content, 1))


def test_a_picture_of_several_is_the_first():
    buffer = io.BytesIO()
    photo(64, 48).save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    assert np.asarray(decode(buffer.getvalue()).image).std() > 10
