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
from sample_submission import build

from bench.commands.arguments import PROFILES as PROFILE_NAMES
from bench.metrics.contest import PROFILES
from edge.exit import GATE, INPUT, MODEL, USAGE
from export.submission import rules, trial
from export.submission.archive import files_below
from export.submission.cli import main
from export.submission.rules import CONTEST

ROOT = Path(__file__).parent.parent
BLOCKED = ("torch", "onnx", "safetensors", "matplotlib", "cv2", "jinja2", "packaging")


@pytest.fixture
def no_runs(monkeypatch):
    monkeypatch.setattr(trial, "CHECKS", {})


def runs_alone(monkeypatch, **checks):
    """No rule but some that need a run."""
    monkeypatch.setattr(rules, "CHECKS", {})
    monkeypatch.setattr(trial, "CHECKS", checks)


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


@pytest.mark.parametrize(
    "arguments",
    [["pack"], ["pack", "-o", "x", "--wheels", "arm64"], ["pack", "-o", "x", "--wheels", "x86_64,x86_64"],
     ["pack", "-o", "x", "--team", ""], ["pack", "-o", "x", "--team", "a\nb"], ["check"],
     ["check", "x", "--arch", "aarch64"], ["check", "x", "--timeout", "0"],
     ["pack", "-o", "x", "--contest", "other"], ["pack", "-o", "x", "--wheel", "x86_64"]],
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
    one_line(capsys, USAGE, "exists already", "pack", "-o", submission)


def test_a_submission_to_another_contest_is_refused(tmp_path, capsys, submission):
    copy = shutil.copytree(submission, tmp_path / "copy")
    path = copy / "MANIFEST.json"
    path.write_text(path.read_text().replace('"esfair2023"', '"other2031"', 1))
    one_line(capsys, INPUT, "contest: got 'other2031'", "check", copy)


def test_a_check_that_finds_nothing(submission, tmp_path, capsys, no_runs):
    assert main(["check", str(submission), "-o", str(tmp_path / "report.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["ok", "E01"]
    assert lines[-1] == "esfair2023: 10 ok"
    assert lines[-2].startswith("network: ")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] is True
    assert [rule["id"] for rule in report["rules"]] == [rule.id for rule in CONTEST.rules][:10]
    assert not list(tmp_path.glob("edge-submit*"))


def test_a_check_that_finds_something(submission, tmp_path, capsys, no_runs):
    copy = shutil.copytree(submission, tmp_path / "copy")
    (copy / "run_latency.sh").unlink()
    assert main(["check", str(copy), "-o", str(tmp_path / "report.json")]) == GATE
    out = capsys.readouterr().out
    assert "run_latency.sh: is missing" in out
    assert "run_latency.sh: is in the manifest and not in the folder" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [rule["id"] for rule in report["rules"] if rule["findings"]] == ["E01", "E02", "E07"]


def test_the_end_of_the_log_of_what_failed_is_shown_and_all_of_it_kept_where_asked(
    submission, capsys, monkeypatch, tmp_path
):
    def fail(trial):
        trial.execute("run_accuracy.sh", ["sh", "-c", "seq 30; echo boom; exit 3"])
        yield

    runs_alone(monkeypatch, accuracy=fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["check", str(submission)]) == GATE
    out = capsys.readouterr().out
    assert "run_accuracy.sh: exit status 3: boom" in out
    shown = [line.strip() for line in out.splitlines() if "|" in line]
    assert shown == [*(f"| {number}" for number in range(12, 31)), "| boom"]
    assert not list(tmp_path.iterdir())
    assert main(["check", str(submission), "--logs", str(tmp_path / "logs")]) == GATE
    assert (tmp_path / "logs/run_accuracy.log").read_text().startswith("1\n2\n")


def test_an_interrupted_check_leaves_nothing_but_what_it_has_said(submission, monkeypatch, tmp_path, capsys):
    def stop(trial):
        raise KeyboardInterrupt

    runs_alone(monkeypatch, environment=lambda trial: iter(()), accuracy=stop)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["check", str(submission)]) == 130
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out.startswith("ok      E20")


def test_a_termination_ends_a_check_as_an_interruption(submission, monkeypatch, tmp_path):
    def stop(trial):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    runs_alone(monkeypatch, accuracy=stop)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["check", str(submission)]) == 130
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_manifest_of_names_that_are_no_unicode(submission, tmp_path, capsys, no_runs):
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


def test_pack_writes_and_says_what_is_broken(submission, tmp_path, capsys, monkeypatch):
    other = tmp_path / "ours.onnx"
    from edge.classifier import DEFAULT_MODEL

    other.write_bytes(DEFAULT_MODEL.read_bytes().replace(b"HAM10000", b"HAM10001"))
    packed = build(tmp_path / "out.zip", samples_of=submission, model=other)
    monkeypatch.setattr("export.submission.pack.pack", lambda output, **given: packed)
    assert main(["pack", "-m", str(other), "-o", str(tmp_path / "out.zip"), "-q"]) == GATE
    said = capsys.readouterr().err
    assert "edge-submit: E01 model/weights.safetensors: is missing; to mend it: " in said
    assert (tmp_path / "out.zip").is_file()


def test_profile_names_are_those_of_the_contest():
    assert PROFILE_NAMES == tuple(PROFILES)


def test_every_rule_says_what_and_how_to_mend_it():
    assert CONTEST.profile in PROFILES
    for rule in CONTEST.rules:
        assert rule.what and rule.fix
        assert rule.id.startswith("E")
    assert {rule.check for rule in CONTEST.rules} == {*rules.CHECKS, *trial.CHECKS}
    assert len({rule.id for rule in CONTEST.rules}) == len(CONTEST.rules)


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
