import cv2
import numpy as np
import pytest
from sample_images import photo

from train.config import AugmentConfig
from train.data.augment import NUM_AMOUNTS, NUM_CHANCES, draw_degradations, lose_detail, relight

PICTURE = np.asarray(photo(64, 64))


def drawn(chance, amounts, **options):
    config = AugmentConfig(**{"p_light": 1.0, "p_blur": 1.0, "p_coarse": 1.0, "p_jpeg": 1.0, **options})
    return draw_degradations(np.full((1, NUM_CHANCES), chance), np.full((1, NUM_AMOUNTS), amounts), config)


def to_linear(level):
    value = level / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def test_amounts_reach_from_end_to_end():
    light, saturation, losses = drawn(0.0, 0.0, exposure_ev=1.0, white_balance=0.5, saturation=0.25, jpeg_quality=30)
    assert light[0] == pytest.approx([0.5 / 1.5, 0.5, 0.5 * 1.5])  # a stop down, and as cool as may be
    assert (saturation[0], losses[0].tolist()) == (pytest.approx(0.8), [0, 1, 30])
    light, saturation, losses = drawn(
        0.0, np.nextafter(1, 0), exposure_ev=1.0, white_balance=0.5, saturation=0.25, blur=0.02, coarse=1.0
    )
    assert light[0] == pytest.approx([2 * 1.5, 2, 2 / 1.5])
    assert (saturation[0], losses[0].tolist()) == (pytest.approx(1.25), pytest.approx([0.02, 2, 95]))


def test_nothing_drawn_is_nothing_done():
    light, saturation, losses = drawn(0.5, 0.9, p_light=0.5, p_blur=0.1, p_coarse=0.0, p_jpeg=0.5)
    assert (light[0].tolist(), saturation[0], losses[0].tolist()) == ([1, 1, 1], 1, [0, 1, 0])
    image = PICTURE.copy()
    relight(image, light[0])
    lose_detail(image, *losses[0])
    assert (image == PICTURE).all()


def test_exposure_acts_on_linear_light():
    image = PICTURE.copy()
    relight(image, np.array([0.5, 1.0, 2.0]))
    for before, after in zip(PICTURE.reshape(-1, 3)[::97], image.reshape(-1, 3)[::97]):
        assert after[1] == before[1]
        assert to_linear(after[0]) == pytest.approx(to_linear(before[0]) / 2, abs=0.005)
        assert to_linear(after[2]) == pytest.approx(min(1, 2 * to_linear(before[2])), abs=0.01)


def test_blur_is_a_gaussian_of_a_share_of_the_side():
    image = np.zeros((65, 65, 3), np.uint8)
    image[32, 32] = 255
    lose_detail(image, 2 / 65, 1, 0)
    row = image[32, :, 0].astype(float)
    found = np.sqrt((row * (np.arange(65) - 32.0) ** 2).sum() / row.sum())
    assert found == pytest.approx(2, rel=0.15)  # rounding to levels cuts the tails


def test_few_pixels_and_jpeg_are_opencvs():
    image = PICTURE.copy()
    lose_detail(image, 0, 2, 0)
    assert (image == cv2.resize(cv2.resize(PICTURE, (32, 32), interpolation=cv2.INTER_AREA), (64, 64))).all()
    low, high = PICTURE.copy(), PICTURE.copy()
    lose_detail(low, 0, 1, 10)
    lose_detail(high, 0, 1, 95)
    changes = [np.abs(image.astype(int) - PICTURE).mean() for image in (low, high)]
    assert 0 < changes[1] < changes[0]
    red = np.full((16, 16, 3), (200, 30, 30), np.uint8)
    lose_detail(red, 0, 1, 95)
    assert np.abs(red.astype(int) - (200, 30, 30)).max() <= 4  # red is still red: channels are not exchanged
