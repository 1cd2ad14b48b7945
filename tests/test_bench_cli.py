"""edge-bench as a function: exit status, standard output, messages, files."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import main
from bench.photos import images
from edge import __version__

ROOT = Path(__file__).parents[1]
CLASSES = ["BCC", "MEL", "NV"]
META = {"schema": "edge-predictions/1", "root": "data", "model_sha256": "0" * 64, "classes": CLASSES}
# path, true class, predicted class (None: the image could not be used)
ROWS = [
    ("dark/BCC/a.jpg", "BCC", "BCC"),
    ("dark/MEL/b.jpg", "MEL", "BCC"),
    ("dark/NV/c ä.jpg", "NV", None),
    ("light/BCC/d.jpg", "BCC", "BCC"),
    ("light/MEL/e.jpg", "MEL", "MEL"),
    ("light/MEL/f.jpg", "MEL", "MEL"),
]


def run(*arguments: object) -> int:
    """Exit status of main, also where argparse leaves by SystemExit."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def small_mixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ESFAIR", (images.SizeClass(100, ((48, 36, 100),)),))
    monkeypatch.setattr(images, "DEMO", tuple((n, w // 20, h // 15, special) for n, w, h, special in images.DEMO))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for path, _, _ in ROWS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def predictions_file(path: Path, rows: list[tuple[str, str, str | None]], meta: dict[str, object] | None) -> Path:
    """A predictions file; JSONL, or CSV with its meta beside it, or without when that is None."""
    fields = ["path", "label", "label_index", "confidence", "status", "error", "width", "height"]
    records = [
        dict(zip(fields, (name, guess, CLASSES.index(guess) if guess in CLASSES else -1, 0.9, "ok", "", 8, 8)))
        if guess
        else dict(zip(fields, (name, "", None, None, "error", "truncated", 8, 8)))
        for name, _, guess in rows
    ]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in (meta, *records)))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    if meta is not None:
        path.with_name(path.name + ".meta.json").write_text(json.dumps(meta))
    return path


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith(f"fairedge {__version__} (Python ")
    for arguments in (["--help"], ["images", "--help"], ["score", "--help"]):
        assert run(*arguments) == 0
        assert "usage: edge-bench" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, contextlib, os\n"
        "from bench.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(open(os.devnull, 'w')): main(['--help'])\n"
        "print(sorted({'numpy', 'PIL', 'onnxruntime'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["image", "x"], "invalid choice: 'image'"),
        (["images"], "-o/--output is required"),
        (["images", "x", "--sed", "1"], "unknown argument --sed (did you mean --seed?)"),
        (["images", "x", "--qual", "1"], "unknown argument --qual"),
        (["images", "x", "-n", "0"], "expected a whole number from 1"),
        (["images", "x", "--seed", "-1"], "expected a whole number from 0"),
        (["images", "x", "--quality", "101"], "got '101', expected 1 to 100"),
        (["images", "x", "--progressive-share", "nan"], "got 'nan', expected a number from 0 to 1"),
        (["images", "x", "--mix", "demo", "-n", "5"], "do not apply to --mix demo"),
        (["score", "p.csv"], "required: --data"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and captured.err.count("\n") == 1


def test_images_writes_the_mix(small_mixes: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("images", tmp_path / "a" / "out", "-n", 3, "--seed", 5, "--quality", 80) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 images" in captured.err and "seed 5" in captured.err
    written = {path.name: path.read_bytes() for path in (tmp_path / "a" / "out").iterdir()}
    assert written == dict(images.mix_files(images.ESFAIR, 3, seed=5, quality=80))


def test_images_demo(small_mixes: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("images", tmp_path / "demo", "--mix", "demo", "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {name for name, *_ in images.DEMO}


def test_images_spares_what_is_there(small_mixes: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert run("images", tmp_path, "-n", 1) == 2
    assert "is not empty (--force" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert run("images", tmp_path, "-n", 1, "--force") == 0
    assert "1 other files were" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "keep"
    assert run("images", tmp_path / "mine.txt") == 2
    assert "is a file, expected a folder" in capsys.readouterr().err
    assert run("images", tmp_path / "mine.txt" / "below") == 5


def test_images_interrupted_keeps_whole_files(
    small_mixes: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = images.draw

    def draw_two(width: int, height: int, *, seed: int, index: int) -> object:
        if index == 2:
            raise KeyboardInterrupt
        return draw(width, height, seed=seed, index=index)

    monkeypatch.setattr(images, "draw", draw_two)
    assert run("images", tmp_path / "out", "-n", 5) == 130
    assert "interrupted after 2 of 5 images" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["img_0001.jpg", "img_0002.jpg"]


# 4 of 6 right. Recall: BCC 2/2, MEL 2/3, NV 0/1. Precision: BCC 2/3, MEL 2/2, NV never predicted.
# Balanced (1 + 2/3 + 0) / 3 = 0.5556. F1: 4/5, 4/5, 0/1, mean 0.5333. Groups: dark 1/3, light 3/3.
TABLE = {  # name -> value, 95 % interval, n, as printed
    "accuracy": "0.6667 0.3000-0.9032 6",
    "recall BCC": "1.0000 0.3424-1.0000 2",
    "recall MEL": "0.6667 0.2077-0.9385 3",
    "recall NV": "0.0000 0.0000-0.7935 1",
    "precision BCC": "0.6667 0.2077-0.9385 3",
    "precision MEL": "1.0000 0.3424-1.0000 2",
    "precision NV": "- - 0",
    "accuracy in dark": "0.3333 0.0615-0.7923 3",
    "accuracy in light": "1.0000 0.4385-1.0000 3",
}


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_score_prints_a_table_and_writes_results(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = predictions_file(tmp_path / name, ROWS[::-1], META)
    output = tmp_path / "results.json"
    assert run("score", predictions, "--data", data, "-o", output) == 0
    captured = capsys.readouterr()
    assert run("show", output) == 0
    assert capsys.readouterr().out == captured.out
    printed = [line.split() for line in captured.out.splitlines()]
    for name, figures in TABLE.items():
        assert [*name.split(), "\N{UPWARDS ARROW}", *figures.split()] in printed, name
    assert captured.out.startswith("1 of 6 images could not be used and count as wrong\n")

    result = json.loads(output.read_text(encoding="utf-8"))
    assert result["schema"] == "edge-bench/1"
    assert (result["data"]["name"], result["data"]["samples"]) == ("data", 6)
    assert result["predictions"]["model_sha256"] == "0" * 64
    assert result["classes"] == CLASSES
    assert result["accuracy"] == {
        "value": 4 / 6, "low": pytest.approx(0.3, abs=1e-4), "high": pytest.approx(0.9032, abs=1e-4), "n": 6,
    }
    assert result["balanced_accuracy"]["value"] == pytest.approx(5 / 9)
    assert result["by_class"]["NV"]["precision"] == {"value": None, "low": None, "high": None, "n": 0}
    assert result["by_group"]["dark"]["accuracy"]["value"] == 1 / 3
    assert result["confusion_matrix"] == [[2, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert result["samples"] == {
        "path": [path for path, _, _ in ROWS],
        "group": ["dark"] * 3 + ["light"] * 3,
        "cluster": [path for path, _, _ in ROWS],
        "label": [label for _, label, _ in ROWS],
        "prediction": [guess for _, _, guess in ROWS],
        "status": ["ok", "ok", "error", "ok", "ok", "ok"],
    }
    text = output.read_text(encoding="utf-8")
    assert "NaN" not in text and str(tmp_path) not in text
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_results_are_made_and_shown_without_the_engine(data: Path, tmp_path: Path) -> None:
    commands = [
        ["score", predictions_file(tmp_path / "p.csv", ROWS, META), "--data", data, "-o", tmp_path / "r.json"],
        ["compare", tmp_path / "r.json", tmp_path / "r.json", "-o", tmp_path / "c.json"],
        *(["show", tmp_path / name] for name in ("r.json", "c.json")),
    ]
    code = (
        "import sys\n"
        "sys.modules['onnxruntime'] = sys.modules['psutil'] = None\n"
        "from bench.cli import main\n"
        f"sys.exit(any([main(command) for command in {[list(map(str, command)) for command in commands]}]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_score_spares_an_existing_output(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = predictions_file(tmp_path / "p.csv", ROWS, META)
    output = tmp_path / "results.json"
    output.write_text("mine")
    assert run("score", predictions, "--data", data, "-o", output) == 2
    assert "exists already (--force" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert run("score", predictions, "--data", data, "-o", output, "--force") == 0
    assert json.loads(output.read_text())["schema"] == "edge-bench/1"
    assert run("score", predictions, "--data", data, "-o", tmp_path / "absent" / "r.json") == 5


def test_score_wants_every_sample_unless_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = predictions_file(tmp_path / "p.csv", ROWS[:4], META)
    assert run("score", predictions, "--data", data) == 3
    assert capsys.readouterr() == (
        "",
        "edge-bench: 2 of 6 samples have no prediction, first light/MEL/e.jpg (--subset leaves them out)\n",
    )
    assert run("score", predictions, "--data", data, "--subset") == 0
    captured = capsys.readouterr()
    assert "2 of 6 samples have no prediction: left out" in captured.err
    assert captured.out.startswith("1 of 4 images could not be used")
    assert captured.out.splitlines()[3].split()[-1] == "4"


@pytest.mark.parametrize("flags", [[], ["--subset"]])
def test_score_refuses_predictions_of_other_images(
    flags: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[tuple[str, str, str | None]] = [*ROWS[1:], ("dark/NV/x.jpg", "", "NV"), ("y.jpg", "", "NV")]
    predictions = predictions_file(tmp_path / "p.csv", rows, META)
    assert run("score", predictions, "--data", data, *flags) == 3
    error = capsys.readouterr().err
    assert "2 of 7 predictions are for no sample of the data set, first dark/NV/x.jpg" in error
    assert flags or "1 of 6 samples have no prediction, first dark/BCC/a.jpg" in error


def test_score_refuses_a_path_given_twice(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = predictions_file(tmp_path / "p.csv", [*ROWS, ROWS[2]], META)
    assert run("score", predictions, "--data", data) == 3
    assert "1 predictions are for a path that has one already: dark/NV/c ä.jpg" in capsys.readouterr().err


def test_score_refuses_classes_the_model_does_not_know(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = predictions_file(tmp_path / "p.csv", ROWS, {**META, "classes": ["BCC", "MEL"]})
    assert run("score", predictions, "--data", data) == 3
    assert "the data set has the class 'NV', but the model knows only BCC, MEL" in capsys.readouterr().err


def test_score_counts_uncertain_as_wrong_and_does_without_meta(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(path, label, "uncertain" if path.startswith("light") else guess) for path, label, guess in ROWS]
    predictions = predictions_file(tmp_path / "p.csv", rows, None)
    assert run("score", predictions, "--data", data) == 0
    lines = {line[:17].strip(): line[17:].split() for line in capsys.readouterr().out.splitlines()}
    assert lines["accuracy"][1::2] == ["0.1667", "6"]
    assert lines["accuracy in light"][1::2] == ["0.0000", "3"]
    assert lines["precision BCC"][1::2] == ["0.5000", "2"]


def test_score_with_another_label_column(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{path},x,{label},all,p{i}\n" for i, (path, label, _) in enumerate(ROWS))
    (data / "manifest.csv").write_text(f"path,class,coarse,group,cluster\n{rows}", encoding="utf-8")
    predictions = predictions_file(tmp_path / "p.csv", ROWS, META)
    assert run("score", predictions, "--data", data) == 3
    assert "(see --label)" in capsys.readouterr().err
    output = tmp_path / "results.json"
    assert run("score", predictions, "--data", data, "--label", "coarse", "-o", output) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["samples"]["cluster"][5] == "p5"


def test_score_does_not_overwrite_what_it_reads(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = predictions_file(tmp_path / "p.csv", ROWS, META)
    (data / "manifest.csv").write_text("path,class,group\n")
    for output in (predictions, tmp_path / "p.csv.meta.json", data / "manifest.csv"):
        before = output.read_bytes()
        assert run("score", predictions, "--data", data, "-o", output, "--force") == 2
        assert f"{output.name}: is an input, expected another output" in capsys.readouterr().err
        assert output.read_bytes() == before


def test_score_says_what_cannot_be_read(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = predictions_file(tmp_path / "p.csv", ROWS, META)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    for arguments, message in (
        ((tmp_path / "none.csv", "--data", data), "none.csv"),
        ((tmp_path / "bad.csv", "--data", data), "not a predictions file"),
        ((predictions, "--data", tmp_path / "nowhere"), "no such folder"),
    ):
        assert run("score", *arguments) == 3
        captured = capsys.readouterr()
        assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1


def test_score_of_a_name_that_is_no_utf_8(data: Path, tmp_path: Path) -> None:
    folder = os.fsencode(data / "dark" / "NV")
    try:
        Path(os.fsdecode(folder + b"/\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this file system has no such names")
    predictions = predictions_file(tmp_path / "p.csv", [*ROWS, (r"dark/NV/\xe9.jpg", "NV", "NV")], META)
    output = tmp_path / "results.json"
    assert run("score", predictions, "--data", data, "-o", output) == 0
    assert r"dark/NV/\xe9.jpg" in json.loads(output.read_text(encoding="utf-8"))["samples"]["path"]


def test_a_closed_pipe_ends_quietly(data: Path, tmp_path: Path) -> None:
    predictions = predictions_file(tmp_path / "p.csv", ROWS, META)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bench", "score", str(predictions), "--data", str(data), "-q"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, text=True)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")
