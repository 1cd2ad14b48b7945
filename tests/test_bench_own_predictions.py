"""Predictions of any program: the two short forms, and what is wrong with them in one line."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import evaluate
from bench.cli import main

CLASSES = ["BCC", "MEL", "NV"]
PATHS = [f"{name}/{i}{name}.jpg" for name in CLASSES for i in range(12)]


def run(*arguments: object) -> int:
    """Exit status of main, also where argparse leaves by SystemExit."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set without groups: <class>/file."""
    root = tmp_path_factory.mktemp("set") / "data"
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_paths_and_labels_beside_data_without_groups(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{path},{path[:path.index('/')]}\r\n" for path in PATHS]
    rows[:2] = f"{PATHS[0]},MEL\r\n", f"{PATHS[1]},\r\n"  # one wrong, one without an answer; the last line has no end
    file = written(tmp_path / "mine.csv", ("\ufeffpath,label\r\n" + "".join(rows[::-1])).rstrip())
    assert run("score", file, "--data", data, "-o", tmp_path / "a.json") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("1 of 36 images could not be used and count as wrong\n")
    assert "score: fairness                \N{UPWARDS ARROW}  no groups\n" in shown.out
    assert "no groups: nothing is compared" in shown.err
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["accuracy"]["value"] == 34 / 36 and result["calibration"] is None
    assert result["predictions"] == {"columns": ["path", "label"], "classes": CLASSES}
    assert {*result["samples"]["group"]} == {"all"} and result["samples"]["path"] == PATHS
    assert run("show", tmp_path / "a.json") == 0
    assert capsys.readouterr().out == shown.out
    assert run("compare", tmp_path / "a.json", tmp_path / "a.json") == 0
    assert "any of 3 figures" in capsys.readouterr().out


def test_probabilities_of_a_class_that_the_data_lack(data: Path, tmp_path: Path) -> None:
    row = "{path},{label},0.1,0.7,0.1,0.1\n"
    rows = [row.format(path=path, label="SCC" if path == PATHS[0] else path.split("/")[0]) for path in PATHS]
    file = written(tmp_path / "mine.csv", "path,label,prob_SCC,prob_BCC,prob_MEL,prob_NV\n" + "".join(rows))
    assert run("score", file, "--data", data, "-o", tmp_path / "a.json", "-q") == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["classes"] == [*CLASSES, "SCC"]
    assert result["calibration"]["ece"]["value"] == pytest.approx(35 / 36 - 0.7)


BODY = "NV/1NV.jpg,NV\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"path,label\n{BODY}MEL/1MEL.jpg,mel\n", "'mel', no class of the data (BCC, MEL, NV) (did you mean 'MEL'?)"),
        (f"path,label\n{BODY}MEL/1MEL.jpg,nv?\n", "row 2: got label 'nv?', no class of the data"),
        (f"path,label\n{BODY}\n2MEL.jpg,MEL\n", "got path 2MEL.jpg, which is no picture of the data (is it MEL/"),
        (f"path,label\n{BODY}other.jpg,MEL\n", "2: got path other.jpg, which is no picture of the data\n"),
        (f"path,label\n{BODY}{BODY}", "row 2: NV/1NV.jpg was in row 1 already, expected each path once"),
        (f"path,label\n{BODY}a,b,c\n", "row 2: got 3 fields, expected 2"),
        ("path,label\n", "has no rows under its header"),
        ("path,label,label\n", "the column label is there twice"),
        ('path,label\n"a,b\n', "no valid CSV"),
        ("path;label\na;b\n", "its fields are separated by ';', expected commas"),
        ("path\tlabel\na\tb\n", "its fields are separated by tabs, expected commas"),
        ("path;label;label_index;status\n", "its fields are separated by ';', expected commas"),
        ("image,label\na,b\n", "got the columns image, label, expected those of edge-infer, path,label, or y"),
        ("path,label\n".encode("utf-16"), "got a zero byte in its first line (UTF-16?), expected UTF-8 text"),
        (b"path,label\nNV/1NV.jpg,N\xff\n", "got byte 23 that is no UTF-8"),
        (f"path,label,prob_NV\n{BODY[:-1]},1\n", "no column prob_BCC, expected one for each class"),
        (f"path,label,prob_BCC,prob_MEL,prob_NV\n{BODY[:-1]},.5,.5,.5\n", "row 1: got the probabilities .5, .5, .5, "),
        (f"path,label,prob_BCC,prob_MEL,prob_NV\n{BODY[:-1]},x,.5,.5\n", "row 1: got the probabilities x, .5, .5, "),
        # Of edge-infer: as strict as ever.
        (f"path,label,label_index,status\n{BODY[:-1]},2,fine\n", "got status 'fine', expected ok or error"),
        (f"path,label,label_index,status\n{BODY[:-1]},2,ok", "ends in the middle of its last row"),
    ],
)
def test_bad_files_are_one_line(
    text: str | bytes, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("score", written(tmp_path / "mine.csv", text), "--data", data, "--subset") == 3
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and message in shown.err, shown.err


def test_a_file_with_its_meta_is_of_edge(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "mine.csv", f"path,label\n{BODY}")
    written(tmp_path / "mine.csv.meta.json", "{}")
    assert run("score", file, "--data", data, "--subset") == 3
    assert "no column label_index, status" in capsys.readouterr().err


def table(n: int = 200, **columns: Any) -> tuple[str, dict[str, list[str]]]:
    rng = np.random.default_rng(0)
    truth = [CLASSES[i] for i in rng.integers(0, 3, n)]
    made = {
        "y_true": truth,
        "y_pred": [label if rng.random() < 0.8 else CLASSES[int(rng.integers(0, 3))] for label in truth],
        "group": [["light", "dark"][i] for i in rng.integers(0, 2, n)],
        "cluster": [f"p{i // 2}" for i in range(n)],
        **columns,
    }
    lines = [",".join(made), *map(",".join, zip(*made.values(), strict=True))]
    return "\n".join(lines) + "\n", made


def test_a_table_gives_the_figures_of_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, made = table()
    assert run("score", written(tmp_path / "t.csv", text), "-o", tmp_path / "t.json") == 0
    result = json.loads((tmp_path / "t.json").read_text())
    expected = evaluate(
        made["y_true"], made["y_pred"], sensitive_features=made["group"], cluster=made["cluster"]
    ).to_dict()
    same = ("score", "accuracy", "balanced_accuracy", "fairness", "by_group", "warnings", "malignant")
    assert {name: result[name] for name in same} == {name: expected[name] for name in same}
    assert result["data"]["name"] == "t.csv" and result["data"]["label_column"] == "y_true"
    assert result["samples"]["path"][:2] == ["row 1", "row 2"]
    better = written(tmp_path / "b.csv", table(y_pred=made["y_true"])[0])
    assert run("score", better, "-q", "-o", tmp_path / "b.json") == 0
    capsys.readouterr()
    assert run("compare", tmp_path / "t.json", tmp_path / "b.json") == 0  # by row
    assert "B is shown better in accuracy" in capsys.readouterr().out


def test_a_table_by_two_columns_with_paths_and_probabilities(tmp_path: Path) -> None:
    n = 60
    text, made = table(n, path=[f"{i}.jpg" for i in range(n)], sex=["f", "m", ""] * (n // 3))
    ends = ["prob_BCC,prob_MEL,prob_NV", *["0.2,0.3,0.5"] * n]
    lines = [f"{line},{probs}" for line, probs in zip(text.splitlines(), ends, strict=True)]
    file = written(tmp_path / "t.csv", "\n".join(lines))
    assert run("score", file, "--group", "sex", "--group", "group", "-q", "-o", tmp_path / "t.json") == 0
    result = json.loads((tmp_path / "t.json").read_text())
    assert result["data"]["group_column"] == "sex" and {*result["by_group"]} == {"f", "m", "not stated"}
    assert {*result["groupings"]["group"]["by_group"]} == {"dark", "light"}
    assert result["calibration"]["ece"]["n"] == n and result["samples"]["path"][0] == "0.jpg"


def test_numbers_are_classes_whatever_pandas_made_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "t.csv", ",y_true,y_pred,id\n0,10,10.0,x\n1,2,2.0,y\n2,2,,z\n3,10,7.0,w\n")
    assert run("score", file, "-o", tmp_path / "t.json") == 0
    shown = capsys.readouterr()
    result = json.loads((tmp_path / "t.json").read_text())
    assert result["classes"] == ["2", "7", "10"] and result["accuracy"]["value"] == 0.5
    assert result["errors"]["images"] == 1
    assert "columns that are not read: id" in shown.err
    assert "y_true never has 7, which y_pred has in 1 rows" in shown.err


@pytest.mark.parametrize(
    ("text", "arguments", "status", "message"),
    [
        ("y_true,y_pred\na,a\n,a\n", [], 3, "row 2: y_true is empty, expected the true class"),
        ("y_true,y_pred\n0,a\n1,b\n", [], 3, "y_pred a, b and y_true 0, 1, expected numbers in both"),
        ("y_true,y_hat\n0,a\n", [], 3, "no column y_pred; got y_true, y_hat"),
        ("y_true;y_pred\n0;0\n", [], 3, "its fields are separated by ';', expected commas"),
        ("y_true,y_pred\n", [], 3, "has no rows under its header"),
        ("y_true,y_pred,path\na,a,x\na,a,x\n", [], 3, "row 2: x was in row 1 already, expected each path once"),
        ("y_true,y_pred\na,a\n", ["--group", "sex"], 3, "no column sex; got y_true, y_pred"),
        ("y_true,y_pred\na,a\n", ["--group", "group"], 3, "no column group; got y_true, y_pred"),
        ("y_true,y_pred,g\n" + "".join(f"a,a,{i}\n" for i in range(101)), ["--group", "g"], 3, "got 101 different"),
        ("y_true,y_pred\na,a\n", ["--data", "."], 2, "is for a data set; "),
        ("y_true,y_pred\na,a\n", ["--subset"], 2, "is for a data set; "),
        ("path,label\na,a\n", [], 2, "required: --data"),
    ],
)
def test_bad_tables_are_one_line(
    text: str, arguments: list[str], status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("score", written(tmp_path / "t.csv", text), *arguments) == status
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and message in shown.err, shown.err


def test_the_files_of_the_page_are_taken(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    files = [text.replace("    ", "") for text in re.findall(r"((?:    [^ \n]*,[^ \n]*\n)+)", page)]
    (tmp_path / "ROOT/NV").mkdir(parents=True)
    (tmp_path / "ROOT/MEL").mkdir()
    for name in ("NV/1.jpg", "MEL/2.jpg"):
        (tmp_path / "ROOT" / name).touch()
    assert len(files) == 2
    for text, arguments in zip(files, (["--data", tmp_path / "ROOT"], []), strict=True):
        assert run("score", written(tmp_path / "mine.csv", text), *arguments, "-q") == 0


def test_a_report_of_data_without_groups(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    lines = table()[0].replace("group", "skin").splitlines()
    file = written(tmp_path / "t.csv", "\n".join(lines))
    assert run("score", file, "-q", "-o", tmp_path / "t.json") == 0
    assert run("report", tmp_path / "t.json", "-o", tmp_path / "report") == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "edge-bench score t.csv --profile" in page
