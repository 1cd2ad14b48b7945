"""Whether photos are like those that a model was trained on, and what edge-infer says in the end."""

import json
import os
import re

import pytest
from sample_images import TINY_MODEL, encoded, folder_of_photos, photo
from test_edge_classifier import changed, with_metadata

from edge import Classifier, ModelError, Prediction, Preprocess
from edge.cli import main
from edge.predictions import Layout, read
from edge.predictions_writer import PredictionsWriter, part_path
from edge.profile import Profile
from edge.progress import Summary

SQUARES = Profile(aspect_ratio=(1.0, 1.0), short_side_px=(32, 32), padding=(0.0, 0.0))
NO_PROFILE = "edge-infer: the model does not say what pictures it was trained on"


@pytest.fixture
def model(tmp_path):
    return changed(tmp_path, with_metadata(profile=SQUARES.to_json()))


@pytest.fixture
def photos(tmp_path):
    """Three of 4:3, two squares, one of them too small, and one that cannot be read."""
    folder = folder_of_photos(tmp_path / "photos", 3)
    for name, side in (("square.jpg", 40), ("tiny.jpg", 16)):
        (folder / name).write_bytes(encoded(photo(side, side)))
    (folder / "broken.jpg").write_bytes(b"")
    return folder


def infer(model, *arguments):
    return main(["-m", str(model), *map(str, arguments)])


@pytest.mark.parametrize(
    ("seen", "resize", "size", "found"),
    [
        (SQUARES, "letterbox", (40, 40), ()),
        (SQUARES, "letterbox", (42, 40), ()),  # as good as square
        (SQUARES, "letterbox", (64, 48), ("aspect_ratio",)),
        (SQUARES, "stretch", (48, 64), ("aspect_ratio",)),
        (SQUARES, "crop", (64, 48), ("aspect_ratio",)),
        (SQUARES, "letterbox", (6000, 4000), ("aspect_ratio",)),
        (SQUARES, "letterbox", (4000, 4000), ()),  # reduced to the same input
        (SQUARES, "letterbox", (20, 20), ("short_side_px",)),
        (SQUARES, "letterbox", (20, 15), ("aspect_ratio", "short_side_px")),
        (Profile((4 / 3, 4 / 3), (150, 150), (0.25, 0.25)), "letterbox", (2592, 1936), ()),
        (Profile((4 / 3, 4 / 3), (150, 150), (0.25, 0.25)), "letterbox", (1936, 2592), ()),
        (Profile((4 / 3, 4 / 3), (150, 150), (0.25, 0.25)), "letterbox", (200, 200), ("aspect_ratio",)),
        (Profile((4 / 3, 4 / 3), (150, 150), (0, 0)), "stretch", (1920, 1080), ("aspect_ratio",)),
        (Profile((4 / 3, 4 / 3), (150, 150), (0, 0)), "crop", (200, 200), ()),  # of a square nothing is cut off
        (Profile((4 / 3, 4 / 3), (150, 150), (0, 0)), "crop", (1920, 1080), ("aspect_ratio",)),
        (Profile((1, 4 / 3), (150, 150), (0, 0.25)), "letterbox", (128, 96), ()),  # fills 128 x 96 of the input
        (Profile((1, 4 / 3), (150, 150), (0, 0)), "stretch", (128, 96), ("short_side_px",)),  # 96 are enlarged to 128
        (Profile((1, 4 / 3), (64, 150), (0, 0)), "stretch", (128, 96), ()),
    ],
)
def test_what_is_outside(seen, resize, size, found):
    side = 32 if seen is SQUARES else 128
    assert seen.outside(*size, Preprocess(size_px=side, resize=resize)) == found


def test_round_trip_and_the_classifiers_attribute(model):
    seen = Profile((1.0, 1.778), (64, 4000), (0.0, 0.438))
    assert Profile.from_json(seen.to_json()) == seen
    assert Classifier.load(model).profile == SQUARES
    assert Classifier.load(TINY_MODEL).profile is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("squares", "unusable metadata"),
        ("[1, 2]", "profile: got list, expected aspect_ratio, short_side_px, padding"),
        ("{}", "profile: got nothing, expected aspect_ratio"),
        (SQUARES.to_json().replace("padding", "cushion"), "got aspect_ratio, cushion, short_side_px, expected"),
        (SQUARES.to_json().replace("[1.0, 1.0]", "1.0"), "aspect_ratio: got 1.0, expected lowest and highest"),
        (SQUARES.to_json().replace("[1.0, 1.0]", "[1.0]"), r"aspect_ratio: got \[1.0\]"),
        (SQUARES.to_json().replace("[1.0, 1.0]", "[1.5, 1.0]"), r"aspect_ratio: got \[1.5, 1.0\]"),
        (SQUARES.to_json().replace("[1.0, 1.0]", "[0.75, 1.0]"), "numbers of 1 or more"),
        (SQUARES.to_json().replace("[1.0, 1.0]", "[1.0, Infinity]"), r"aspect_ratio: got \[1.0, Infinity\]"),
        (SQUARES.to_json().replace("[1.0, 1.0]", "[1.0, NaN]"), r"aspect_ratio: got \[1.0, NaN\]"),
        (SQUARES.to_json().replace("[1.0, 1.0]", f"[1.0, 1{'0' * 400}]"), "unusable metadata"),
        (SQUARES.to_json().replace("32", '"32"'), 'short_side_px: got ."32", "32".'),
        (SQUARES.to_json().replace("32", "true"), r"short_side_px: got \[true, true\]"),
        (SQUARES.to_json().replace("[0.0, 0.0]", "[0.0, 25]"), "padding: got .* numbers of 0 to 1"),
        (SQUARES.to_json().replace("[0.0, 0.0]", "null"), "padding: got null"),
        ("[" * 100_000, "unusable metadata"),
    ],
)
def test_a_malformed_profile_is_refused_in_one_line(tmp_path, text, message):
    path = changed(tmp_path, with_metadata(profile=text))
    with pytest.raises(ModelError, match=message) as info:
        Classifier.load(path)
    assert str(info.value).startswith(f"{path}: unusable metadata: ") and "\n" not in str(info.value)


def test_a_run_ends_with_what_is_outside_and_with_the_answers(model, photos, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert infer(model, photos, "-o", out) == 1
    rows = [row for row in read(out).rows if row.status == "ok"]
    counts = {label: [row.label for row in rows].count(label) for label in ("ash", "birch", "cedar")}
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"edge-infer: 6 photos, 1 failed \(its row says why\), [0-9.]+ s, [0-9.]+ photos/s; rows in (.*)", lines[-4]
    ).group(1) == str(out)
    assert lines[-3] == (
        "edge-infer: 4 of 5 photos are unlike those that the model was trained on: 3 by aspect ratio "
        "(longer to shorter side; trained on 1.00 to 1.00), 1 by short side (trained on 32 px and more)"
    )
    start, _, answers = lines[-2].partition(": answers: ")
    assert start == "edge-infer"
    shown = [part.split(" ") for part in answers.split(", ")]
    assert {label: int(count) for label, count in shown} == {label: n for label, n in counts.items() if n}
    assert [int(count) for _, count in shown] == sorted(counts.values(), reverse=True)[: len(shown)]
    assert json.loads((tmp_path / "out.csv.meta.json").read_text())["outside_profile"] == {
        "images": 4, "of": 5, "aspect_ratio": 3, "short_side_px": 1,
        "profile": {"aspect_ratio": [1.0, 1.0], "short_side_px": [32, 32], "padding": [0.0, 0.0]},
    }


def test_photos_that_are_alike_need_no_line_and_quiet_says_nothing(model, photos, capsys):
    assert infer(model, photos / "square.jpg", "--min-confidence", "1") == 0
    head, _, rest = capsys.readouterr().err.partition("\n")
    assert head.startswith("edge-infer: 1 photo, ") and head.endswith("; rows on standard output")
    assert rest == "edge-infer: answers: uncertain 1\nedge-infer: not a medical device\n"
    assert infer(model, photos / "img0.jpg", "-q") == 0
    assert capsys.readouterr().err == ""


def test_uncertain_comes_last_and_errors_are_no_answer():
    summary = Summary(Classifier.load(TINY_MODEL))
    for label in ("uncertain", "uncertain", "uncertain", "ash", "birch", "birch"):
        summary.add(Prediction("x.jpg", label))
    summary.add(Prediction("x.jpg", status="error", width=64, height=48))
    assert [*summary.lines(7, 0, "")][-1] == "answers: birch 2, ash 1, uncertain 3"
    assert summary.errors == 1


def test_without_a_profile_one_line_says_so(photos, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert infer(TINY_MODEL, photos, "-o", out) == 1
    assert capsys.readouterr().err.count(NO_PROFILE) == 1
    assert json.loads((tmp_path / "out.csv.meta.json").read_text())["outside_profile"] is None


def test_a_photo_turned_by_exif_has_the_shape_it_has(tmp_path, capsys):
    four_to_three = Profile((4 / 3, 4 / 3), (32, 32), (0.25, 0.25))
    model = changed(tmp_path, with_metadata(profile=four_to_three.to_json()))
    exif = photo().getexif()
    exif[0x0112] = 6
    (tmp_path / "turned.jpg").write_bytes(encoded(photo(), exif=exif))
    assert infer(model, tmp_path / "turned.jpg") == 0
    assert "unlike" not in capsys.readouterr().err


@pytest.mark.parametrize("format", ["csv", "jsonl", "esfair"])
def test_a_continued_run_comes_to_the_same(model, photos, tmp_path, capsys, format):
    (photos / "broken.jpg").unlink()
    whole, out = tmp_path / "whole.txt", tmp_path / "out.txt"
    options = ["--format", format, "--no-timing"]
    assert infer(model, photos, "-o", whole, *options) == 0
    said = capsys.readouterr().err.splitlines()
    for number in range(len(whole.read_bytes().splitlines()) + 1):
        assert infer(model, photos, "-o", out, *options, "--force") == 0
        lines = out.read_bytes().splitlines(keepends=True)
        part_path(out).write_bytes(b"".join(lines[:number]))
        out.unlink()
        capsys.readouterr()
        assert infer(model, photos, "-o", out, *options, "--resume") == 0
        again = capsys.readouterr().err.splitlines()
        assert again[-2] == said[-2]  # the answers of all rows
        if format != "esfair":
            assert again[-3] == said[-3]
        assert out.read_bytes() == whole.read_bytes()
        for path in tmp_path.glob("out.txt.meta.json"):
            assert path.read_bytes() == (tmp_path / "whole.txt.meta.json").read_bytes()
    assert (tmp_path / "whole.txt.meta.json").exists() == (format != "jsonl")


@pytest.mark.parametrize("kill", [1, 2, 3])  # at the meta's last words, the meta's name, the rows' name
def test_a_kill_while_finishing_loses_nothing(tmp_path, monkeypatch, kill):
    class Killed(Exception):
        pass

    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == kill:
            raise Killed
        real(source, target)

    path, meta, totals = tmp_path / "out.csv", {"schema": "edge-predictions/1"}, {"outside_profile": None}
    layout = Layout(("ash", "birch"))
    writer = PredictionsWriter.create(layout, meta, path)
    writer.write(Prediction("a.jpg", "ash", 0, 0.5, width=64, height=48))
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        writer.finish(totals)
    monkeypatch.undo()
    writer.close()
    rows = []
    writer, kept = PredictionsWriter.resume(layout, meta, path, ["a.jpg"], ["a.jpg"], count=rows.append)
    assert kept == 1 and [(row.label, row.width, row.height) for row in rows] == [("ash", 64, 48)]
    writer.finish(totals)
    assert read(path).meta == {**meta, **totals}
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "out.csv.meta.json"]


@pytest.mark.parametrize(
    ("format", "old", "new", "message"),
    [
        ("csv", b",64,48", b",sixty,48", "row 2: got a side of 'sixty', expected pixels"),
        ("csv", b",64,48", b",0,48", "row 2: got a side of '0', expected pixels"),
        ("jsonl", b'"width": 64', b'"width": [64]', r"row 2: got a side of '\[64\]', expected pixels"),
        ("esfair", b"img0.jpg ", b"img0.jpg 9", "row 2: got the index '9"),
    ],
)
def test_damaged_rows_are_not_continued(model, photos, tmp_path, capsys, format, old, new, message):
    out = tmp_path / "out.txt"
    assert infer(model, photos, "-o", out, "--format", format, "-q") == 1
    out.write_bytes(out.read_bytes().replace(old, new, 1))
    assert infer(model, photos, "-o", out, "--format", format, "--resume") == 3
    assert re.search(message, capsys.readouterr().err)
