"""The table of a terminal: its widths, its rows, its reasons; and the classes in words."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from sample_images import TINY_MODEL, encoded, folder_of_photos, photo
from test_edge_classifier import changed, with_metadata

from edge import Classifier
from edge.classifier import DEFAULT_MODEL
from edge.cli import main
from edge.profile import Profile
from edge.table import CLASS_NAMES, Reasons, cut, pad, spelled_out, width

ROOT = Path(__file__).parents[1]
KOREAN = "\u1112\u1161\u11ab"  # one syllable, as macOS writes it


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def table(monkeypatch):
    """Runs edge-infer on a terminal of some width; gives its lines."""

    def run(columns, *arguments, encoding="utf-8"):
        monkeypatch.setenv("COLUMNS", str(columns))
        with monkeypatch.context() as patched:
            terminal = Terminal()
            terminal.encoding = encoding
            patched.setattr(sys, "stdout", terminal)
            main(["-m", str(TINY_MODEL), *map(str, arguments)])
        return terminal.getvalue().splitlines()

    return run


@pytest.mark.parametrize(
    ("text", "columns"),
    [("photo.jpg", 9), ("日本.jpg", 8), ("e\u0301te\u0301", 3), (KOREAN, 2), ("한글", 4), ("👨", 2), ("❤\ufe0f", 2),
     ("\u0301", 0), ("ｶﾅ", 2), ("", 0)],
)  # fmt: skip
def test_width_is_that_of_a_terminal(text, columns):
    assert width(text) == columns
    assert width(pad(text, 12)) == 12


@pytest.mark.parametrize("text", ["IMG_20240131_0042.jpg", "日本語の写真の名前_0042.jpg", f"{KOREAN * 9}.jpg", "e\u0301" * 30])
@pytest.mark.parametrize("columns", [*range(12), 20])
def test_what_is_cut_fits_and_keeps_its_end(text, columns):
    for middle in (False, True):
        short = cut(text, columns, middle=middle)
        assert columns - 2 <= width(short) <= columns or short == ""
        assert not re.search("…[\u0300-\u036f\u1160-\u11ff]", short)  # a mark stays with what it marks
    assert cut(text, 99, middle=True) == text


def test_the_end_of_a_name_is_kept():
    assert cut("IMG_20240131_0042.jpg", 13, middle=True) == "IMG_…0042.jpg"
    assert cut("basal cell carcinoma", 10) == "basal cel…"


def test_only_the_contests_six_classes_are_spelled_out():
    classes = Classifier.load(DEFAULT_MODEL).classes
    assert list(spelled_out(classes)) == list(CLASS_NAMES) == [*classes]
    assert spelled_out(classes)["unknown"] == "other (actinic keratosis, dermatofibroma)"
    assert spelled_out(["BCC", "MEL", "unknown"]) == {"BCC": "BCC", "MEL": "MEL", "unknown": "unknown"}


@pytest.mark.parametrize("columns", [1, 32, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(table, tmp_path, columns):
    folder = folder_of_photos(tmp_path / "photos", 2)
    for name in ("日本語の写真の名前" * 5 + "_0042.jpg", "x" * 150 + ".jpg", "a\x1b[31m\n\u202e.jpg", f"{KOREAN}.jpg"):
        (folder / name).write_bytes(encoded(photo()))
    (folder / "empty.jpg").write_bytes(b"")
    lines = table(columns, folder, "--topk", 3)
    assert all(width(line) <= max(columns, 32) and line == line.rstrip() for line in lines)
    assert lines[0].split()[:2] == ["file", "label"] and "rem…" not in lines[0]
    assert any(line.startswith(r"a\x1b") for line in lines)
    assert not {"\x1b", "\u202e"} & set("".join(lines))
    assert "error: the file is empty (0 bytes), expected JPEG, PNG" in re.sub(r"\s+", " ", " ".join(lines))


def test_rows_have_their_remarks(table, tmp_path):
    profile = Profile((1.0, 1.0), (32, 32), (0.0, 0.0))
    model = changed(tmp_path, with_metadata(profile=profile.to_json()))
    for name, size in (("a.jpg", (40, 40)), ("b.jpg", (64, 48)), ("c.jpg", (16, 12))):
        (tmp_path / name).write_bytes(encoded(photo(*size)))
    rows = table(80, *sorted(tmp_path.glob("*.jpg")), "-m", model)
    assert rows[0] == "file   label      confidence  remark"
    assert re.fullmatch(r"a.jpg  (ash|birch|cedar) +0\.\d{3}", rows[1])
    assert rows[2].endswith("  unlike training: shape") and rows[3].endswith("  unlike training: shape, size")
    (row,) = table(100, tmp_path / "a.jpg", "--probs")[1:]
    first, *others = re.findall(r"(ash|birch|cedar) +(0\.\d{3})", row)
    assert "; " not in row and "  then " in row
    assert {first[0], *(label for label, _ in others)} == {"ash", "birch", "cedar"}
    assert 0.998 < sum(float(confidence) for _, confidence in (first, *others)) < 1.002
    assert table(80, tmp_path / "a.jpg", "--min-confidence", 1)[1].split()[1] == "uncertain"


def test_like_errors_are_told_in_full_five_times(table, tmp_path, capsys):
    content = encoded(photo(320, 240))
    for i in range(12):
        (tmp_path / f"cut{i}.jpg").write_bytes(content[: 2000 + 100 * i])
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert sum(line.endswith("…") for line in table(50, tmp_path)) == 7
    assert "cut" not in capsys.readouterr().err  # the row is on the same terminal
    assert main(["-m", str(TINY_MODEL), str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out.count("truncated") >= 12
    assert len(re.findall(r"^edge-infer: cut\d+\.jpg: ", err, re.MULTILINE)) == 5
    assert len(re.findall(r"^edge-infer: and 7 more like it: truncated", err, re.MULTILINE)) == 1
    assert "edge-infer: empty.jpg: the file is empty" in err


def test_reasons_differ_by_more_than_their_numbers():
    reasons = Reasons()
    assert [reasons.is_new(f"needs {i} MB") for i in range(7)] == [True] * 5 + [False] * 2
    assert reasons.is_new("needs a file") and reasons.rest() == ["and 2 more like it: needs 0 MB"]


def test_a_terminal_without_unicode_gets_what_it_can_show(table, tmp_path):
    (tmp_path / "läsion日.jpg").write_bytes(encoded(photo()))
    (tmp_path / ("x" * 90 + ".jpg")).write_bytes(encoded(photo()))
    text = "\n".join(table(60, tmp_path, encoding="ascii"))
    assert text.isascii() and r"l\xe4sion\u65e5.jpg" in text and "xxx~xxx" in text


def test_a_form_that_is_asked_for_and_quiet(table, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(encoded(photo()))
    rows = table(80, tmp_path / "a.jpg", "-q")
    assert len(rows) == 2 and capsys.readouterr().err == ""
    terminal_bytes = io.BytesIO()

    class Both(Terminal):
        buffer = terminal_bytes

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdout", Both())
        assert main(["-m", str(TINY_MODEL), "-q", "--format", "csv", "--no-timing", str(tmp_path / "a.jpg")]) == 0
    assert terminal_bytes.getvalue().startswith(b"path,label,label_index,")


TALKATIVE = """
import sys
import edge.progress
from edge.cli import main

edge.progress._TERMINAL_INTERVAL_S = edge.progress._LOG_INTERVAL_S = 0.0
raise SystemExit(main(sys.argv[1:]))
"""


def on_a_terminal(command, columns=80):
    """What a command shows on a terminal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=follower, stdout=follower, stderr=follower, close_fds=True
    )
    os.close(follower)
    shown = b""
    try:
        while block := os.read(leader, 1 << 16):
            shown += block
    except OSError:  # how Linux says that all who could write have ended
        pass
    os.close(leader)
    return process.wait(), shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("pipe", ["", "| cat"])
def test_progress_never_meets_rows_on_a_terminal(tmp_path, pipe):
    folder = folder_of_photos(tmp_path / "photos", 8)
    (folder / "img3.jpg").write_bytes(b"")
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    arguments = f"'{sys.executable}' '{tmp_path / 'talkative.py'}' -m '{TINY_MODEL}' '{folder}' {pipe}"
    shown = on_a_terminal(["env", f"PYTHONPATH={ROOT}", "sh", "-c", arguments])[1]
    assert "\r" not in shown and "img/s" not in shown
    assert "edge-infer: 8 photos, 1 failed (its row says why), " in shown
    if not pipe:  # what cat writes and what edge-infer says may be mixed in any way
        assert re.findall(r"^img\d\.jpg", shown, re.MULTILINE) == [f"img{i}.jpg" for i in range(8)]


def test_progress_is_cleared_before_a_line_of_talk(tmp_path):
    folder = folder_of_photos(tmp_path / "photos", 8)
    (folder / "img3.jpg").write_bytes(b"")
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    arguments = [str(tmp_path / "talkative.py"), "-m", str(TINY_MODEL), str(folder), "-o", str(tmp_path / "out.csv")]
    status, shown = on_a_terminal(["env", f"PYTHONPATH={ROOT}", sys.executable, *arguments], columns=24)
    assert status == 1 and "img" in shown
    assert max(map(len, re.findall(r"\[\d+/8\][^\r\n]*", shown))) <= 23
    for line in re.findall("[^\n]*edge-infer: [^\n]*", shown):
        before = line[: line.index("edge-infer: ")]
        assert before == "" or re.search(r"\r +\r$", before)


def test_the_meta_says_what_the_model_is_for(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(encoded(photo(200, 150)))
    for data, use in (("HAM10000", "; for dermatoscopic pictures"), ("fitz16", ""), (3, "")):
        folder = tmp_path / str(data)
        folder.mkdir()
        model = changed(folder, with_metadata(training=json.dumps({"data": data})))
        assert main(["-m", str(model), str(tmp_path / "a.jpg"), "-o", str(folder / "out.jsonl")]) == 0
        head = json.loads((folder / "out.jsonl").read_text().splitlines()[0])
        assert head["intended_use"] == f"not a medical device{use}"
        assert capsys.readouterr().err.endswith(f"\nedge-infer: not a medical device{use}\n")


def test_verbose_says_what_runs(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(encoded(photo(200, 150)))
    assert main(["-v", "-w", "3", "--max-memory", "200", str(tmp_path / "a.jpg"), str(tmp_path / "a.jpg")]) == 0
    err = capsys.readouterr().err
    for text in (
        f"model: {DEFAULT_MODEL}, 3.", " MB, SHA-256 ", "..., comes with the package\n", "data ham10, recipe lite, ",
        "classes: BCC basal cell carcinoma, ", "input: 128 x 128 px, resize crop\n", "3 workers, ", "memory: 200 MB\n",
        "edge-infer: 1 photo\n", "median times of a photo: ", "for dermatoscopic pictures\n",
    ):
        assert text in err
    assert main(["-v", "-q", str(tmp_path / "a.jpg")]) == 0
    assert capsys.readouterr().err == ""
