"""The predictions file: its bytes, reading back, continuing after a crash."""

import errno
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge import Prediction
from edge.errors import ModelError, PredictionsError
from edge.predictions import Layout, from_path_text, meta_path, path_text, read, stamp_of
from edge.predictions_writer import PredictionsWriter, format_of, part_path

CLASSES = ("ash", "birch", "cedar")
OK = Prediction("a.jpg", "birch", 1, 0.7, "ok", "", 64, 48, 1.5, 0.25, np.array([0.2, 0.7, 0.1], np.float32))
FAILED = Prediction("b, \"2\".jpg", status="error", error="truncated", width=10, height=20)
META = {"schema": "edge-predictions/1", "root": "photos", "model_sha256": "0" * 64, "classes": list(CLASSES)}


def layout(**options):
    return Layout(CLASSES, **options)


def write(path, predictions, *, finish=True, **options):
    writer = PredictionsWriter.create(layout(**options), META, path)
    for prediction in predictions:
        writer.write(prediction)
    (writer.finish if finish else writer.close)()


def resume(path, names=None, meta=META, photos=None, **options):
    """The writer, and what it says of the rows that it kept."""
    rows, names = [], names or NAMES
    writer, kept = PredictionsWriter.resume(
        layout(**options), meta, path, names, photos or names, count=rows.append
    )
    assert kept == len(rows)
    return writer, rows


def test_csv_to_the_byte(tmp_path):
    path = tmp_path / "out.csv"
    write(path, [OK, FAILED], topk=2, probs=True)
    assert path.read_bytes().decode() == (
        "path,label,label_index,confidence,status,error,width,height,decode_ms,infer_ms,"
        "top2_label,top2_confidence,prob_ash,prob_birch,prob_cedar\n"
        "a.jpg,birch,1,0.700000,ok,,64,48,1.500,0.250,ash,0.200000,0.200000,0.700000,0.100000\n"
        '"b, ""2"".jpg",,,,error,truncated,10,20,,,,,,,\n'
    )
    assert json.loads((tmp_path / "out.csv.meta.json").read_text()) == META
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "out.csv.meta.json"]


def test_jsonl_to_the_byte(tmp_path):
    path = tmp_path / "out.jsonl"
    write(path, [OK, FAILED], format="jsonl", timing=False)
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == META
    assert lines[1] == (
        '{"path": "a.jpg", "label": "birch", "label_index": 1, "confidence": 0.7, "status": "ok", "error": "", '
        '"width": 64, "height": 48}'
    )
    assert json.loads(lines[2])["confidence"] is None
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_the_winners_form(tmp_path):
    path = tmp_path / "result.txt"
    write(path, [OK, FAILED, Prediction("two\nlines.jpg", "ash", 0, 0.5)], format="esfair")
    assert path.read_text() == 'a.jpg 1\nb, "2".jpg -1\ntwo\\x0alines.jpg 0\n'


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_reading_back_gives_what_was_written(tmp_path, format):
    path = tmp_path / f"out.{format}"
    odd = Prediction("läsion\r\n2.jpg", "uncertain", -1, 0.4, "ok", "", 1, 1, 0.5, 0.5, np.array([0.4, 0.3, 0.3], "f4"))
    write(path, [OK, FAILED, odd], format=format, probs=True)
    back = read(path)
    assert back.meta == META
    for row, original in zip(back.rows, [OK, FAILED, odd], strict=True):
        for name in ("path", "label", "label_index", "confidence", "status", "error", "width", "height", "decode_ms"):
            assert getattr(row, name) == getattr(original, name), name
    assert np.allclose(back.rows[0].probabilities, OK.probabilities)
    assert back.rows[1].probabilities is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a predictions file"),
        (b"a,b\n1,2\n", "no column path, label"),
        (b'{"schema": "other"}\n', "got schema 'other'"),
        (b'{"schema": "edge-predictions/1"}\n[1]\n', "row 1: got list"),
        (b'{"schema": "edge-predictions/1"}\n{"path": 1\n', "row 1: not JSON"),
        (b"path,label,label_index,status\na.jpg,x,one,ok\n", "row 1: invalid literal"),
        (b"path,label,label_index,status\na.jpg,x,1\n", "row 1: got 3 fields, expected 4"),
        (b"path,label,label_index,status\n,x,1,ok\n", "row 1: has no path"),
        (b"path,label,label_index,status," + b"x" * 140_000 + b"\n", "header: field larger than field limit"),
        (b"path,label,label_index,status\n" + b"x" * 140_000 + b",x,1,ok\n", "row 1: field larger than field limit"),
        (b'{"schema": "edge-predictions/1"}\n{"label": "x"}\n', "row 1: has no path"),
        (b'{"schema": "edge-predictions/1"}\n{"path": ["a"]}\n', r"row 1: path: got \['a'\], expected a text"),
        (b'{"schema": "edge-predictions/1"}\n{"path": 1, "label": 2, "status": 3, "error": 4}\n', "row 1: path: got 1"),
        (b"path,label,label_index,status,width\na.jpg,x,1,ok,0\n", "row 1: got a side of '0', expected pixels"),
        (b'{"schema": "edge-predictions/1"}\n{"path": "a", "label": {}}\n', "row 1: label: got {}, expected a text"),
        (b'{"schema": "edge-predictions/1"}\n{"path": "a", "label_index": 1.5}\n', "row 1: invalid literal .* '1.5'"),
        (b"{" + b'"a":{' * 100_000, "in.csv"),
    ],
)
def test_what_is_no_predictions_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "in.csv"
    path.write_bytes(content)
    with pytest.raises(PredictionsError, match=message):
        read(path)
    with pytest.raises(PredictionsError, match="No such file"):
        read(tmp_path / "gone.csv")


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_byte_order_mark_is_left_out_and_kept_by_resume(tmp_path, format):
    path = tmp_path / "out.x"
    write(path, PREDICTIONS, format=format)
    marked = b"\xef\xbb\xbf" + path.read_bytes()  # as Excel saves "CSV UTF-8"
    path.write_bytes(marked)
    assert [row.path for row in read(path).rows] == NAMES
    writer, rows = resume(path, format=format)
    writer.finish()
    assert len(rows) == len(NAMES) and path.read_bytes() == marked


def test_existing_files_are_not_replaced_unasked(tmp_path):
    path = tmp_path / "out.csv"
    write(path, [OK])
    with pytest.raises(FileExistsError, match="--force"):
        write(path, [OK])
    path.rename(part_path(path))
    with pytest.raises(FileExistsError, match="--resume continues"):
        write(path, [OK])
    PredictionsWriter.create(layout(), META, path, force=True).finish()
    assert read(path).rows == []


def test_two_runs_cannot_write_one_file(tmp_path):
    path = tmp_path / "out.csv"
    writer = PredictionsWriter.create(layout(), META, path)
    with pytest.raises(FileExistsError, match="another run"):
        PredictionsWriter.create(layout(), META, path, force=True)
    writer.finish()


PREDICTIONS = [Prediction(f"img\n{i}.jpg", "ash", 0, i / 10) if i % 3 else FAILED for i in range(7)]
NAMES = [p.path for p in PREDICTIONS]


@pytest.mark.parametrize("format", ["csv", "jsonl", "esfair"])
def test_a_run_cut_anywhere_resumes_to_the_unbroken_file(tmp_path, format):
    whole = tmp_path / "whole.x"
    write(whole, PREDICTIONS, format=format)
    for cut in range(0, 400, 7):
        path = tmp_path / f"{cut}.x"
        write(path, PREDICTIONS, format=format, finish=False)
        part = part_path(path)
        part.write_bytes(part.read_bytes()[:cut])
        writer, rows = resume(path, format=format)
        kept = PREDICTIONS[: len(rows)]
        assert [(row.label, row.status) for row in rows] == [(p.label, p.status) for p in kept], cut
        if format != "esfair":
            assert [(row.width, row.height) for row in rows] == [(p.width, p.height) for p in kept], cut
        for prediction in PREDICTIONS[len(rows) :]:
            writer.write(prediction)
        writer.finish()
        assert path.read_bytes() == whole.read_bytes(), cut
        if format != "jsonl":
            assert meta_path(path).read_bytes() == meta_path(whole).read_bytes(), cut
        assert not part.exists(), cut


def test_resuming_without_anything_starts_and_with_everything_keeps(tmp_path):
    path = tmp_path / "out.csv"
    writer, rows = resume(path)
    assert rows == []
    for prediction in PREDICTIONS:
        writer.write(prediction)
    writer.finish()
    before = path.read_bytes()
    writer, rows = resume(path)
    assert len(rows) == 7 and sum(row.status == "error" for row in rows) == 3
    writer.finish()
    assert path.read_bytes() == before


def test_resuming_another_list_model_or_setting_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "out.csv"
    write(path, PREDICTIONS[:3], finish=False)
    before = part_path(path).read_bytes()
    with pytest.raises(PredictionsError, match="row 2 is img\n1.jpg, but the images given now have other.jpg"):
        resume(path, [NAMES[0], "other.jpg"])
    with pytest.raises(PredictionsError, match="have no more"):
        resume(path, NAMES[:2])
    with pytest.raises(ModelError, match="made by the model 000000000000..., got 111111111111"):
        resume(path, meta={**META, "model_sha256": "1" * 64})
    resume(path, meta={**META, "model": {"file": "renamed.onnx"}})[0].close()
    with pytest.raises(PredictionsError, match="root was 'photos', is 'other'"):
        resume(path, meta={**META, "root": "other"})
    assert part_path(path).read_bytes() == before
    part_path(path).write_bytes(before + b"garbage\n")
    with pytest.raises(PredictionsError, match="row 4: got 1 fields"):
        resume(path)
    part_path(meta_path(path)).unlink()
    with pytest.raises(PredictionsError, match="missing"):
        resume(path)


def test_a_full_disk_keeps_the_complete_rows(tmp_path):
    class FullDisk:
        """Takes half of what is written, then says there is no room."""

        def __init__(self, file):
            self.file = file
            self.has_room = True

        def write(self, data):
            if not self.has_room:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.has_room = False
            return self.file.write(data[: len(data) // 2])

        def __getattr__(self, name):
            return getattr(self.file, name)

    path = tmp_path / "out.csv"
    writer = PredictionsWriter.create(layout(), META, path)
    writer.write(OK)
    complete = part_path(path).read_bytes()
    writer._file = FullDisk(writer._file)
    with pytest.raises(OSError, match="No space left"):
        writer.write(OK)
    assert part_path(path).read_bytes() == complete
    writer.close()


def test_path_text_is_one_to_one():
    assert path_text("plain ü.jpg") == "plain ü.jpg"
    assert path_text(os.fsdecode(b"a\xff\xe9.jpg")) == r"a\xff\xe9.jpg"
    for name in ("a\\b.jpg", r"C:\xml\x.jpg", r"\xFF", r"\x5", "\\"):
        assert path_text(name) == name  # nothing in them looks like an escape
    assert path_text(r"a\xff.jpg") == r"a\x5cxff.jpg"
    parts = [b"\xff", b"\\", b"x", b"f", b"5c", b"\\xff", b"\xc3\xbc"]
    names = {os.fsdecode(b"".join(chosen)) for n in range(1, 5) for chosen in itertools.product(parts, repeat=n)}
    texts = {name: path_text(name) for name in names}
    assert len({*texts.values()}) == len(names)
    assert all(from_path_text(text) == name for name, text in texts.items())


@pytest.mark.parametrize("name", ["a\rb.jpg", "a\nb.jpg", 'a"b.jpg', '"', "a,b", "{", " a ", "=1+1"])
@pytest.mark.parametrize("format", ["csv", "jsonl", "esfair"])
def test_odd_names_survive_a_resume(tmp_path, name, format):
    path = tmp_path / "out.x"
    rows = [Prediction(name, "ash", 0, 0.5), Prediction("next.jpg", "ash", 0, 0.5)]
    write(path, rows[:1], format=format, finish=False)
    writer, kept = resume(path, [p.path for p in rows], format=format)
    assert len(kept) == 1
    writer.write(rows[1])
    writer.finish()
    if format != "esfair":
        assert [p.path for p in read(path).rows] == [name, "next.jpg"]


@pytest.mark.parametrize("format", ["csv", "esfair"])
def test_killed_between_the_renames_of_the_end(tmp_path, format, monkeypatch):
    path = tmp_path / "out.x"
    write(path, PREDICTIONS[:2], format=format)  # an older run, to be replaced

    class Killed(Exception):
        pass

    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise Killed
        real(source, target)

    writer = PredictionsWriter.create(layout(format=format), META, path, force=True)
    for prediction in PREDICTIONS:
        writer.write(prediction)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        writer.finish()
    monkeypatch.undo()
    writer.close()
    assert not path.exists()  # the old rows must not stand beside the new meta
    writer, rows = resume(path, format=format)
    writer.finish()
    assert len(rows) == 7 and path.exists() and sorted(os.listdir(tmp_path)) == ["out.x", "out.x.meta.json"]


def test_refusing_to_resume_a_finished_file_leaves_it_alone(tmp_path):
    path = tmp_path / "out.csv"
    write(path, PREDICTIONS)
    with pytest.raises(PredictionsError):
        resume(path, ["other.jpg"])
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "out.csv.meta.json"]


def test_another_files_meta_is_not_replaced_unasked(tmp_path):
    (tmp_path / "out.csv.meta.json").write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        write(tmp_path / "out.csv", [OK])


def test_a_file_that_ends_in_the_middle_of_a_row_is_refused(tmp_path):
    path = tmp_path / "out.csv"
    write(path, [OK, FAILED])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(PredictionsError, match="ends in the middle of its last row"):
        read(path)


PROBS = "path,label,label_index,confidence,status,prob_ash,prob_birch,prob_cedar\na.jpg,birch,1,0.700000,ok,.2,.7,.1\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b.jpg,birch,1,.7,ok,.2,.7,.1", None),
        ("b.jpg,ash,0,0.450000,ok,.450000,.450000,.1", None),  # equal after rounding
        ("b.jpg,birch,1,0.450000,ok,.450000,.450000,.1", None),
        ("b.jpg,uncertain,-1,0.4,ok,.4,.3,.3", None),
        ("b.jpg,,,,error,,,", None),
        ("b.jpg,ash,0,.7,ok,.2,.7,.1", "got label ash, but prob_birch is the largest"),
        ("b.jpg,birch,1,.9,ok,.2,.7,.1", "got confidence 0.9, but the largest probability is 0.700000"),
        ("b.jpg,birch,1,.7,ok,.2,.7,.2", "its probabilities sum to 1.1, expected 1"),
        ("b.jpg,birch,1,.7,ok,0,.7,0", "its probabilities sum to 0.7, expected 1"),
        ("b.jpg,birch,1,.7,ok,nan,.7,.1", "its probabilities sum to nan, expected 1"),
        ("b.jpg,uncertain,-1,0.7,ok,.2,.7,.1", "got uncertain with confidence 0.7, .* min_confidence 0.5"),
        ("b.jpg,ash,0,0.4,ok,.4,.3,.3", "got ash with confidence 0.4, .* min_confidence 0.5"),
        ("b.jpg,birch,1,.7,ok,.2,.7,", "could not convert"),
    ],
)
def test_a_row_is_held_against_its_probabilities(tmp_path, row, message):
    path = tmp_path / "in.csv"
    path.write_text(f"{PROBS}{row}\n")
    least = 0.5 if "uncertain" in row or "min_confidence" in str(message) else 0.0
    meta_path(path).write_text(json.dumps({"min_confidence": least, "classes": CLASSES}))
    if message is None:
        assert len(read(path).rows) == 2
    else:
        with pytest.raises(PredictionsError, match=f"in.csv: row 2: .*{message}"):
            read(path)


def test_probabilities_are_read_by_the_name_of_their_column(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("prob_cedar,prob_ash,prob_birch,path,label,label_index,status\n.1,.2,.7,a.jpg,birch,1,ok\n")
    assert read(path).rows[0].probabilities.tolist() == pytest.approx([0.1, 0.2, 0.7])  # nothing names an order
    meta_path(path).write_text(json.dumps({"classes": CLASSES}))
    assert read(path).rows[0].probabilities.tolist() == pytest.approx([0.2, 0.7, 0.1])
    for classes, message in (
        ([*CLASSES, "elm"], "no column prob_elm, but its metadata have the class"),
        (CLASSES[:2], "got the column prob_cedar, but its metadata have no such class"),
    ):
        meta_path(path).write_text(json.dumps({"classes": classes}))
        with pytest.raises(PredictionsError, match=message):
            read(path)
    meta_path(path).unlink()
    path.write_text("path,label,label_index,status,label\na.jpg,ash,0,ok,birch\n")
    with pytest.raises(PredictionsError, match="got the column label twice"):
        read(path)


@pytest.fixture
def photos(tmp_path):
    """Files of PREDICTIONS, in whose rows are their stamps."""
    paths = [tmp_path / f"photo{i}" for i in range(len(NAMES))]
    for path in paths:
        path.write_bytes(b"old")
    return [str(path) for path in paths]


def with_stamps(photos):
    return [replace(p, stamp=stamp_of(photo)) for p, photo in zip(PREDICTIONS, photos, strict=True)]


def changed(path, how):
    status = os.stat(path)
    if how == "gone":
        os.unlink(path)
    elif how == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 1))
    else:
        with open(path, "wb") as file:
            file.write(b"another")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as cp -p does


@pytest.mark.parametrize("how", ["gone", "time", "size"])
@pytest.mark.parametrize("format", ["csv", "jsonl", "esfair"])
def test_the_row_of_a_photo_that_was_replaced_is_made_anew(tmp_path, photos, format, how):
    whole, path = tmp_path / "whole", tmp_path / "out"
    write(whole, with_stamps(photos), format=format)
    write(path, with_stamps(photos)[:5], format=format, finish=False)
    writer, kept = resume(path, photos=photos, format=format)
    assert len(kept) == 5 and writer.replaced == ""
    writer.close()
    changed(photos[3], how)
    for _ in range(2):  # a run that is killed at once changes nothing
        writer, kept = resume(path, photos=photos, format=format)
        assert len(kept) == 3
        writer.close()
    writer, kept = resume(path, photos=photos, format=format)
    for prediction in with_stamps(photos)[3:]:
        writer.write(prediction)
    writer.finish()
    assert path.read_bytes() == whole.read_bytes()
    files = {"out", "whole"} | ({"out.meta.json", "whole.meta.json"} if format != "jsonl" else set())
    assert {name for name in os.listdir(tmp_path) if not name.startswith("photo")} == files


def test_the_first_photo_that_was_replaced_is_named(tmp_path, photos):
    path = tmp_path / "out"
    write(path, with_stamps(photos)[:5], finish=False)
    changed(photos[1], "size")
    changed(photos[3], "size")
    writer, kept = resume(path, photos=photos)
    assert len(kept) == 1 and writer.replaced == NAMES[1]
    writer.close()


def test_a_finished_file_has_no_stamps_and_goes_by_its_own_time(tmp_path, photos):
    path = tmp_path / "out"
    write(path, with_stamps(photos))
    os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 10**9))
    writer, kept = resume(path, photos=photos)
    assert len(kept) == len(NAMES) and writer.replaced == ""
    writer.finish()
    os.utime(path, ns=(0, os.stat(path).st_mtime_ns - 10**9))
    os.utime(photos[4], ns=(0, 0))  # an old picture, put there just now
    for photo in photos[:4]:
        os.utime(path, ns=(0, os.stat(photo).st_ctime_ns))
    writer, kept = resume(path, photos=photos)
    assert len(kept) < len(NAMES) and path.exists()
    writer.close()


@pytest.mark.parametrize("format", ["csv", "jsonl", "esfair"])
def test_line_ends_of_an_edited_file_stay_or_are_refused(tmp_path, format):
    whole, path = tmp_path / "whole", tmp_path / "out"
    plain = [Prediction(f"{i}.jpg", "ash", 0, 0.5) for i in range(6)]
    names = [p.path for p in plain]
    write(whole, plain, format=format)
    write(path, plain[:3], format=format, finish=False)
    content = part_path(path).read_bytes()
    part_path(path).write_bytes(content.replace(b"\n", b"\r\n", 2))
    with pytest.raises(PredictionsError, match=r"out.part: has LF and CRLF as line ends; start over with --force"):
        resume(path, names, format=format)
    part_path(path).write_bytes(content.replace(b"\n", b"\r\n"))
    writer, kept = resume(path, names, format=format)
    assert len(kept) == 3
    for prediction in plain[3:]:
        writer.write(prediction)
    writer.finish()
    assert path.read_bytes() == whole.read_bytes().replace(b"\n", b"\r\n")
    if format != "esfair":
        assert [row.path for row in read(path).rows] == names


def test_what_is_said_of_a_finished_file_has_its_name(tmp_path):
    path = tmp_path / "out.csv"
    write(path, PREDICTIONS)
    for options in ({"names": ["other.jpg"]}, {"meta": {**META, "root": "other"}}):
        with pytest.raises(PredictionsError, match=f"^{path}: "):
            resume(path, **options)


@pytest.mark.parametrize(
    ("name", "wanted", "format"),
    [
        (None, None, "csv"), ("x.csv", None, "csv"), ("x.CSV", None, "csv"), ("x.jsonl", None, "jsonl"),
        ("x.ndjson", None, "jsonl"), ("x", None, "csv"), ("x", "jsonl", "jsonl"), ("x.2026-11-28", None, "csv"),
        ("x.txt", "csv", "csv"), ("x.txt", "esfair", "esfair"), ("x.jsonl", "jsonl", "jsonl"),
        (None, "esfair", "esfair"),
    ],
)  # fmt: skip
def test_a_suffix_is_honoured(name, wanted, format):
    assert format_of(None if name is None else Path(name), wanted) == format


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("x.json", None, "x.json: got the suffix .json for csv, expected .csv, .jsonl, .ndjson or none, or .txt with"),
        ("x.txt", None, "got the suffix .txt for csv"),
        ("x.tsv", None, "got the suffix .tsv for csv"),
        ("x.xlsx", "csv", "got the suffix .xlsx for csv, expected .csv or none, or .txt with --format"),
        ("x.csv.gz", None, "got the suffix .gz"),
        ("x.csv", "jsonl", "got the suffix .csv for jsonl, expected .jsonl, .ndjson or none"),
        ("x.jsonl", "csv", "got the suffix .jsonl for csv"),
        ("x.csv", "esfair", "got the suffix .csv for esfair, expected none, or .txt with --format"),
        ("x.json", "jsonl", "got the suffix .json for jsonl"),
    ],
)
def test_or_refused(name, wanted, message):
    with pytest.raises(PredictionsError, match=message) as caught:
        format_of(Path(name), wanted)
    assert caught.value.exit_status == 2
