"""edge-infer as a person meets it: output, exit status, interruptions, bad input."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sample_images import TINY_MODEL, encoded, folder_of_photos, photo

from edge import Classifier, image_list
from edge.cli import main
from edge.predictions import read

COMMAND = [sys.executable, "-m", "edge", "-m", str(TINY_MODEL)]
ROOT = Path(__file__).parents[1]


def infer(*arguments):
    return main(["-m", str(TINY_MODEL), "-q", *map(str, arguments)])


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    folder = folder_of_photos(tmp_path_factory.mktemp("twelve") / "photos", 12)
    (folder / "img3.jpg").write_bytes(b"")
    return folder


@pytest.fixture
def photos(twelve, tmp_path):
    """Twelve photos, the fourth of them empty, for a test to change."""
    return Path(shutil.copytree(twelve, tmp_path / "photos"))


def linked(folder, content, count):
    """A folder with one photo under many names."""
    folder.mkdir()
    (folder / "img0.jpg").write_bytes(content)
    for i in range(1, count):
        os.link(folder / "img0.jpg", folder / f"img{i}.jpg")
    return folder


def test_rows_go_to_standard_output_and_talk_to_standard_error(photos, capsys):
    status = main(["-m", str(TINY_MODEL), "--no-timing", str(photos)])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert status == 1
    assert lines[0] == "path,label,label_index,confidence,status,error,width,height"
    assert [line.split(",")[0] for line in lines[1:]] == [f"img{i}.jpg" for i in range(12)]
    assert lines[4].startswith('img3.jpg,,,,error,"the file is empty (0 bytes), expected')
    assert "edge-infer: img3.jpg: the file is empty" in err
    assert "edge-infer: 12 photos, 1 failed (its row says why), " in err
    assert " photos/s; rows on standard output\n" in err and err.endswith("\nedge-infer: not a medical device\n")


def test_lists_of_another_folder_folders_that_cannot_be_read_and_hints(photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "list.txt").write_bytes("img1.jpg\r\nimg2.jpg\r\nsub\\img4.jpg\r\n".encode("utf-16"))
    assert infer(f"@{tmp_path}/list.txt", "--root", photos, "--no-timing") == 1
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["img1.jpg", "img2.jpg", r"sub\img4.jpg"]
    assert "no such file; folders are separated by /, not by" in rows[2]
    look = image_list.look_into

    def refuse(folder):
        if os.path.basename(folder) == "lost+found":
            raise PermissionError(13, "Permission denied")
        return look(folder)

    monkeypatch.setattr(image_list, "look_into", refuse)
    (photos / "img3.jpg").unlink()
    (photos / "lost+found").mkdir()
    assert main(["-m", str(TINY_MODEL), "-r", str(photos), "--no-timing"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 12 and "lost+found: cannot be read: Permission denied: its photos have no" in err


def test_a_photo_that_was_replaced_since_is_classified_again(photos, tmp_path, capsys):
    out, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    assert infer(photos, "-o", out, "--no-timing", "--on-error", "fail") == 1  # at the fourth
    (photos / "img1.jpg").write_bytes(encoded(photo(160, 120)))
    assert main(["-m", str(TINY_MODEL), str(photos), "-o", str(out), "--no-timing", "--resume"]) == 1
    assert "img1.jpg was changed since: its row and those after it are made anew" in capsys.readouterr().err
    infer(photos, "-o", whole, "--no-timing")
    assert out.read_bytes() == whole.read_bytes()


def test_all_good_is_0(photos, capsys):
    (photos / "img3.jpg").unlink()
    assert infer(photos) == 0
    assert capsys.readouterr().err == ""


def test_file_output_is_complete_with_its_meta(photos, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert infer(photos, "-o", out, "--probs", "--topk", 9) == 1
    assert capsys.readouterr().out == ""
    predictions = read(out)
    assert len(predictions.rows) == 12
    assert predictions.meta["classes"] == ["ash", "birch", "cedar"]
    assert predictions.meta["model"]["file"].endswith(".onnx") and predictions.meta["model"]["bytes"] > 0
    assert predictions.meta["columns"][-5:] == ["top3_label", "top3_confidence", "prob_ash", "prob_birch", "prob_cedar"]
    text = (tmp_path / "out.csv.meta.json").read_text()
    assert str(tmp_path) not in text and os.uname().nodename not in text


def test_equal_runs_give_equal_bytes_whatever_the_workers(photos, tmp_path):
    contents = set()
    for workers, batch in ((1, 1), (2, 4), (5, 3), (3, 64)):
        out = tmp_path / f"out{workers}.csv"
        infer(photos, "-o", out, "--no-timing", "--probs", "-w", workers, "-b", batch)
        contents.add((out.read_bytes(), (tmp_path / f"out{workers}.csv.meta.json").read_bytes()))
    assert len(contents) == 1


def test_jsonl_by_suffix_and_the_winners_form(photos, tmp_path, capsys):
    assert infer(photos, "-o", tmp_path / "out.jsonl") == 1
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["schema"] == "edge-predictions/1"
    infer(photos, "--format", "esfair")
    line = capsys.readouterr().out.splitlines()[3]
    assert line == "img3.jpg -1"
    with pytest.raises(SystemExit, match="2"):
        infer(photos, "--format", "esfair", "--min-confidence", "0.5")
    assert "has -1 for errors only" in capsys.readouterr().err


def test_min_confidence_and_full_decode_and_limits(photos, capsys):
    infer(photos, "--min-confidence", "1", "--full-decode", "--no-timing")
    assert ",uncertain,-1," in capsys.readouterr().out
    infer(photos / "img0.jpg", "--max-pixels", "100")
    assert "0.0 megapixels, at most 0.0 (see --max-pixels)" in capsys.readouterr().out
    (photos / "a.png").write_bytes(encoded(photo(), "PNG"))
    infer(photos / "a.png", "--max-pixels-full", "100")
    assert "must be decoded whole" in capsys.readouterr().out


def test_on_error_fail_stops_with_1_and_can_be_resumed(photos, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["-m", str(TINY_MODEL), str(photos), "-o", str(out), "--on-error", "fail"]) == 1
    assert "stopped at the first unusable image (4 of 12 rows written)" in capsys.readouterr().err
    assert not out.exists()
    assert infer(photos, "-o", out, "--resume") == 1
    assert len(read(out).rows) == 12


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["gone.jpg"], 3, "no such path: gone.jpg"),
        (["empty"], 3, "no images in empty"),
        (["@gone.txt"], 3, "list gone.txt"),
        (["photos", "-m", "gone.onnx"], 4, "gone.onnx: no such model file"),
        (["photos", "-m", "photos/img0.jpg"], 4, "not a usable ONNX model"),
        (["photos", "-o", "taken.csv"], 2, "taken.csv: exists already"),
        (["photos", "-o", "empty"], 5, "empty: is a folder"),
        (["photos", "-o", "nowhere/out.csv"], 5, "nowhere: no such folder"),
        (["photos", "-o", "pipe", "--force"], 2, "pipe: is no regular file"),
        (["photos", "-o", "photos/img1.jpg", "--force"], 2, "photos/img1.jpg: is an input, expected another output"),
        (["photos", "-o", "out.xlsx"], 2, "out.xlsx: got the suffix .xlsx for csv, expected .csv, .jsonl"),
        (["photos", "-o", "out.csv", "--format", "jsonl"], 2, "out.csv: got the suffix .csv for jsonl"),
        (["img1.jpg", "--root", "gone"], 3, "--root gone: no such folder"),
        (["@list.txt"], 3, "edge-infer --root FOLDER takes them from FOLDER"),
        (["photos", "-m", "pipe"], 4, "pipe: model cannot be read: is no regular file"),
    ],
)
def test_what_stops_a_run_is_one_line_and_its_status(photos, tmp_path, monkeypatch, capsys, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken.csv").touch()
    (tmp_path / "list.txt").write_text("img1.jpg\nimg2.jpg\n")
    os.mkfifo(tmp_path / "pipe")
    assert main(["-m", str(TINY_MODEL), *arguments]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected at least one PATH"),
        (["x", "--probz"], "unknown argument --probz (did you mean --probs?)"),
        (["x", "--prob"], "unknown argument --prob (did you mean --probs?)"),
        (["x", "-b", "0"], "got '0', expected a whole number from 1"),
        (["x", "--min-confidence", "2"], "expected a number from 0 to 1"),
        (["x", "--max-pixels", "big"], "got 'big', expected pixels"),
        (["x", "--format", "xml"], "invalid choice: 'xml'"),
        (["x", "--resume"], "--resume needs -o FILE"),
        (["x", "-o", "-", "--resume"], "--resume needs -o FILE"),
        (["x", "-b", "9999"], "expected at most 1024"),
        (["x", "-w", "257"], "got '257', expected at most 256"),
        (["x", "--max-pixels", "9" * 5000], f"got '{'9' * 37}...', expected pixels"),
        (["x", "--topk", "9" * 5000], f"got '{'9' * 37}...', expected a whole number from 1 with at most 18 digits"),
        (["x", "--max-memory", "50"], "max memory: got 50 MB, expected at least"),
        (["x", "--resume", "--force", "-o", "y"], "exclude each other"),
    ],
)
def test_usage_mistakes_are_one_line_and_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as info:
        main(arguments)
    assert info.value.code == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_duplicate_is_one_row_and_one_line(photos, capsys):
    main(["-m", str(TINY_MODEL), str(photos / "img1.jpg"), str(photos / "img1.jpg")])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err.startswith("edge-infer: 1 of the paths lead to a file met before: one row for each file\n")
    assert "met before" not in err.partition("\n")[2]


def test_a_32_bit_system_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr("sys.maxsize", 2**31 - 1)
    assert main(["x.jpg"]) == 5
    assert "64-bit" in capsys.readouterr().err


def test_check_prints_what_a_bug_report_needs(capsys):
    assert main(["--check", "-m", str(TINY_MODEL)]) == 0
    out = capsys.readouterr().out
    for part in ("fairedge: ", "onnxruntime: ", "libjpeg-turbo: ", "usable_cores: ", "model_sha256: ", "self_test: ok"):
        assert part in out


def test_check_reports_an_onnxruntime_that_dies_on_this_processor(monkeypatch):
    from edge import selftest

    real_run = subprocess.run

    def run(command, **options):
        if "onnxruntime" in command[-1]:
            command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 4)"]
        return real_run(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    assert "importing onnxruntime dies with signal 4" in (selftest.environment_problem() or "")


def test_a_closed_pipe_ends_quietly(tmp_path):
    folder = linked(tmp_path / "many", encoded(photo(8, 8)), 300)
    pipe = subprocess.run(
        f"'{sys.executable}' -m edge -m '{TINY_MODEL}' -q '{folder}' | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert pipe.stderr == ""
    assert pipe.stdout.splitlines()[1] in ("141", "0")  # 0: all rows fitted into the pipe's buffer


def test_a_full_device_is_5_and_one_line(photos):
    with open("/dev/full", "wb") as full:
        result = subprocess.run([*COMMAND, "-q", str(photos)], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert result.returncode == 5
    assert result.stderr == "edge-infer: output: No space left on device\n"


def test_a_full_disk_names_the_file_and_the_way_on(photos, tmp_path, monkeypatch, capsys):
    def refuse(self, prediction):
        return b"row" if prediction.path == "img0.jpg" else bytes(100_000)

    monkeypatch.setattr("edge.predictions.Layout.encode", refuse)
    out = tmp_path / "out.csv"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))  # as a disk that has room for so much
    try:
        assert infer(photos, "-o", out) == 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    err = capsys.readouterr().err
    assert err == f"edge-infer: {out}: File too large; the rows before it are kept, --resume continues\n"
    assert (tmp_path / "out.csv.part").read_bytes().endswith(b"row")


def test_one_image_gets_no_more_threads_than_there_are_cores(photos, monkeypatch, capsys):
    from edge.device import usable_cores

    asked = []
    load = Classifier.load
    monkeypatch.setattr(Classifier, "load", lambda path, **options: asked.append(options) or load(path, **options))
    assert infer(photos / "img0.jpg", "-w", 256) == 0
    assert asked == [{"intra_op_threads": usable_cores()}]


def test_check_says_that_a_model_is_leaky(monkeypatch, capsys):
    from edge.selftest import report

    classifier = Classifier.load(TINY_MODEL)
    monkeypatch.setattr(Classifier, "load", lambda *_, **__: classifier)
    for training, is_marked in (('{"leaky": true}', True), ('{"data": "x"}', False), ("[" * 100_000, False)):
        classifier.metadata["training"] = training
        assert any("LEAKY" in line for line in report(TINY_MODEL)) is is_marked


def wait_for_rows(path, count, process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") > count:
            return
        time.sleep(0.002)
    raise AssertionError(f"no {count} rows in time")


SLOWLY = """
import sys, time
from edge.cli import main
from edge.photo.preprocess import Preprocess

load = Preprocess.load

def slow(self, source, **options):
    time.sleep(0.01)
    return load(self, source, **options)

Preprocess.load = slow
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A folder of photos, one of them broken, and the file of a run that was not interrupted."""
    root = tmp_path_factory.mktemp("unbroken")
    folder = linked(root / "photos", encoded(photo(64, 48)), 200)
    (folder / "img7.jpg").unlink()
    (folder / "img7.jpg").write_bytes(b"broken")
    assert infer(folder, "-o", root / "whole.csv", "--no-timing") == 1
    return folder, root / "whole.csv"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_run_stopped_in_the_middle_resumes_to_the_unbroken_file(unbroken, tmp_path, stop):
    folder, whole = unbroken
    out, part = tmp_path / "out.csv", tmp_path / "out.csv.part"
    command = [sys.executable, "-c", SLOWLY, "-m", str(TINY_MODEL), str(folder), "-o", str(out), "--no-timing"]
    process = subprocess.Popen([*command, "-w", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for_rows(part, 40, process)
    process.send_signal(stop)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    if stop == signal.SIGINT:
        assert "interrupted after" in err and "Traceback" not in err
    assert not out.exists()
    assert part.read_bytes().count(b"\n") < 200, "it finished before it was stopped"
    assert infer(folder, "-o", out, "--no-timing", "--resume") == 1
    assert out.read_bytes() == whole.read_bytes()


def test_resume_with_another_model_is_4_and_with_another_list_3(photos, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert infer(photos, "-o", out, "--on-error", "fail") == 1
    other = tmp_path / "other.onnx"
    other.write_bytes(TINY_MODEL.read_bytes() + b"\x7a\x00")  # an empty optional field: same model, other bytes
    assert main(["-m", str(other), "-q", str(photos), "-o", str(out), "--resume"]) == 4
    (photos / "img0.jpg").unlink()
    assert infer(photos, "-o", out, "--resume") == 3
    assert "start over with --force" in capsys.readouterr().err


def test_progress_is_a_plain_line_where_there_is_no_terminal(photos, capsys, monkeypatch):
    monkeypatch.setattr("edge.progress._LOG_INTERVAL_S", 0.0)
    main(["-m", str(TINY_MODEL), str(photos), "-o", str(photos.parent / "out.csv")])
    err = capsys.readouterr().err
    assert "[12/12]" in err and "errors 1" in err and "\r" not in err


def test_progress_updates_one_line_on_a_terminal(monkeypatch):
    import io

    from edge.progress import Progress

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(10)
    progress._interval_s = 0
    progress.update(5, errors=2)
    progress.update(10)
    progress.close()
    assert stream.getvalue().count("\n") == 0
    assert "[5/10]" in stream.getvalue() and "errors 2" in stream.getvalue()
    assert stream.getvalue().endswith("\r")


def test_a_link_as_output_is_followed(photos, tmp_path):
    target = tmp_path / "elsewhere" / "real.csv"
    target.parent.mkdir()
    (tmp_path / "link.csv").symlink_to(target)
    assert infer(photos, "-o", tmp_path / "link.csv") == 1
    assert (tmp_path / "link.csv").is_symlink() and len(read(target).rows) == 12


@pytest.mark.parametrize(
    ("redirection", "status", "num_rows"),
    [("2>/dev/full", 1, 12), ("2>&-", 1, 12), (">&-", 5, None), ("- <&-", 3, None)],
)
def test_standard_streams_that_are_closed_or_full(photos, tmp_path, redirection, status, num_rows):
    out = tmp_path / "out.csv"
    target = f"-o '{out}'" if num_rows else ""
    command = f"'{sys.executable}' -m edge -m '{TINY_MODEL}' '{photos}' {target} {redirection}"
    result = subprocess.run(command, shell=True, executable="/bin/bash", capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr and "edge-infer" not in result.stdout
    if num_rows:
        assert len(read(out).rows) == num_rows


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path, capsys):
    (tmp_path / "a\x1b[31m\n.jpg").write_bytes(b"")
    main(["-m", str(TINY_MODEL), str(tmp_path)])
    err = capsys.readouterr().err
    assert r"a\x1b[31m\n.jpg: the file is empty" in err and "\x1b" not in err


def test_interrupted_while_starting_is_130_and_one_line(photos):
    process = subprocess.Popen(
        [*COMMAND, str(photos)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(0.12)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    # 1: it was faster; -SIGINT: Python itself was still starting
    assert process.returncode in (130, 1, -signal.SIGINT)
    assert "ImportError" not in err and "package is missing" not in err


def test_interrupted_when_only_the_name_is_missing_the_file_gets_it(photos, tmp_path, monkeypatch):
    fsync = os.fsync

    def interrupted(descriptor):
        os.kill(os.getpid(), signal.SIGINT)
        fsync(descriptor)

    monkeypatch.setattr("edge.predictions_writer.os.fsync", interrupted)
    out = tmp_path / "out.csv"
    assert main([str(photos), "-m", str(TINY_MODEL), "-o", str(out), "-q"]) == 1  # one of the photos is none
    assert len(read(out).rows) == 12 and not [*tmp_path.glob("*.part")]
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)  # and from then on it means what it meant
        time.sleep(5)


def test_interrupted_twice_ends_as_interrupted_once(tmp_path):
    # So many that a busy machine gets to send its signals before they are done.
    folder = linked(tmp_path / "photos", encoded(photo(640, 480)), 3000)
    command = [*COMMAND, str(folder), "-o", str(tmp_path / "out.csv"), "-w", "3"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for_rows(tmp_path / "out.csv.part", 10, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err and "terminate" not in err
