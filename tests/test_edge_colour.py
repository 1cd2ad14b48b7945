"""What a file says of its colours is honoured: profiles, chunks of PNG, EXIF; what says nothing is taken as sRGB."""

import io
import itertools
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms
from sample_images import encoded

from bench.skin_angle import angles
from edge.errors import DecodeError
from edge.photo import colour
from edge.photo.decode import decode
from edge.photo.preprocess import Preprocess

D50 = (0.9642, 1, 0.8249)
P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = ((0.79767, 0.28804, 0), (0.13519, 0.71188, 0), (0.03134, 0.00009, 0.82491))
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
LOAD = Preprocess(size_px=64, resize="stretch")


def s15(*values):
    return struct.pack(f">{len(values)}i", *(round(x * 65536) for x in values))


def gamma(exponent):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256))


def srgb_curve():
    x = np.arange(1024) / 1023
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + np.round(65535 * y).astype(">u2").tobytes()


def icc(tags, space=b"RGB ", pcs=b"XYZ ", kind=b"mntr"):
    """An ICC profile of these tags, name -> content."""
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(">I4xI", at + len(body), 0x02400000) + kind + space + pcs + bytes(12) + b"acsp" + bytes(28)
    return (head + s15(*D50)).ljust(128, b"\0") + table + body


def rgb_icc(primaries, curve, **options):
    xyz = {name: b"XYZ " + bytes(4) + s15(*x) for name, x in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return icc({b"wtpt": b"XYZ " + bytes(4) + s15(*D50), **xyz, **curves}, **options)


def grey_icc(exponent):
    return icc({b"wtpt": b"XYZ " + bytes(4) + s15(*D50), b"kTRC": gamma(exponent)}, b"GRAY")


def cmyk_icc():
    """A press of which every ink takes light and black takes all, as a table of 2 x 2 x 2 x 2 colours."""
    lab = []
    for c, m, y, k in itertools.product((0, 1), repeat=4):
        light = (100 - 22 * c - 26 * m - 6 * y) * (1 - k)
        lab += [round(2.55 * light), 128 + (45 * m - 30 * c) * (1 - k), 128 + (60 * y - 40 * c) * (1 - k)]
    head, ramp = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + s15(1, 0, 0, 0, 1, 0, 0, 0, 1), bytes(range(256))
    table = head + 4 * ramp + bytes(lab) + 3 * ramp
    return icc({b"wtpt": b"XYZ " + bytes(4) + s15(*D50), b"A2B0": table}, b"CMYK", b"Lab ", b"prtr")


PROFILES = {
    "p3": rgb_icc(P3, srgb_curve()), "adobe": rgb_icc(ADOBE, gamma(2.2)), "prophoto": rgb_icc(PROPHOTO, gamma(1.8)),
}


def skin(mode="RGB"):
    """A lesion on skin, smooth enough for every coding."""
    y, x = np.mgrid[0:96, 0:128] / 96
    light = np.stack([205 - 15 * x, 160 - 20 * y, 135 - 10 * x], -1)
    mask = np.clip(1.6 - 12 * ((x - 0.6) ** 2 + (y - 0.5) ** 2), 0, 1)[..., None]
    return Image.fromarray((light * (1 - mask) + np.array([90, 55, 45]) * mask).astype(np.uint8)).convert(mode)


def in_space(image, profile):
    """The picture of the same colours under a profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    moved = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target, renderingIntent=1)
    moved.info.clear()
    return moved


def difference(source, image):
    """Largest difference of the pixels that a network gets."""
    return np.abs(LOAD(source).astype(int) - LOAD(image)).max()


def with_chunks(png, *chunks):
    """A PNG with chunks behind its header."""
    packed = [struct.pack(">I", len(x)) + name + x + struct.pack(">I", zlib.crc32(name + x)) for name, x in chunks]
    return png[:33] + b"".join(packed) + png[33:]


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("TIFF", {}), ("JPEG", {"quality": 100, "subsampling": 0}), ("WEBP", {"lossless": True})],
)
def test_a_profile_gives_the_colours_of_the_srgb_picture(name, format, options):
    image = in_space(skin(), PROFILES[name])
    content = encoded(image, format, icc_profile=PROFILES[name], **options)
    assert difference(content, skin()) <= (3 if format == "JPEG" else 2)
    assert difference(encoded(image, "PNG"), skin()) > 6  # it says nothing of its colours, and is taken as sRGB


def test_a_jpeg_is_scaled_before_its_colours_are_converted():
    content = encoded(in_space(skin().resize((1024, 768)), PROFILES["p3"]), quality=95, icc_profile=PROFILES["p3"])
    decoded = decode(content, needed_size=lambda w, h: (128, 96))
    assert decoded.image.size == (128, 96)
    assert difference(content, skin()) <= 4


def test_a_profile_may_follow_the_header_of_the_frame():
    content = encoded(in_space(skin(), PROFILES["p3"]), quality=100, subsampling=0, icc_profile=PROFILES["p3"])
    piece, frame = content.index(b"\xff\xe2"), content.index(b"\xff\xc0")
    piece_end, frame_end = (at + 2 + int.from_bytes(content[at + 2 : at + 4], "big") for at in (piece, frame))
    moved = content[:piece] + content[piece_end:frame_end] + content[piece:piece_end] + content[frame_end:]
    assert difference(moved, skin()) <= 3


@pytest.mark.parametrize(
    "profile", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), rgb_icc(SRGB, srgb_curve())]
)
def test_srgb_by_another_name_changes_no_pixel(profile):
    tagged, plain = (encoded(skin(), icc_profile=p) for p in (profile, None))
    assert decode(tagged).conversion is None
    assert np.array_equal(LOAD(tagged), LOAD(plain))


@pytest.mark.parametrize(
    "profile",
    [b"x", bytes(200), PROFILES["p3"][:300], PROFILES["p3"][:-4000], cmyk_icc(), grey_icc(1.0),
     rgb_icc(P3, gamma(1.0), kind=b"link"), rgb_icc(P3, gamma(1.0), space=b"HSV ")],
)
def test_a_profile_that_is_broken_or_of_other_colours_is_none(profile):
    assert difference(encoded(skin(), "PNG", icc_profile=profile), skin()) == 0


def test_a_profile_too_large_is_refused():
    content = encoded(skin(), icc_profile=PROFILES["p3"] + bytes(5 << 20))
    with pytest.raises(DecodeError, match="its colour profile has 52.* bytes, at most 4194304 are read"):
        decode(content)


def test_a_profile_that_unpacks_to_megabytes_is_refused():
    content = with_chunks(encoded(skin(), "PNG"), (b"iCCP", b"bomb\0\0" + zlib.compress(bytes(64 << 20))))
    with pytest.raises(DecodeError, match="a colour profile longer than Pillow reads"):
        decode(content)


def test_grey_goes_through_profiles_of_grey_and_of_rgb():
    image = Image.new("L", (32, 32), 128)
    for profile, expected in ((grey_icc(1.0), 188), (rgb_icc(PROPHOTO, gamma(1.0)), 188), (grey_icc(1.8), 145)):
        for format in ("PNG", "JPEG", "TIFF"):
            assert np.abs(LOAD(encoded(image, format, icc_profile=profile)).astype(int) - expected).max() <= 1
    deep = Image.fromarray(np.full((32, 32), 128 << 8, np.uint16))
    assert LOAD(encoded(deep, "PNG", icc_profile=grey_icc(1.0))).max() == 188
    with_alpha = Image.merge("LA", (image, Image.new("L", image.size, 255)))
    assert np.abs(LOAD(encoded(with_alpha, "PNG", icc_profile=grey_icc(1.0))).astype(int) - 188).max() <= 1


def test_inks_go_through_their_profile_and_without_one_by_the_formula():
    inks, profile = skin("CMYK"), cmyk_icc()
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    expected = ImageCms.profileToProfile(inks, source, ImageCms.createProfile("sRGB"), 1, "RGB", flags=0x2000)
    expected.info.clear()
    assert difference(expected, inks.convert("RGB")) > 30
    for format, options in (("TIFF", {}), ("JPEG", {"quality": 100, "subsampling": 0})):
        assert difference(encoded(inks, format, icc_profile=profile, **options), expected) <= 4
        assert difference(encoded(inks, format, **options), inks.convert("RGB")) <= 4
        assert difference(encoded(inks, format, icc_profile=PROFILES["p3"], **options), inks.convert("RGB")) <= 4
    drafted = decode(encoded(inks, icc_profile=profile), needed_size=lambda w, h: (8, 8)).image
    assert (drafted.mode, drafted.size) == ("CMYK", (16, 12))


def test_transparency_and_palettes_keep_theirs_under_a_profile():
    alpha = Image.linear_gradient("L").resize(skin().size)
    image = in_space(skin(), PROFILES["adobe"])
    image.putalpha(alpha)
    expected = skin()
    expected.putalpha(alpha)
    assert difference(encoded(image, "PNG", icc_profile=PROFILES["adobe"]), expected) <= 2
    palette = in_space(skin(), PROFILES["adobe"]).quantize(64)
    flat = palette.convert("RGB")
    results = [encoded(x, "PNG", icc_profile=PROFILES["adobe"]) for x in (palette, flat)]
    assert difference(*results) == 0


def chromaticities(*xy):
    return b"cHRM", struct.pack(">8I", 31270, 32900, *xy)


GAMA, GAMA_SRGB = (b"gAMA", struct.pack(">I", 100000)), (b"gAMA", struct.pack(">I", 45455))
CHRM_P3 = chromaticities(68000, 32000, 26500, 69000, 15000, 6000)
CHRM_SRGB = chromaticities(64000, 33000, 30000, 60000, 15000, 6000)


@pytest.mark.parametrize(
    ("chunks", "profile"),
    [
        ([GAMA], rgb_icc(SRGB, gamma(1.0))),
        ([CHRM_P3], PROFILES["p3"]),
        ([GAMA_SRGB, CHRM_P3], PROFILES["p3"]),
        ([(b"cICP", bytes((12, 13, 0, 1)))], PROFILES["p3"]),
        ([(b"cICP", bytes((12, 13, 0, 1))), (b"sRGB", b"\0"), GAMA], PROFILES["p3"]),
    ],
)
def test_png_chunks_of_colour_are_honoured(chunks, profile):
    content = with_chunks(encoded(in_space(skin(), profile), "PNG"), *chunks)
    assert difference(content, skin()) <= (2 if profile is PROFILES["p3"] else 6)  # linear light is coarse in 8 bits


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"sRGB", b"\0"), GAMA, CHRM_P3],
        [GAMA_SRGB, CHRM_SRGB],
        [(b"gAMA", bytes(4))],
        [(b"cHRM", bytes(32))],
        [(b"cICP", bytes((1, 13, 0, 1)))],
        [(b"cICP", b"\x0c\x0d\0\1\0")],
    ],
)
def test_png_chunks_that_mean_srgb_or_nothing_change_no_pixel(chunks):
    assert difference(with_chunks(encoded(skin(), "PNG"), *chunks), skin()) == 0


@pytest.mark.parametrize("numbers", [(9, 16, 0, 1), (9, 18, 0, 1), (1, 13, 0, 0), (2, 2, 0, 1)])
def test_png_of_hdr_or_video_is_refused(numbers):
    with pytest.raises(DecodeError, match="cICP: primaries .* are those of HDR or video"):
        decode(with_chunks(encoded(skin(), "PNG"), (b"cICP", bytes(numbers))))


def exif_of(color_space, index):
    exif = Image.Exif()
    exif[0x0112] = 1
    exif.get_ifd(0x8769)[0xA001] = color_space
    exif.get_ifd(0xA005)[1] = index
    exif.get_ifd(0x8769)[0xA005] = exif.get_ifd(0xA005)
    return exif


@pytest.mark.parametrize(("color_space", "index", "is_adobe"), [
    (65535, "R03", True), (2, "R98", True), (1, "R98", False), (1, "R03", False), (65535, "R98", False),
])
def test_exif_says_adobe_rgb(color_space, index, is_adobe):
    image = in_space(skin(), PROFILES["adobe"])
    content = encoded(image, quality=100, subsampling=0, exif=exif_of(color_space, index))
    assert (difference(content, skin()) <= 3) == is_adobe
    assert (difference(content, image) <= 3) != is_adobe


def test_a_profile_wins_over_exif():
    content = encoded(skin(), "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
                      exif=exif_of(65535, "R03"))
    assert difference(content, skin()) == 0


def test_a_bmp_carries_a_profile():
    profile = PROFILES["p3"]
    plain = encoded(in_space(skin(), profile), "BMP")
    pixels, size = plain[54:], len(plain) - 54
    header = plain[18:54].ljust(52, b"\0") + b"DEBM" + bytes(52) + struct.pack("<III", 124 + size, len(profile), 0)
    content = b"BM" + struct.pack("<IHHII", 138 + size + len(profile), 0, 0, 138, 124) + header + pixels + profile
    assert difference(content, skin()) <= 2


def test_pictures_in_memory_have_their_profile_and_arrays_are_srgb():
    image = in_space(skin(), PROFILES["p3"])
    pixels = np.asarray(image)
    image.info["icc_profile"] = PROFILES["p3"]
    assert difference(image, skin()) <= 2
    assert difference(image.resize((64, 64)), skin()) <= 3
    assert difference(pixels, Image.fromarray(pixels)) == 0
    assert not decode(image).in_srgb(image).info  # a photo saved from it claims nothing


def test_tone_sees_colours(tmp_path):
    names = ["srgb", *PROFILES]
    for name in names:
        image = in_space(skin(), PROFILES[name]) if name in PROFILES else skin()
        image.save(tmp_path / f"{name}.png", icc_profile=PROFILES.get(name))
    first, *others = (angle.ita_deg for angle in angles(tmp_path, [f"{name}.png" for name in names]))
    assert others == pytest.approx([first] * 3, abs=1)


def test_workers_share_a_conversion():
    images = [encoded(in_space(skin(), p).rotate(i), "PNG", icc_profile=p) for p in PROFILES.values() for i in range(3)]
    expected = [LOAD(image) for image in images]
    colour._transform.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: LOAD(images[i % 9]), range(90)))
    assert all(np.array_equal(x, expected[i % 9]) for i, x in enumerate(found))


def test_without_littlecms_a_profile_gives_one_clear_line(monkeypatch):
    colour._transform.cache_clear()
    monkeypatch.setitem(sys.modules, "PIL.ImageCms", None)
    monkeypatch.delattr("PIL.ImageCms")
    with pytest.raises(DecodeError, match="has a colour profile, and this Pillow has no littleCMS to convert it"):
        decode(encoded(skin(), "PNG", icc_profile=PROFILES["p3"]))
    assert decode(encoded(skin(), "PNG")).conversion is None
