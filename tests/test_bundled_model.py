"""What the bundled model answers to pictures of the shapes that cameras give."""

import pytest

from bench.images import encode
from bench.scene import draw
from edge.classifier import DEFAULT_MODEL, FLOAT_MODEL, Classifier
from edge.cli import main
from edge.predictions import read

PICTURES = [(seed, index) for seed in range(4) for index in range(10)]


def labels(folder, width, height):
    """Of `edge-infer` for drawn pictures of one shape."""
    photos = folder / f"{width}x{height}"
    photos.mkdir()
    for seed, index in PICTURES:
        (photos / f"{seed}-{index}.jpg").write_bytes(encode(draw(width, height, seed=seed, index=index)))
    assert main([str(photos), "-q", "-o", str(folder / f"{width}x{height}.csv")]) == 0
    return [row.label for row in read(folder / f"{width}x{height}.csv").rows]


@pytest.fixture(scope="module")
def of_squares(tmp_path_factory):
    return labels(tmp_path_factory.mktemp("squares"), 240, 240)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (240, 320)])
def test_a_picture_that_is_not_square_is_answered_as_the_same_in_a_square(width, height, of_squares, tmp_path):
    """A network that saw squares alone answered MEL to all others, which had got black bars: no answer was the same."""
    found = labels(tmp_path, width, height)
    assert len(set(found)) > 1
    assert sum(map(str.__eq__, found, of_squares)) >= 0.8 * len(PICTURES)


def test_both_forms_take_pictures_in_the_same_way():
    assert Classifier.load(DEFAULT_MODEL).preprocess == Classifier.load(FLOAT_MODEL).preprocess
