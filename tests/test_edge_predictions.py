"""The predictions file: its bytes, reading back, continuing after a crash."""

import errno
import json
import os

import numpy as np
import pytest

from edge import Prediction
from edge.errors import ModelError, PredictionsError
from edge.predictions import Layout, meta_path, path_text, read
from edge.predictions_writer import PredictionsWriter, part_path

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


def resume(path, names=None, meta=META, **options):
    """The writer, and what it says of the rows that it kept."""
    rows = []
    writer, kept = PredictionsWriter.resume(layout(**options), meta, path, names or NAMES, count=rows.append)
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


def test_path_text():
    assert path_text("plain ü.jpg") == "plain ü.jpg"
    assert path_text(os.fsdecode(b"a\xff\xe9.jpg")) == r"a\xff\xe9.jpg"


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
