"""The copy shows the same pictures another way up, under the same names."""

import shutil

import numpy as np
import pytest
from PIL import Image
from sample_networks import dataset

from bench.cli import main
from bench.dataset import index
from bench.turn import WAYS, way_of


def run(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def data(tmp_path):
    return dataset(tmp_path / "data", 24)


def test_every_picture_is_turned_and_nothing_else_changes(data, tmp_path):
    out = tmp_path / "out"
    assert run("turn", data, out, "-q") == 0
    assert (out / "manifest.csv").read_bytes() == (data / "manifest.csv").read_bytes()
    samples = index(out)
    assert samples == index(data) and {way_of(sample.path) for sample in samples} == set(WAYS)
    for sample in samples:
        with Image.open(data / sample.path) as before, Image.open(out / sample.path) as after:
            turned = np.asarray(before.transpose(way_of(sample.path)))
            np.testing.assert_array_equal(np.asarray(after), turned)
            assert (turned != np.asarray(before)).any()
    again = tmp_path / "again"
    assert run("turn", data, again, "-q") == 0
    assert all((again / s.path).read_bytes() == (out / s.path).read_bytes() for s in samples)


def test_a_picture_held_sideways_is_turned_from_upright(data, tmp_path):
    path = next(sample.path for sample in index(data))
    with Image.open(data / path) as image:
        upright = np.asarray(image)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned clockwise by a quarter
        image.transpose(Image.Transpose.ROTATE_90).save(data / path, "PNG", exif=exif)
    assert run("turn", data, tmp_path / "out", "-q") == 0
    with Image.open(tmp_path / "out" / path) as after:
        assert 0x0112 not in after.getexif()
        np.testing.assert_array_equal(np.asarray(after), np.asarray(Image.fromarray(upright).transpose(way_of(path))))


def test_a_tree_keeps_its_folders(data, tmp_path):
    (data / "manifest.csv").unlink()
    assert run("turn", data, tmp_path / "out", "-q") == 0
    assert [s.path for s in index(tmp_path / "out")] == [s.path for s in index(data)]


def test_what_cannot_be_decoded_is_copied_and_said(data, tmp_path, capsys):
    path = index(data)[0].path
    (data / path).write_bytes(b"\xff\xd8 cut")
    assert run("turn", data, tmp_path / "out") == 1
    assert f"1 could not be decoded and are copied as they are, as {data / path}" in capsys.readouterr().err
    assert (tmp_path / "out" / path).read_bytes() == b"\xff\xd8 cut"


def test_no_original_is_written_over(data, tmp_path, capsys):
    before = {path: path.read_bytes() for path in data.rglob("*.png")}
    (tmp_path / "link").symlink_to(data)
    for out in (data, data / "turned", tmp_path / "link"):
        assert run("turn", data, out, "--force", "-q") == 3
        assert "lies in the data set" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in data.rglob("*.png")} == before
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine").touch()
    assert run("turn", data, used, "-q") == 2 and "is not empty" in capsys.readouterr().err
    shutil.rmtree(used)
    used.touch()
    assert run("turn", data, used, "-q") == 2 and "is a file" in capsys.readouterr().err
    assert run("turn", tmp_path / "gone", tmp_path / "out", "-q") == 3
