import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from sample_submission import CONTEST, build

from bench.pi4b.tools import Pi4bError, Unavailable
from edge.command import GATE, INPUT, MODEL, USAGE
from export.submission import check, cli, emulation, rules, sources, trial
from export.submission.archive import files_below
from export.submission.cli import main

ROOT = Path(__file__).parent.parent
BLOCKED = ("torch", "onnx", "safetensors", "matplotlib", "cv2", "jinja2", "packaging")


@pytest.fixture(scope="module")
def submission(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack") / "submission"
    build(folder)
    return folder


@pytest.fixture
def no_trials(monkeypatch):
    monkeypatch.setattr(trial, "TRIALS", {})


def run_python(program):
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_it_imports_on_the_slim_install():
    modules = [f"export.submission.{path.stem}" for path in sorted((ROOT / "export/submission").glob("[a-z]*.py"))]
    result = run_python(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({BLOCKED}))\n"
        f"for name in {modules}: importlib.import_module(name)"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(flag):
    result = run_python(
        "import sys\n"
        "from export.submission.cli import main\n"
        f"try: status = main([{flag!r}])\n"
        "except SystemExit as exit: status = exit.code\n"
        "heavy = [name for name in ('numpy', 'PIL', 'onnxruntime', 'torch') if name in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_the_lists_of_the_parser_are_those_of_the_code():
    from bench.score import DEFAULT, PROFILES

    assert cli._PROFILES == tuple(PROFILES)
    assert cli._PROFILES[0] == DEFAULT
    assert set(cli.MACHINES) == set(sources.MACHINES)
    assert {CONTEST.settings["profile"]} <= set(PROFILES)


@pytest.mark.parametrize(
    "arguments",
    [[], ["pack"], ["pack", "-o", "x", "--wheels", "arm64"], ["pack", "-o", "x", "--wheels", "x86_64,x86_64"],
     ["pack", "-o", "x", "--team", ""], ["pack", "-o", "x", "--team", "a\nb"], ["check"],
     ["check", "x", "--arch", "armv7l"], ["check", "x", "--timeout", "0"], ["pack", "-o", "x", "--wheel", "x86_64"]],
)
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == USAGE
    assert capsys.readouterr().err.count("\n") == 1


def one_line(capsys, status, expected, *arguments):
    assert main([str(argument) for argument in arguments]) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert expected in said.err


def test_bad_input_is_one_line(tmp_path, capsys, submission):
    (tmp_path / "empty").mkdir()
    bomb = tmp_path / "bad.zip"
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("../x", b"x")
    onnx = tmp_path / "model.onnx"
    onnx.write_bytes(b"")
    one_line(capsys, INPUT, "missing, expected a folder or zip written by edge-submit", "check", tmp_path / "empty")
    one_line(capsys, INPUT, "refused: '../x' leads out", "check", bomb)
    one_line(capsys, INPUT, "no such file or folder", "check", tmp_path / "absent")
    one_line(capsys, MODEL, "not a usable ONNX model", "pack", "-m", onnx, "-o", tmp_path / "o", "-q")
    one_line(capsys, MODEL, "no such model file", "pack", "-m", tmp_path / "no.onnx", "-o", tmp_path / "o", "-q")
    one_line(capsys, INPUT, "expected one of esfair2023", "pack", "-o", tmp_path / "o", "--contest", "../rules")
    one_line(capsys, USAGE, "exists already", "pack", "-o", submission)


def test_a_contest_that_is_not_known(tmp_path, capsys, submission):
    copy = shutil.copytree(submission, tmp_path / "copy")
    path = copy / "MANIFEST.json"
    path.write_text(path.read_text().replace('"esfair2023"', '"other2031"', 1))
    one_line(capsys, INPUT, "contest: got 'other2031'", "check", copy)


def test_a_check_that_finds_nothing(submission, tmp_path, capsys, no_trials):
    assert main(["check", str(submission), "-o", str(tmp_path / "report.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["ok", "E01"]
    assert lines[-1] == "esfair2023: 12 ok, 1 skipped"
    assert lines[-2].startswith("network: ")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] is True
    assert report["rules"][-1]["skipped"] == "not asked for (--arch aarch64)"
    assert not list(tmp_path.glob("edge-submit*"))


def test_a_check_that_finds_something(submission, tmp_path, capsys, no_trials):
    copy = shutil.copytree(submission, tmp_path / "copy")
    (copy / "run_latency.sh").unlink()
    assert main(["check", str(copy), "-o", str(tmp_path / "report.json")]) == GATE
    out = capsys.readouterr().out
    assert "run_latency.sh: is missing" in out
    assert "run_latency.sh: is in the manifest and not in the folder" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [rule["id"] for rule in report["rules"] if rule["findings"]] == ["E01", "E02", "E07"]


def test_the_log_of_what_failed_is_kept_and_its_place_said(submission, capsys, monkeypatch, tmp_path):
    def fail(bench):
        bench.log("flat").write_text("first\nboom\n")
        bench.latest = "run_accuracy.sh", "flat"
        raise bench.failed(3)

    monkeypatch.setattr(trial, "TRIALS", {"flat": fail})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["check", str(submission)]) == GATE
    out = capsys.readouterr().out
    assert "run_accuracy.sh: exit status 3: boom" in out
    (log,) = tmp_path.rglob("flat.log")
    assert f"log: {log}" in out
    assert f"logs: {log.parent}" in out
    assert [line.strip() for line in out.splitlines() if "|" in line] == ["| first", "| boom"]
    assert [path.name for path in tmp_path.iterdir()] == [log.parent.name]  # all else is removed


def test_an_interrupted_check_leaves_nothing(submission, monkeypatch, tmp_path):
    def stop(bench):
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "TRIALS", {"flat": stop})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["check", str(submission)]) == 130
    assert not list(tmp_path.iterdir())


def test_a_termination_ends_a_check_as_an_interruption(submission, monkeypatch, tmp_path):
    def stop(bench):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(trial, "TRIALS", {"flat": stop})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["check", str(submission)]) == 130
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == before


def test_data_that_is_none_is_said_first(submission, tmp_path, capsys):
    one_line(capsys, INPUT, "absent", "check", submission, "--data", tmp_path / "absent")


def test_a_manifest_of_names_that_are_no_unicode(submission, tmp_path, capsys, no_trials):
    copy = shutil.copytree(submission, tmp_path / "copy")
    said = json.loads((copy / "MANIFEST.json").read_text())
    said["files"]["\ud800x"] = {}
    (copy / "MANIFEST.json").write_text(json.dumps(said))
    (copy / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    assert main(["check", str(copy), "-o", str(tmp_path / "report.json")]) == GATE
    out = capsys.readouterr().out
    assert "\\ud800x: is in the manifest" in out
    assert "caf\\udce9.txt: is in the folder" in out
    assert json.loads((tmp_path / "report.json").read_text())["passed"] is False


def test_pack_writes_and_says_what_is_broken(tmp_path, capsys, monkeypatch):
    from sample_submission import zip_wheel

    monkeypatch.setattr(sources, "build_wheel", zip_wheel)
    other = tmp_path / "ours.onnx"
    from edge.classifier import DEFAULT_MODEL

    other.write_bytes(DEFAULT_MODEL.read_bytes().replace(b"no medical device", b"no medical Device"))
    assert main(["pack", "-m", str(other), "-o", str(tmp_path / "out.zip"), "-q"]) == GATE
    said = capsys.readouterr().err
    assert "edge-submit: E01 model/weights.safetensors: is missing; to mend it: " in said
    assert (tmp_path / "out.zip").is_file()


@pytest.mark.parametrize(
    ("raised", "state"), [(Unavailable, "skipped"), (Pi4bError, "FAILED")], ids=["no programs", "no such version"]
)
def test_emulation_skips_what_the_machine_lacks_alone(submission, tmp_path, monkeypatch, raised, state):
    def fails(*_, **__):
        raise raised("the reason")

    monkeypatch.setattr(emulation.tree, "build_tree", fails)
    bench = trial.Trial(submission, tmp_path, tmp_path, CONTEST, check.find_isolation())
    verdict = check._tried(CONTEST.rule("aarch64"), bench, emulation.aarch64)
    assert verdict.state == state
    assert "the reason" in (verdict.skipped or verdict.findings[0].what)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("numpy-2-cp311-cp311-manylinux_2_27_aarch64.whl", True),
     ("numpy-2-cp313-cp313-manylinux_2_27_aarch64.whl", False),
     ("numpy-2-cp311-cp311-manylinux_2_27_x86_64.whl", False), ("packaging-26-py3-none-any.whl", True),
     ("protobuf-7-cp310-abi3-manylinux2014_aarch64.whl", True), ("flatbuffers-25-py2.py3-none-any.whl", True)],
)
def test_wheels_of_the_pi(name, expected):
    assert emulation._is_for_pi(Path(name)) is expected


def test_every_rule_says_what_and_how_to_mend_it():
    for rule in CONTEST.rules:
        assert rule.what and rule.fix
        assert rule.id.startswith("E")
    assert rules.names() == ("esfair2023",)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["submission", "submission.zip"])
def test_pack_and_check_for_real(tmp_path, capsys, name):
    """Fresh environments: needs setuptools or an index to build the wheel, and an index for the pinned packages."""
    out = tmp_path / name
    again = tmp_path / f"again-{name}"
    for output in (out, again):
        assert main(["pack", "-o", str(output), "--team", "Große Gruppe"]) == 0
    files = [{"": path.read_bytes()} if path.is_file() else
             {name: (path / name).read_bytes() for name in files_below(path)} for path in (out, again)]
    assert files[0] == files[1]
    status = main(["check", str(out), "--logs", str(tmp_path / "logs")])
    report = capsys.readouterr().out
    assert status == 0, report
    assert "FAILED" not in report
