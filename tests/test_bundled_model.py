"""What the bundled model answers to pictures of the shapes that cameras give."""

import numpy as np
import pytest
from PIL import Image
from sample_images import SHARED_DATA

from bench.dataset import Sample, index, read_subset
from bench.photos.images import encode
from bench.photos.scene import draw
from bench.robustness.changes import CHANGES
from bench.robustness.result import ask
from edge.classifier import DEFAULT_MODEL, Classifier
from edge.cli import main
from edge.predictions import read

BORDERS = [change for change in CHANGES if change.name in ("border-edge-16:9", "border-edge-1:1", "border-edge-3:4")]
HAM10 = SHARED_DATA / "ham10"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of forty drawn pictures of 4:3."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(4):
        for number in range(10):
            (folder / f"{seed}-{number}.jpg").write_bytes(encode(draw(320, 240, seed=seed, index=number)))
    return folder


@pytest.mark.parametrize("is_on_end", [False, True])
def test_pictures_that_are_not_square_are_not_all_answered_alike(pictures, is_on_end, tmp_path):
    """A network that saw squares only answered MEL to all others, which had got black bars."""
    for path in pictures.iterdir() if is_on_end else ():
        with Image.open(path) as picture:
            (tmp_path / path.name).write_bytes(encode(picture.transpose(Image.Transpose.ROTATE_90)))
    folder = tmp_path if is_on_end else pictures
    assert main([str(folder), "-q", "-o", str(tmp_path / "p.csv")]) == 0
    labels = [row.label for row in read(tmp_path / "p.csv").rows]
    assert len(labels) == 40 and len(set(labels)) > 1


def assert_borders_change_little(root, samples, *, unchanged):
    """A share of the answers stays, and the largest probability hardly moves."""
    found = np.stack([*ask(Classifier.load(), root, samples, BORDERS, workers=2)])  # (N, 1 + K, C)
    answers, confidences = found.argmax(-1), found.max(-1)
    assert len(BORDERS) == 3 and len(set(answers[:, 0].tolist())) > 1
    assert (answers[:, 1:] == answers[:, :1]).mean() >= unchanged
    assert np.median(np.abs(confidences[:, 1:] - confidences[:, :1])) < 0.08


def test_borders_of_the_pictures_own_colour_change_little(pictures):
    samples = [Sample(path.name, "NV", "all", path.name) for path in sorted(pictures.iterdir())]
    assert_borders_change_little(pictures, samples, unchanged=0.88)  # drawn ones are near ties: it never saw such


@pytest.mark.data
@pytest.mark.skipif(not HAM10.exists(), reason="needs ham10, which is no part of the project")
def test_borders_change_little_on_held_out_pictures():
    held_out = set(read_subset(DEFAULT_MODEL.parent / DEFAULT_MODEL.name.replace(".int8.onnx", ".heldout.txt")))
    samples = [sample for sample in index(HAM10) if sample.path in held_out]
    assert len(samples) == len(held_out)
    assert_borders_change_little(HAM10, samples, unchanged=0.9)
