"""The copy shows the same pictures another way up, under the same names."""

import os

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


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_other_kinds_of_pixels_are_kept(data, tmp_path, mode):
    path = index(data)[0].path
    with Image.open(data / path) as image:
        image.convert(mode).save(data / path, "PNG")
    assert run("turn", data, tmp_path / "out", "-q") == 0
    with Image.open(data / path) as before, Image.open(tmp_path / "out" / path) as after:
        assert after.mode == mode
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before.transpose(way_of(path))))


def test_what_cannot_be_decoded_is_copied_where_it_can_be_and_said(data, tmp_path, capsys):
    (data / "manifest.csv").unlink()  # which would not name what is no file
    broken, pipe, lost = (sample.path for sample in index(data)[:3])
    (data / broken).write_bytes(b"\xff\xd8 cut")
    for path in (pipe, lost):
        (data / path).unlink()
    os.mkfifo(data / pipe)
    (data / lost).symlink_to(tmp_path / "gone")
    assert run("turn", data, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "21 of 24 pictures are turned or mirrored" in said
    assert f"3 could not be decoded; files are copied as they are; the first: {data / broken}" in said
    assert (tmp_path / "out" / broken).read_bytes() == b"\xff\xd8 cut"
    assert len(index(tmp_path / "out")) == 22


def test_nothing_is_written_over(data, tmp_path, capsys):
    before = {path: path.read_bytes() for path in data.rglob("*.png")}
    (tmp_path / "link").symlink_to(data)
    for out in (data, data / "turned", tmp_path / "link"):
        assert run("turn", data, out, "-q") == 3
        assert "lies in the data set" in capsys.readouterr().err
    (tmp_path / "file").touch()
    for out, why in ((tmp_path, "is not empty (expected an empty folder or none)"), (tmp_path / "file", "is a file")):
        assert run("turn", data, out, "-q") == 2
        assert why in capsys.readouterr().err
    assert {path: path.read_bytes() for path in data.rglob("*.png")} == before
    assert run("turn", tmp_path / "gone", tmp_path / "out", "-q") == 3


@pytest.mark.parametrize(("stop", "status", "text"), [
    (KeyboardInterrupt(), 130, "interrupted after 3 of 24 pictures; "),
    (OSError(28, "No space left on device"), 5, "No space left on device"),
])  # fmt: skip
def test_what_stops_it_is_told_and_leaves_whole_files(data, tmp_path, monkeypatch, capsys, stop, status, text):
    replace, left = os.replace, [None] * 4  # the manifest and three pictures

    def stops(source, target):
        if not left:
            raise stop
        left.pop()
        replace(source, target)

    monkeypatch.setattr("edge.outputs.os.replace", stops)
    assert run("turn", data, tmp_path / "out", "-q") == status
    assert text in capsys.readouterr().err
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == 4 and not [path for path in written if path.name.endswith(".part")]
