"""Each change does to pixels what its name says, at every size of picture."""

import colorsys
import io
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_images import photo

from bench.robustness import changes
from bench.robustness.changes import CHANGES
from edge.photo.decode import decode

DOCS = Path(__file__).parents[1] / "docs" / "robustness.md"
BY_NAME = {change.name: change for change in CHANGES}


def plain(width, height, colour=(90, 60, 40)):
    return Image.new("RGB", (width, height), colour)


def values(image):
    return np.asarray(image).astype(int)


def test_the_table_has_every_change_once():
    kinds = [change.kind for change in CHANGES]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "border-black": 4, "border-white": 4, "border-edge": 4, "crop": 3, "short-side": 5, "shift": 2, "turn": 7,
        "jpeg": 3, "blur": 3, "noise": 3, "exposure": 6, "white-balance": 6, "saturation": 6,
    }
    assert len(BY_NAME) == len(CHANGES) == 56
    assert all(re.fullmatch(r"[a-z-]+[-+][\w.:-]+", name) for name in BY_NAME)


def test_the_docs_have_the_same_table():
    text = DOCS.read_text(encoding="utf-8")
    rows = {row[1]: row[2] for row in re.finditer(r"^\| `([a-z-]+)` \| ([^|]*) \|", text, re.MULTILINE)}
    assert rows == {
        kind: ", ".join(change.strength for change in of_kind)
        for kind, of_kind in itertools.groupby(CHANGES, key=lambda change: change.kind)
    }


@pytest.mark.parametrize(
    ("size", "ratio", "framed"),
    [
        ((200, 150), (1, 1), (200, 200)), ((200, 150), (3, 2), (225, 150)), ((200, 150), (16, 9), (267, 150)),
        ((200, 150), (3, 4), (200, 267)), ((150, 200), (3, 4), (150, 200)), ((150, 200), (16, 9), (356, 200)),
        ((1, 1), (16, 9), (2, 1)),
    ],
)  # fmt: skip
def test_a_border_frames_the_whole_picture(size, ratio, framed):
    image = photo(*size)
    bordered = changes.border(image, ratio, "white")
    assert bordered.size == framed
    left, top = (framed[0] - size[0]) // 2, (framed[1] - size[1]) // 2
    middle = np.s_[top : top + size[1], left : left + size[0]]
    assert (values(bordered)[middle] == values(image)).all()
    around = np.ones(framed[::-1], bool)
    around[middle] = False
    assert (values(bordered)[around] == 255).all()
    assert (values(changes.border(image, ratio, "black"))[around] == 0).all()
    assert (values(changes.border(image, ratio, "edge"))[around] == changes.edge_colour(image)).all()


@pytest.mark.parametrize(
    ("size", "ratio", "box"),
    [
        ((200, 150), (1, 1), (25, 0, 150, 150)), ((200, 150), (3, 2), (0, 8, 200, 133)),
        ((200, 150), (3, 4), (43, 0, 113, 150)), ((150, 200), (3, 2), (0, 50, 150, 100)),
        ((1, 9), (3, 2), (0, 4, 1, 1)),
    ],
)  # fmt: skip
def test_a_crop_is_the_largest_middle_part(size, ratio, box):
    image = photo(*size)
    left, top, width, height = box
    cropped = changes.crop(image, ratio)
    assert cropped.size == (width, height)
    assert (values(cropped) == values(image)[top : top + height, left : left + width]).all()


def test_the_edge_colour_is_that_of_most_of_the_edge():
    image = plain(100, 60, (200, 150, 100))
    image.paste((0, 0, 0), (10, 10, 90, 50))  # a lesion, far from the edge
    image.paste((9, 9, 9), (0, 0, 30, 60))  # a hair, or a dark corner: under half of the edge
    assert changes.edge_colour(image) == (200, 150, 100)
    assert changes.edge_colour(plain(2, 1)) == (90, 60, 40)


@pytest.mark.parametrize(
    ("size", "short_px", "resized"),
    [
        ((200, 150), 64, (85, 64)), ((150, 200), 96, (96, 128)), ((200, 150), 192, (256, 192)),
        ((600, 100), 60, (180, 30)),  # a strip: its long side is three times what the short one should be
    ],
)  # fmt: skip
def test_a_size_is_that_of_the_short_side(size, short_px, resized):
    assert changes.resize(photo(*size), short_px).size == resized
    assert (values(changes.resize(plain(*size), short_px)) == (90, 60, 40)).all()


def test_a_shift_moves_and_fills():
    image = photo(50, 30)
    moved = values(changes.shift(image, 0.2))
    assert moved.shape == (30, 50, 3)
    assert (moved[6:, 10:] == values(image)[:24, :40]).all()
    assert (moved[:6] == changes.edge_colour(image)).all() and (moved[:, :10] == changes.edge_colour(image)).all()


def test_the_seven_turns_are_all_there_are():
    image = photo(40, 30)
    turns = {change.name: values(change.apply(image)) for change in CHANGES if change.kind == "turn"}
    naive = {
        f"turn-{'mirror' if mirrored else ''}{'-' if mirrored and quarters else ''}{90 * quarters or ''}": np.rot90(
            values(image)[:, ::-1] if mirrored else values(image), quarters
        )
        for mirrored in (False, True) for quarters in range(4) if mirrored or quarters
    }
    assert turns.keys() == naive.keys() and len(turns) == 7
    assert all((turns[name] == naive[name]).all() for name in naive)
    every = [values(image), *turns.values()]
    assert not any(a.shape == b.shape and (a == b).all() for a, b in itertools.combinations(every, 2))


def srgb(linear):
    linear = min(max(linear, 0), 1)
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)


def linear(value):
    return value / 255 / 12.92 if value / 255 <= 0.04045 else ((value / 255 + 0.055) / 1.055) ** 2.4


def test_exposure_multiplies_linear_light():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3))
    for stops in (-2, 1 / 3, 1):
        expected = [srgb(linear(value) * 2**stops) for value in range(256)]
        found = values(changes.exposure(ramp, stops))
        assert np.abs(found - np.array(expected)[:, None]).max() <= 0.5 + 1e-9
    assert (values(changes.exposure(ramp, 0)) == values(ramp)).all()
    # A grey of 18 % reflects half as much as one of 36 %.
    assert values(changes.exposure(plain(1, 1, (162,) * 3), -1))[0, 0].tolist() == [118] * 3


def test_white_balance_follows_the_black_body():
    grey = plain(1, 1, (100, 100, 100))
    assert (values(changes.white_balance(grey, changes.DAYLIGHT_K)) == 100).all()
    warm, cold = (values(changes.white_balance(grey, kelvin))[0, 0] for kelvin in (3000, 9000))
    assert warm[0] > warm[1] > warm[2] and cold[0] < cold[1] < cold[2]
    for found in (warm, cold):
        luminance = np.dot([0.2126, 0.7152, 0.0722], [linear(value) for value in found])
        assert luminance == pytest.approx(linear(100), rel=0.02)
    # Chromaticities of black bodies, by Planck's law and the CIE 1931 observer.
    for kelvin, (x, y) in {3000: (0.4369, 0.4041), 6504: (0.3135, 0.3236), 9000: (0.2869, 0.2956)}.items():
        xyz = np.linalg.solve(changes._XYZ_TO_RGB, changes._white(kelvin))
        assert xyz / xyz.sum() == pytest.approx([x, y, 1 - x - y], abs=0.0006)


@pytest.mark.parametrize("factor", [0.1, 0.6, 1.5, 2])
def test_saturation_is_that_of_hsv(factor):
    image = photo(24, 18)
    found = values(changes.saturation(image, factor))
    for pixel, changed in zip(values(image).reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel / 255)
        expected = 255 * np.array(colorsys.hsv_to_rgb(hue, min(1, factor * saturation), value))
        assert np.abs(changed - expected).max() <= 0.51
    assert (values(changes.saturation(plain(1, 1, (0, 0, 0)), factor)) == 0).all()


def test_noise_has_the_spread_of_counted_photons():
    for grey in (60, 128, 200):
        noisy = values(changes.noise(plain(224, 224, (grey,) * 3), 60))
        found = np.vectorize(linear)(noisy)
        expected = math.sqrt(linear(grey) / 60)
        inside = (noisy > 0) & (noisy < 255)
        assert inside.mean() > 0.9
        low, high = np.quantile(found, (0.1587, 0.8413))  # of a normal: one deviation, which clipping leaves alone
        assert (high - low) / 2 == pytest.approx(expected, rel=0.03)
        assert np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1] == pytest.approx(0, abs=0.02)
    black = plain(8, 8, (0, 0, 0))
    assert (values(changes.noise(black, 12)) == 0).all()


def test_noise_follows_from_the_picture_alone():
    image = photo(60, 40)
    one, again = changes.noise(image, 25), changes.noise(image.copy(), 25)
    assert one.tobytes() == again.tobytes()
    other = values(changes.noise(photo(60, 40, seed=1), 25)) - values(photo(60, 40, seed=1))
    assert (other != values(one) - values(image)).mean() > 0.9


def test_the_grain_of_noise_grows_with_the_picture():
    large = values(changes.noise(plain(672, 672, (128,) * 3), 60))  # three times 224, more rows than are held at once
    blocks = large.reshape(224, 3, 224, 3, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    small = values(changes.noise(plain(224, 224, (128,) * 3), 60))
    assert blocks[:, 0, :, 0].std() == pytest.approx(small.std(), rel=0.03)


def test_blur_is_gaussian_and_as_visible_at_any_size():
    point = plain(224, 224, (0, 0, 0))
    point.putpixel((112, 112), (255, 255, 255))
    spread = values(changes.blur(point, 3)).astype(float)[..., 0]
    assert spread.sum() == pytest.approx(255, rel=0.1)  # of small values, rounded
    line = Image.fromarray(np.where(np.arange(224) < 112, 0, 255).astype(np.uint8)[None].repeat(224, 0)).convert("RGB")
    step = values(changes.blur(line, 2))[112, :, 0]
    expected = [127.5 * (1 + math.erf((x - 111.5) / 2 / math.sqrt(2))) for x in range(224)]
    assert np.abs(step - expected).max() < 6
    enlarged = photo(224, 224).resize((448, 448), Image.Resampling.BICUBIC)
    large = changes.blur(enlarged, 2).resize((224, 224))
    assert np.abs(values(large) - values(changes.blur(photo(224, 224), 2))).mean() < 1


def test_a_change_becomes_a_photo_file():
    image = photo(80, 60)
    for change in CHANGES:
        if change.strength not in ("1800 px", "4000 px"):
            with Image.open(io.BytesIO(change.file_of(image))) as file:
                assert file.format == ("JPEG" if change.kind == "jpeg" else "BMP")
                is_exact = file.tobytes() == change.apply(image).tobytes()
            assert is_exact == (change.kind != "jpeg"), change.name
    sizes = [len(BY_NAME[name].file_of(image)) for name in ("jpeg-75", "jpeg-50", "jpeg-30")]
    assert sizes == sorted(sizes, reverse=True)
    large = photo(500, 400)
    with Image.open(io.BytesIO(BY_NAME["turn-180"].file_of(large))) as file:
        assert file.format == "JPEG" and file.size == large.size
        assert 0 < np.abs(values(file)[::-1, ::-1] - values(large)).mean() < 5


def test_large_photos_are_read_at_an_eighth():
    file = BY_NAME["short-side-4000px"].file_of(photo(80, 60))
    decoded = decode(file, needed_size=lambda width, height: (256, 256))
    assert decoded.size == (5333, 4000) and decoded.image.size == (667, 500)
    with Image.open(io.BytesIO(file)) as image:
        assert image.layer[0][1:3] == (2, 2)  # colours halved, as cameras do
    decoded = decode(BY_NAME["short-side-1800px"].file_of(photo(80, 60)), needed_size=lambda *_: (256, 256))
    assert decoded.size == (2400, 1800) and decoded.image.size == (600, 450)
