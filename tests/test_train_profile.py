import dataclasses

import numpy as np
import pytest
from PIL import Image
from sample_networks import dataset

from bench.dataset import index
from edge.errors import DecodeError
from edge.photo.decode import stored_size
from edge.photo.preprocess import Preprocess
from train.config import AugmentConfig
from train.data import profile
from train.data.augment import affines, draw, quarter_turns, render, step_rng
from train.data.profile import estimate, profile_of
from train.recipes import RECIPES

STILL = AugmentConfig(p_hflip=0, p_vflip=0, quarter_turns=False, p_affine=0)
LANDSCAPE, SQUARE = (200, 150), (192, 192)


def estimated(sizes, resize, config=STILL):
    return estimate(sizes, Preprocess(resize=resize), config)


@pytest.mark.parametrize(("resize", "padding"), [("letterbox", 0.25), ("stretch", 0), ("crop", 0)])
@pytest.mark.parametrize("size", [LANDSCAPE, LANDSCAPE[::-1]])
def test_pictures_of_one_shape_that_are_not_varied(resize, padding, size):
    found = estimated([size], resize)
    assert found.aspect_ratio == (1.333, 1.333)
    assert found.short_side_px == (150, 150)
    assert found.padding == (padding, padding)


def test_squares_have_no_bars_and_get_none_from_the_mirror():
    for resize in ("letterbox", "stretch", "crop"):
        found = estimated([SQUARE], resize, RECIPES["default"].augment)
        assert (found.aspect_ratio, found.padding) == ((1, 1), (0, 0))
    black = dataclasses.replace(RECIPES["default"].augment, border="black")
    assert estimated([SQUARE], "stretch", black).padding[1] > 0.2  # a zoom of 1/1.2 alone leaves .31
    assert estimated([SQUARE], "letterbox", black).aspect_ratio == (1, 1)  # the same bar on every side


def test_zooming_moves_the_bars_of_letterbox_and_squeezes_nothing():
    zooming = dataclasses.replace(STILL, p_affine=1, shift=0, rotate_deg=0, zoom=0.2)
    low, high = estimated([LANDSCAPE], "letterbox", zooming).aspect_ratio
    assert low == pytest.approx(4 / 3 / 1.2, rel=0.01) and high == pytest.approx(4 / 3 * 1.2, rel=0.01)
    assert estimated([LANDSCAPE], "letterbox", zooming).padding == pytest.approx((0.1, 0.375), abs=0.05)
    assert estimated([LANDSCAPE], "stretch", zooming).aspect_ratio == (1.333, 1.333)
    assert estimated([LANDSCAPE], "crop", zooming).aspect_ratio == (1.333, 1.333)


@pytest.mark.parametrize(
    ("size", "turns", "degrees", "ratio"),
    [
        (SQUARE, 0, 0, 1.2),
        (SQUARE, 0, 25, 1.2),
        (SQUARE, 1, 25, 1.2),
        (LANDSCAPE, 0, 0, 4 / 3 / 1.2),  # squeezed in its height, as it was in its width
        (LANDSCAPE, 1, 0, 4 / 3 * 1.2),  # lying on its side it is squeezed in its width once more
    ],
)
def test_squeezing_one_direction_alone_is_another_shape(monkeypatch, size, turns, degrees, ratio):
    def drawn(n, config, rng):
        turned = quarter_turns(np.full(n, turns))
        rotated = affines(np.full(n, np.radians(degrees)), np.full(n, 1.1), np.zeros(n), np.zeros(n))
        return dataclasses.replace(draw(n, config, rng), homography=turned @ rotated @ np.diag([1, 1.2, 1]))

    monkeypatch.setattr(profile, "draw", drawn)
    assert estimated([size], "stretch").aspect_ratio == pytest.approx((ratio, ratio), abs=0.001)


def test_a_handful_of_odd_pictures_is_no_range_but_some_of_few_are():
    assert estimated([LANDSCAPE] * 995 + [SQUARE] * 5, "stretch").aspect_ratio == (1.333, 1.333)
    assert estimated([LANDSCAPE] * 3000 + [SQUARE] * 100, "stretch").aspect_ratio == (1, 1.333)
    found = estimated([LANDSCAPE] * 23 + [(300, 100)], "stretch")
    assert (found.aspect_ratio, found.short_side_px) == ((1.333, 3), (100, 150))


@pytest.mark.parametrize("border", ["reflect", "black"])
def test_padding_is_what_a_picture_does_not_fill(border):
    config = AugmentConfig(border=border, p_perspective=0.3)
    changes = draw(300, config, step_rng(0, 0))
    pictures = np.zeros((300, 144, 144, 3), np.uint8)
    pictures[:, 18:126] = 255  # 4:3 between its bars
    shown = render(pictures, changes, size_px=96)[..., 0].mean(axis=(1, 2)) / 255
    expected = profile._padding(np.tile([1, 0.75], (300, 1)), changes)
    assert np.abs(1 - shown - expected).max() < 0.05
    assert np.abs(1 - shown - expected).mean() < 0.01


def test_sizes_are_read_from_the_files(tmp_path):
    root = dataset(tmp_path / "data", 6)
    samples = index(root)
    for i, sample in enumerate(samples):
        Image.new("RGB", (40 + 10 * i, 40)).save(root / sample.path)
    found = profile_of(root, samples, Preprocess(resize="stretch"), STILL)
    assert found.aspect_ratio == (1, 2.25) and found.short_side_px == (40, 40)
    (root / samples[0].path).unlink()
    with pytest.raises(DecodeError, match="no such file"):
        profile_of(root, samples, Preprocess(), STILL)


def test_the_stored_size_is_that_of_the_rows(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("turned.jpg", "turned.tif", "turned.webp", "turned.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / name, exif=exif)
        loaded = Preprocess().load(tmp_path / name)
        assert stored_size(tmp_path / name) == (loaded.width, loaded.height) == (40, 30)
    with pytest.raises(DecodeError, match="empty"):
        stored_size(b"")


def test_bars_of_augmentation_are_padding_and_change_the_shape_that_is_met():
    still = AugmentConfig(p_affine=0)
    barred = dataclasses.replace(still, p_bars=1.0, bars=1.0)
    changes = draw(400, barred, np.random.default_rng(0))
    left, top, right, bottom = changes.bars.T
    exact = 1 - (1 - left - right) * (1 - top - bottom)
    assert np.abs(profile._padding(np.ones((400, 2)), changes) - exact).max() < 2 / 24  # columns of the grid
    assert estimated([SQUARE], "stretch", still).aspect_ratio == (1, 1)
    assert estimated([SQUARE], "stretch", barred).aspect_ratio == (1, 1)  # nothing is squeezed
    assert estimated([SQUARE], "letterbox", barred).aspect_ratio == pytest.approx((1, 2), abs=0.03)
