"""Small pictures the runtime's tests make for themselves."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

TINY_MODEL = Path(__file__).parent / "data" / "tiny.onnx"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def photo(width=320, height=240, *, seed=0, mode="RGB"):
    """A smooth, noisy, asymmetric picture: turning or cutting it shows."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth + rng.normal(0, 4, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image, format="JPEG", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def folder_of_photos(folder, count, *, size=(64, 48)):
    """`count` small JPEGs img0.jpg, img1.jpg, ... in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"img{i}.jpg").write_bytes(encoded(photo(*size, seed=i)))
    return folder
