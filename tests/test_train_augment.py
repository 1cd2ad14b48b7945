import dataclasses

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sample_images import photo
from sample_networks import labelled_images

from edge.photo.preprocess import Preprocess
from train.config import AugmentConfig
from train.data.augment import (
    affines,
    draw,
    insets,
    mirrors,
    perspectives,
    quarter_turns,
    render,
    scalings,
    step_rng,
    to_tensor,
)
from train.data.feeder import scale_tensor

STILL = AugmentConfig(p_hflip=0, p_vflip=0, quarter_turns=False, p_affine=0)
LIVELY = AugmentConfig(p_perspective=0.5, p_cutout=0.5, cutout_holes=2, p_jitter=0.5, p_noise=0.5)
IMAGES = labelled_images(9, 31)[0]


def changed(n, homography, **options):
    changes = draw(n, dataclasses.replace(STILL, **options), step_rng(0, 0))
    return dataclasses.replace(changes, homography=homography)


def seen_at(homography, x, y):
    """Where the result's point (x, y) comes from."""
    point = homography @ (x, y, 1)
    return point[:2] / point[2]


@pytest.mark.parametrize("border", ["reflect", "black"])
@pytest.mark.parametrize("side", [31, 32, 96, 180])
def test_nothing_asked_for_changes_nothing(border, side):
    images = np.random.default_rng(0).integers(256, size=(4, side, side, 3), dtype=np.uint8)
    images.flags.writeable = False  # as a mapped file is
    changes = draw(4, dataclasses.replace(STILL, border=border), step_rng(0, 0))
    assert (render(images, changes, size_px=side) == images).all()
    scale = scale_tensor(Preprocess(scale=(0.1, 0.2, 0.3)))
    expected = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() * scale
    assert torch.equal(to_tensor(images, changes, scale=scale), expected)


@pytest.mark.parametrize("border", ["reflect", "black"])
def test_mirrors_and_quarter_turns_are_exact(border):
    picture = np.asarray(photo(31, 31))
    cases = [(h, v, k) for h in (False, True) for v in (False, True) for k in range(4)]
    h, v, k = map(np.array, zip(*cases))
    found = render(
        np.repeat(picture[None], 16, axis=0), changed(16, mirrors(h, v) @ quarter_turns(k), border=border), size_px=31
    )
    for image, (hflip, vflip, turn) in zip(found, cases):
        expected = Image.fromarray(picture)
        if hflip:
            expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if vflip:
            expected = expected.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        assert (image == np.rot90(np.asarray(expected), turn)).all()


def test_zoom_shift_and_rotation_mean_what_they_say():
    one = np.ones(1)
    zoomed, turned, shifted = (
        affines(np.radians(angle) * one, zoom * one, x * one, y * one)[0]
        for angle, zoom, x, y in ((0, 2, 0, 0), (30, 1, 0, 0), (0, 1, 0.5, -0.25))
    )
    assert seen_at(zoomed, 1, 1) == pytest.approx([0.5, 0.5])  # twice as large: half as far from the centre
    assert seen_at(shifted, 0.5, -0.25) == pytest.approx([0, 0])  # the centre moves right and up
    picture = photo(65, 65)
    found = render(np.asarray(picture)[None], changed(1, turned[None], border="black"), size_px=65)[0].astype(int)
    expected = np.asarray(picture.rotate(30, Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(found - expected)[8:-8, 8:-8].mean() < 1


def test_perspective_pulls_the_corners_in():
    pulls = np.array([[[0.1, 0.2], [0.0, 0.3], [0.32, 0.0], [0.05, 0.15]], np.zeros((4, 2))])
    pulled, still = perspectives(pulls)
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    for corner, pull in zip(corners, pulls[0]):
        assert seen_at(pulled, *corner) == pytest.approx(np.array(corner) * (1 - 2 * pull))
    assert (still == np.eye(3)).all()


def test_perspective_has_albumentations_deviation():
    config = dataclasses.replace(STILL, p_perspective=1, perspective=0.1)
    changes = draw(4000, config, step_rng(0, 0))
    pulled = np.array([(seen_at(matrix, -1, -1) + 1) / 2 for matrix in changes.homography])
    assert pulled.min() >= 0 and pulled.max() < 0.32
    assert pulled.mean() == pytest.approx(0.1 * np.sqrt(2 / np.pi), rel=0.03)  # of |N(0, 0.1)|


def test_one_warp_equals_the_parts_one_by_one():
    size = 64
    picture = cv2.GaussianBlur(np.asarray(photo(size, size)), (0, 0), 3).astype(np.float32)
    one = np.ones(1)
    parts = [
        mirrors(one > 0, one < 0)[0],
        quarter_turns(one.astype(int))[0],
        affines(0.4 * one, 1.1 * one, 0.1 * one, -0.05 * one)[0],
        perspectives(np.array([[[0.1, 0.05], [0.02, 0.1], [0.1, 0.1], [0.0, 0.08]]]))[0],
    ]
    to_pixels = np.array([[size / 2, 0, (size - 1) / 2], [0, size / 2, (size - 1) / 2], [0, 0, 1]])
    expected = picture
    for part in parts:
        matrix = to_pixels @ part @ np.linalg.inv(to_pixels)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        expected = cv2.warpPerspective(expected, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    whole = np.linalg.multi_dot(parts)[None]
    found = render(picture.round().astype(np.uint8)[None], changed(1, whole), size_px=size)[0]
    assert np.abs(found - expected)[12:-12, 12:-12].max() < 4
    assert np.abs(found - picture)[12:-12, 12:-12].mean() > 10  # the test would see nothing happen


def test_a_batch_draws_the_order_of_the_parts():
    config = dataclasses.replace(STILL, p_hflip=1, p_affine=1, rotate_deg=0, shift=0)
    matrix = draw(1, config, step_rng(0, 0)).homography[0]
    assert matrix[0, 0] == -matrix[1, 1] < 0 and 1 / 1.2 <= matrix[1, 1] <= 1.2


def test_two_sides_see_the_same_geometry():
    picture = cv2.GaussianBlur(np.asarray(photo(128, 128)), (0, 0), 4)
    pictures = np.repeat(picture[None], 6, axis=0)
    changes = draw(6, dataclasses.replace(LIVELY, p_noise=0, border="black"), step_rng(1, 2))
    large = render(pictures, changes, size_px=96)
    halves = np.stack([cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA) for image in pictures])
    small = render(halves, changes, size_px=48)
    reduced = np.stack([cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA) for image in large])
    difference = np.abs(reduced.astype(int) - small)
    assert np.median(difference) <= 2 and difference.mean() < 5  # the rest: edges of holes and of the picture


def test_drawn_shares_and_ranges():
    config = AugmentConfig(p_hflip=0.25, p_noise=0.3, p_cutout=0.4, p_affine=0.5, p_jitter=0.2, quarter_turns=False)
    changes = draw(4000, config, step_rng(0, 0))
    assert np.mean(np.linalg.det(changes.homography[:, :2, :2]) < 0) == pytest.approx(0.25 * 0.5 + 0.75 * 0.5, abs=0.03)
    assert changes.is_noisy.mean() == pytest.approx(0.3, abs=0.03)
    assert changes.holes.any(axis=(1, 2)).mean() == pytest.approx(0.4, abs=0.03)
    assert (changes.colour != (1, 1, 1, 0)).any(axis=1).mean() == pytest.approx(0.2, abs=0.03)
    assert (changes.homography[:, 0, 1] != 0).mean() == pytest.approx(0.5, abs=0.03)
    zooms = 1 / np.sqrt(np.abs(np.linalg.det(changes.homography[:, :2, :2])))
    assert 1 / 1.2 - 1e-9 <= zooms.min() < 0.85 and 1.15 < zooms.max() <= 1.2 + 1e-9
    assert np.abs(changes.homography[:, :2, 2]).max() <= 2 * 0.08 * 1.2 * np.sqrt(2)


def test_recipes_that_differ_in_one_ingredient_agree_in_the_others():
    plain, noisy = (draw(8, dataclasses.replace(LIVELY, p_noise=p), step_rng(0, 0)) for p in (0, 1))
    assert (plain.homography == noisy.homography).all() and (plain.holes == noisy.holes).all()


def test_repeats_are_noisy_in_any_case():
    is_repeat = np.arange(9) % 3 == 0
    assert (draw(9, STILL, step_rng(0, 0), is_repeat=is_repeat).is_noisy == is_repeat).all()


def test_a_part_of_a_batch_is_that_of_the_whole():
    changes = draw(9, LIVELY, step_rng(5, 6))
    scale = scale_tensor(Preprocess())
    whole = to_tensor(render(IMAGES, changes, size_px=24), changes, scale=scale)
    part = changes.part(slice(4, 7))
    assert torch.equal(whole[4:7], to_tensor(render(IMAGES[4:7], part, size_px=24), part, scale=scale))


def test_holes_are_black_squares():
    config = dataclasses.replace(STILL, p_cutout=1, cutout_holes=1, cutout_size=0.25, p_jitter=1)
    images = render(np.full((50, 64, 64, 3), 200, np.uint8), draw(50, config, step_rng(0, 0)), size_px=64)
    areas = (images == 0).all(axis=3).sum(axis=(1, 2))
    assert areas.max() == 16 * 16 and areas.min() >= 7 * 7  # those at a border are cut


@pytest.mark.parametrize("scale", [1 / 255, (1 / 255 / 0.3394, 1 / 255 / 0.2834, 1 / 255 / 0.2840)])
def test_noise_in_the_units_of_li_et_al(scale):
    config = dataclasses.replace(STILL, p_noise=1)
    images = np.full((8, 64, 64, 3), 250, np.uint8)
    factor = scale_tensor(Preprocess(scale=scale))
    tensor = to_tensor(images, draw(8, config, step_rng(0, 0)), scale=factor)
    noise = tensor / factor / 255 - 250 / 255  # in shares of full range
    std = torch.tensor([0.3394, 0.2834, 0.2840])
    assert noise.std(dim=(0, 2, 3)).tolist() == pytest.approx((0.03 * std).tolist(), rel=0.02)
    assert noise.mean().abs() < 2e-4
    assert noise.max() > 5 / 255  # not clipped
    assert not torch.equal(noise[0], noise[1])


def test_colour_changes_keep_what_they_should():
    grey = np.full((1, 8, 8, 3), 120, np.uint8)
    colourful = np.tile(np.array([180, 120, 60], np.uint8), (1, 8, 8, 1))
    base = changed(1, np.eye(3)[None])

    def with_colour(pictures, *colour):
        return render(pictures, dataclasses.replace(base, colour=np.array([colour])), size_px=8)[0, 0, 0].tolist()

    assert with_colour(grey, 1.1, 1, 1, 0) == [132] * 3
    assert with_colour(grey, 1, 1.3, 0.5, 1.0) == [120] * 3  # no contrast, saturation or hue in one grey
    assert with_colour(colourful, 1, 1, 0, 0) == [131] * 3  # BT.601
    assert with_colour(colourful, 1, 1, 1, 2 * np.pi / 3) == [60, 180, 120]


def test_a_picture_made_wider():
    wider = scalings(np.array([2.0]), np.array([0.5]))[0]
    assert seen_at(wider, 1, 0.5) == pytest.approx([0.5, 1])  # half as much of its width is seen, twice its height
    config = dataclasses.replace(STILL, p_affine=1, rotate_deg=0, shift=0, zoom=0, aspect=0.5)
    changes = draw(400, config, step_rng(0, 0))
    ratios = changes.homography[:, 1, 1] / changes.homography[:, 0, 0]
    assert (ratios.min(), ratios.max()) == pytest.approx((1 / 1.5, 1.5), rel=0.02)
    areas = changes.homography[:, 1, 1] * changes.homography[:, 0, 0]
    assert areas == pytest.approx(1)


def test_insets_shrink_the_picture_between_bars_without_squeezing_it():
    widths = np.array([[0.25, 0.0, 0.25, 0.0], [0.0, 0.1, 0.0, 0.3]])
    both, uneven = insets(widths)
    assert seen_at(both, -0.5, 0.5) == pytest.approx([-1, 1]) and seen_at(both, 0.5, -0.5) == pytest.approx([1, -1])
    assert seen_at(uneven, -0.6, -0.8) == pytest.approx([-1, -1])
    assert seen_at(uneven, 0.6, 0.4) == pytest.approx([1, 1])


@pytest.mark.parametrize("fill,colour", [(0, (0, 0, 0)), (1, (255, 255, 255)), (2, None)])
def test_bars_cover_what_was_drawn_and_hold_all_of_the_picture(fill, colour):
    picture = np.asarray(photo(64, 64))
    widths = np.array([[0.25, 0.0, 0.25, 0.0]])
    changes = dataclasses.replace(changed(1, insets(widths)), bars=widths, bar_fill=np.array([fill]))
    found = render(picture[None], changes, size_px=64)[0]
    expected = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_LINEAR)
    assert np.abs(found[16:48, 16:48].astype(int) - expected).mean() < 2
    for bar, edge in ((found[:, :16], found[:, 16]), (found[:, 48:], found[:, 47])):
        wanted = colour or edge.mean(axis=0).astype(np.uint8)
        assert (bar == wanted).all()


def test_bars_are_drawn_on_every_side_and_as_often_as_asked():
    config = dataclasses.replace(STILL, p_bars=0.5, bars=0.8)
    bars = draw(4000, config, step_rng(0, 0)).bars
    has_bars = bars.any(axis=1)
    assert has_bars.mean() == pytest.approx(0.5, abs=0.03)
    assert ((bars > 0).mean(axis=0) > 0.1).all()  # each of the four sides
    taken = bars.sum(axis=1)
    assert taken.max() == pytest.approx(1 - 1 / 1.8, abs=0.01)
    assert not (bars[:, 0::2].any(axis=1) & bars[:, 1::2].any(axis=1)).any()  # left and right, or above and below
    halves = bars[has_bars & (np.abs(bars[:, 0] + bars[:, 1] - taken / 2) < 1e-9)]
    assert len(halves) / has_bars.sum() == pytest.approx(0.5, abs=0.05)


def test_the_older_draws_stay_where_they_were():
    """Recipes without the newer changes draw the same pictures as before those were added."""
    changes = draw(3, AugmentConfig(p_cutout=1.0), step_rng(3, 7))
    assert changes.homography[0, 0] == pytest.approx([1.0187364909185, 0.2959953574749, 0.0190416656977], abs=1e-9)
    assert changes.holes[2, 0] == pytest.approx([0.3586171145, 0.6919097803, 0.5086171145, 0.8419097803], abs=1e-9)
    assert changes.noise_seed[1] == 381845729232181685
