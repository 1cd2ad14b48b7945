"""Pixels to network input: geometry, rotation, compositing, and the JSON that travels in the model."""

import dataclasses
import io
import json
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageOps
from sample_images import SHARED_DATA, encoded, photo

from edge.errors import DecodeError
from edge.photo.preprocess import Preprocess


def psnr_db(a, b):
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def naive(image, side):
    """Letterbox by the book: rotate, resize the whole picture, paste into the middle."""
    image = ImageOps.exif_transpose(image).convert("RGB")
    factor = side / max(image.size)
    size = tuple(max(1, int(factor * n + 0.5)) for n in image.size)
    canvas = Image.new("RGB", (side, side))
    canvas.paste(
        image.resize(size, Image.Resampling.BILINEAR), ((side - size[0]) // 2, (side - size[1]) // 2)
    )
    return np.asarray(canvas)


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (333, 251), (50, 500), (700, 3), (1, 1), (128, 128)])
def test_letterbox_equals_the_naive_way(size):
    content = encoded(photo(*size), "PNG")
    image = Image.open(io.BytesIO(content))
    assert np.array_equal(Preprocess()(content), naive(image, 128))


@pytest.mark.parametrize("size", [(1600, 1200), (1601, 1203), (901, 700), (2592, 1944)])
def test_scaled_decoding_is_close_to_full_decoding(size):
    content = encoded(photo(*size), quality=90)
    full = dataclasses.replace(Preprocess(), draft_factor=0)(content)
    assert psnr_db(Preprocess()(content), full) > 44


def test_the_exact_box_matters():
    """1001 / 8 is no integer: a resize of the whole 126-pixel picture would squeeze it."""
    content = encoded(photo(1001, 1001), quality=90)
    image = Image.open(io.BytesIO(content))
    image.draft(None, (125, 125))
    assert image.size == (126, 126)
    without_box = np.asarray(image.resize((62, 62), Image.Resampling.BILINEAR))
    preprocess = Preprocess(size_px=62)
    full = dataclasses.replace(preprocess, draft_factor=0)(content)
    assert psnr_db(preprocess(content), full) > psnr_db(without_box, full) + 3


UPRIGHT = photo(301, 200)
LOSSLESS = {  # or nearly so
    "PNG": {}, "TIFF": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True, "method": 0}
}
STORED = {  # what a camera stores under each orientation so that a viewer shows UPRIGHT
    1: UPRIGHT,
    2: UPRIGHT.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: UPRIGHT.transpose(Image.Transpose.ROTATE_180),
    4: UPRIGHT.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: UPRIGHT.transpose(Image.Transpose.TRANSPOSE),
    6: UPRIGHT.transpose(Image.Transpose.ROTATE_90),
    7: UPRIGHT.transpose(Image.Transpose.TRANSVERSE),
    8: UPRIGHT.transpose(Image.Transpose.ROTATE_270),
}


@cache
def upright_file(format):
    return encoded(UPRIGHT, format, **LOSSLESS[format])


@pytest.mark.parametrize(
    "resize, format", [*((resize, "PNG") for resize in ("stretch", "crop")), *(("letterbox", f) for f in LOSSLESS)]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_give_the_upright_picture(orientation, resize, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    preprocess = Preprocess(size_px=63, resize=resize)
    upright = preprocess(upright_file(format)).astype(int)
    turned = preprocess(encoded(STORED[orientation], format, exif=exif, **LOSSLESS[format])).astype(int)
    # Resizing rounds between its two passes, and turning swaps the passes.
    assert np.abs(turned - upright).max() <= (3 if format == "JPEG" else 1)


def test_orientation_can_be_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    preprocess = Preprocess(apply_orientation=False)
    plain = preprocess(encoded(UPRIGHT, "PNG"))
    assert np.array_equal(preprocess(encoded(UPRIGHT, "PNG", exif=exif)), plain)


def test_crop_takes_the_middle_and_stretch_takes_all():
    array = np.zeros((100, 300, 3), np.uint8)
    array[:, 100:200] = 255
    content = encoded(Image.fromarray(array), "PNG")
    assert Preprocess(size_px=16, resize="crop")(content)[:, 1:-1].min() == 255  # the filter reaches over the edge
    stretched = Preprocess(size_px=18, resize="stretch")(content)
    assert stretched[:, 8].min() == 255 and stretched[:, 1].max() == 0


def test_padding_value_and_background_colour():
    clear = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    preprocess = Preprocess(size_px=40, pad_value=7, background_rgb=(1, 2, 3))
    pixels = preprocess(encoded(clear, "PNG"))
    assert pixels[0].tolist() == [[7, 7, 7]] * 40
    assert pixels[20].tolist() == [[1, 2, 3]] * 40


def test_half_transparent_pixels_are_mixed():
    half = Image.new("RGBA", (64, 64), (200, 0, 0, 128))
    pixels = Preprocess(size_px=8)(encoded(half, "PNG"))
    assert np.abs(pixels[4, 4].astype(int) - (227, 127, 127)).max() <= 1


def test_result_is_written_into_a_slot_of_a_batch():
    batch = np.full((2, 128, 128, 3), 9, np.uint8)
    loaded = Preprocess().load(encoded(photo()), out=batch[1])
    assert loaded.pixels.base is batch
    assert (batch[0] == 9).all()
    assert np.array_equal(batch[1], Preprocess()(encoded(photo())))
    assert (loaded.width, loaded.height) == (320, 240)
    assert loaded.decode_ms > 0 and loaded.resize_ms > 0
    with pytest.raises(ValueError, match=r"got \(2, 128, 128, 3\) uint8, expected \(128, 128, 3\) uint8"):
        Preprocess().load(encoded(photo()), out=batch)


def test_json_round_trip_and_its_refusals():
    preprocess = Preprocess(size_px=96, scale=(0.1, 0.2, 0.3), background_rgb=(0, 0, 0))
    assert Preprocess.from_json(preprocess.to_json()) == preprocess
    values = json.loads(preprocess.to_json())
    for bad, message in [
        ("[]", "expected the keys"),
        ("{", "Expecting"),
        (json.dumps({**values, "mean": 0}), "expected the keys"),
        (json.dumps({k: v for k, v in values.items() if k != "filter"}), "expected the keys"),
        (json.dumps({**values, "size_px": 0}), "size_px: got 0, expected an integer from 8"),
        (json.dumps({**values, "resize": "fit"}), "resize: got 'fit', expected letterbox"),
        (json.dumps({**values, "scale": [1, 2]}), "scale: got"),
        (json.dumps({**values, "scale": "1"}), "scale: got '1', expected one or three"),
        (json.dumps({**values, "background_rgb": [0, 0, 256]}), "background_rgb"),
        (json.dumps({**values, "apply_orientation": 1}), "apply_orientation"),
    ]:
        with pytest.raises(ValueError, match=message):
            Preprocess.from_json(bad)


@pytest.mark.data
def test_every_orientation_sample_matches_its_upright_sibling():
    """Real EXIF files: the eight Landscape pictures show one scene, so all must give the picture of number 1."""
    folder = SHARED_DATA / "decode"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: the decoder samples are not part of the project")
    for kind in ("Landscape", "Portrait"):
        upright = Preprocess()(folder / f"exif-orientation-recurser-{kind}_1.jpg")
        for path in sorted(folder.glob(f"exif-orientation-recurser-{kind}_[2-8].jpg")):
            assert psnr_db(Preprocess()(path), upright) > 30, path.name


@pytest.mark.data
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_of_the_decoder_samples_only_the_broken_ones_fail():
    folder = SHARED_DATA / "decode"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: the decoder samples are not part of the project")
    usable = failed = 0
    for path in sorted(folder.iterdir()):
        try:
            pixels = Preprocess()(path)
        except DecodeError:
            failed += 1
            continue
        usable += 1
        assert pixels.shape == (128, 128, 3)
    assert (usable, failed) == (71, 10)  # 9 broken images and the manifest
