import json
import os
import runpy
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from PIL import Image
from sample_submission import build

from edge.classifier import DEFAULT_MODEL, Classifier
from edge.errors import EdgeError, InputError, ModelError
from export.submission import archive, pack, rules, sources, weights
from export.submission.pack import write_card
from export.submission.rules import CONTEST


def bytes_of(folder):
    return {name: (folder / name).read_bytes() for name in archive.files_below(folder)}


def test_the_same_inputs_give_the_same_bytes_elsewhere_and_later(submission, tmp_path, monkeypatch):
    now = time.localtime  # where zipfile takes a file's date from
    monkeypatch.setattr(time, "localtime", lambda seconds=None: now((seconds or time.time()) + 3600))
    before = os.umask(0o077)
    try:
        build(tmp_path / "other.zip")
    finally:
        os.umask(before)
    archive.unpack(tmp_path / "other.zip", tmp_path / "other")
    assert bytes_of(tmp_path / "other") == bytes_of(submission)
    archive.write_zip(submission, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()


def test_the_model_is_there_in_both_forms(submission):
    assert (submission / "model/model.onnx").read_bytes() == DEFAULT_MODEL.read_bytes()
    assert (submission / "model/classes.txt").read_text() == "BCC\nBKL\nMEL\nNV\nunknown\nVASC\n"
    header = weights.read_header(submission / "model/weights.safetensors")
    assert not list(weights.differences(header, Classifier.load()))
    assert json.loads((submission / "model/recipe.json").read_text())["optim"]["epochs"] > 0
    assert "model.load_state_dict(load_file(weights))" in (submission / "model/load_weights.py").read_text()


def test_the_lines_that_load_the_weights_load_them(submission, capsys):
    pytest.importorskip("safetensors")
    runpy.run_path(str(submission / "model/load_weights.py"))
    assert capsys.readouterr().out.startswith('["BCC", "BKL", "MEL", "NV", "unknown", "VASC"] ')


def test_the_readme_says_what_its_commands_print(submission, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nshift\nPYTHONPATH='{sources.CHECKOUT}' exec '{sys.executable}' \"$@\"\n")
    python.chmod(0o755)
    environment = {**os.environ, "FAIREDGE_PYTHON": str(python)}
    command = ["sh", "run_accuracy.sh", "samples/images", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=submission, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()[-8:]
    assert printed[-1].startswith("(accuracy + fairness) / 3 = ")
    assert "\n".join(f"    {line}" for line in printed) in (submission / "README.md").read_text()
    recorded = (submission / "samples/predictions.csv").read_bytes()
    assert recorded == (tmp_path / "out/predictions.csv").read_bytes()


@pytest.mark.parametrize("script", ["run_accuracy.sh", "run_latency.sh"])
def test_execution_files_say_how_they_are_used(submission, script):
    for arguments in ([], ["a", "b", "c"]):
        done = subprocess.run(["sh", submission / script, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"usage: sh {script} ")
    assert os.access(submission / script, os.X_OK)
    assert subprocess.run(["sh", "-n", submission / script]).returncode == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"PYTHON": "/nonexistent/python"}, "no 64-bit Python 3.11 to 3.13 with venv"),
     ({"PYTHON": sys.executable, "FAIREDGE_VENV": "FULL"}, "holds other things")],
)
def test_an_environment_that_cannot_be_made_is_one_line(submission, tmp_path, setting, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/photo.jpg").write_bytes(b"dear")
    setting = {name: value.replace("FULL", str(tmp_path / "full")) for name, value in setting.items()}
    command = ["sh", submission / "run_accuracy.sh", "samples/images"]
    done = subprocess.run(command, env={**os.environ, **setting}, capture_output=True, text=True)
    assert done.returncode == 5
    assert message in done.stderr.splitlines()[-1]
    assert (tmp_path / "full/photo.jpg").read_bytes() == b"dear"


def test_no_wheels_and_no_index_says_which_command_to_run_where(submission, tmp_path):
    """pip itself is not started: a stand-in for the interpreter makes an environment whose pip finds no index."""
    python = tmp_path / "python3"
    python.write_text(
        '#!/bin/sh\ncase "$1" in\n-c) echo 3.12 ;;\n-m) mkdir -p "$4/bin"\n'
        'printf "#!/bin/sh\\nexit 1\\n" > "$4/bin/python"\nchmod +x "$4/bin/python" ;;\nesac\n'
    )
    python.chmod(0o755)
    settings = {"PYTHON": str(python), "FAIREDGE_VENV": str(tmp_path / "venv"), "HOME": str(tmp_path)}
    command = ["sh", submission / "run_accuracy.sh", "samples/images"]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 5
    assert "python3.12 -m pip download --only-binary=:all: -r requirements-" in done.stderr.splitlines()[-1]


def test_beside_a_folder_that_cannot_be_written_the_environment_is_in_the_cache(submission, tmp_path):
    folder = shutil.copytree(submission, tmp_path / "copy")
    for name in (".venv", "output"):
        (folder / name).write_text("no folder")  # stands for one that cannot be made, for a superuser too
    python = tmp_path / "python3"
    python.write_text(
        '#!/bin/sh\ncase "$1" in\n-c) echo 3.12 ;;\n-m) mkdir -p "$4/bin"\n'
        'printf "#!/bin/sh\\nexit 0\\n" > "$4/bin/python"\nchmod +x "$4/bin/python" ;;\nesac\n'
    )
    python.chmod(0o755)
    settings = {"PYTHON": str(python), "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    command = ["sh", folder / "run_accuracy.sh", "samples/images"]
    for said in ("Making an environment", "Writing to"):  # the second call finds it
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
        assert (done.returncode, done.stderr.startswith(said)) == (0, True), done.stderr
    assert len(list((tmp_path / "home/.cache/fairedge-submission").glob("*/complete"))) == 1


def test_a_name_of_a_team_is_text(submission, tmp_path):
    build(tmp_path / "out.ZIP", samples_of=submission, team="@wheel@ *us* [x](http://y) <b>")
    with zipfile.ZipFile(tmp_path / "out.ZIP") as packed:
        title = packed.read("README.md").decode().splitlines()[0]
    assert title.endswith(r": @wheel@ \*us\* \[x\](http://y) \<b\>")


@pytest.mark.parametrize("name", ["ours.md", "LICENSE-MODELS"])
def test_a_text_beside_the_model_that_is_no_utf8_is_refused(tmp_path, name):
    model = other_model(tmp_path)
    (tmp_path / name).write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="got no UTF-8 text at byte 3"):
        build(tmp_path / "out", model=model)


def test_a_card_of_figures_that_are_none():
    metrics = '{"accuracy": {"value": "high", "low": [1], "n": "a|b"}, "spd": {"value": null}}'
    metadata = {"preprocess": "{}", "metrics": metrics}
    classifier = SimpleNamespace(classes=("NV",), temperature=1.0, metadata=metadata)
    assert "| accuracy | - | - | a\\|b |\n| spd | - | - | - |" in write_card(classifier)


def test_the_manifest_says_what_made_it(submission):
    said = archive.read_manifest(submission)
    assert said["contest"] == "esfair2023"
    assert said["model_sha256"] == Classifier.load().sha256
    assert set(said["recorded_with"]) == {"fairedge", "numpy", "onnxruntime", "Pillow"}
    assert str(sources.CHECKOUT) not in (submission / "MANIFEST.json").read_text()
    assert not list(rules.manifest(rules.Submission(submission)))


def test_nothing_is_packed_twice_or_left_beside(submission):
    assert [path.name for path in submission.parent.iterdir()] == ["submission"]
    assert not [name for name in archive.files_below(submission / "code/source") if "__pycache__" in name]


def test_samples_are_drawn_and_no_pictures_that_a_model_may_have_been_trained_on(submission, tmp_path):
    pack.write_images(tmp_path, CONTEST.sample_groups[:1], CONTEST.classes[:1])
    drawn = archive.files_below(tmp_path)
    found = sorted((submission / "samples/images").rglob("*.jpg"))
    assert all((submission / "samples/images" / name).read_bytes() == (tmp_path / name).read_bytes() for name in drawn)
    for path in found:
        with Image.open(path) as image:
            assert image.size == pack._SAMPLE_SIZE
    names = {path.name for path in (submission / "samples").rglob("*") if path.is_file()}
    others = names - {path.name for path in found}
    assert (len(drawn), len(found), others) == (2, 48, {"predictions.csv", "predictions.csv.meta.json"})


def test_a_model_that_does_not_describe_itself_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(DEFAULT_MODEL.read_bytes().replace(b"fairedge.schema", b"fairedge_schema"))
    with pytest.raises(ModelError, match="does not describe itself"):
        build(tmp_path / "out", model=path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_of_another_task_is_refused(tmp_path):
    with pytest.raises(ModelError, match="the contest's classes are BCC"):
        build(tmp_path / "out", model=Path(__file__).parent / "data/tiny.onnx")


def other_model(folder):
    """The bundled model's copy under another name, with another byte: no longer the bundled one."""
    path = folder / "ours.onnx"
    path.write_bytes(DEFAULT_MODEL.read_bytes().replace(b"HAM10000", b"HAM10001"))
    assert path.read_bytes() != DEFAULT_MODEL.read_bytes()
    return path


@pytest.mark.slow
def test_without_weights_it_is_packed_and_the_rule_is_named(tmp_path):
    verdicts = build(tmp_path / "out", model=other_model(tmp_path))
    found = {verdict.rule.check: [file for file, _ in verdict.findings] for verdict in verdicts if verdict.findings}
    assert found == {"required": ["model/weights.safetensors", "model/load_weights.py"]}
    assert "--checkpoint" in CONTEST.rule("required").fix
    assert "Written from what the model file says" in (tmp_path / "out/MODEL_CARD.md").read_text()
    assert "non-commercial" in (tmp_path / "out/LICENSES/model.txt").read_text()


@pytest.mark.slow
def test_weights_as_safetensors_need_no_pytorch(tmp_path):
    path = sources.CHECKOUT / "models" / DEFAULT_MODEL.name.replace(".int8.onnx", ".safetensors")
    with patch.dict(sys.modules, {"torch": None, "safetensors": None}):
        build(tmp_path / "out", model=other_model(tmp_path), checkpoint=path)
    assert (tmp_path / "out/model/weights.safetensors").read_bytes() == path.read_bytes()


def test_a_checkpoint_without_pytorch_says_what_to_do(tmp_path):
    with patch.dict(sys.modules, {"torch": None}), pytest.raises(ModelError) as caught:
        sys.modules.pop("train.checkpoint", None)
        build(tmp_path / "out", model=other_model(tmp_path), checkpoint=tmp_path)
    assert "edge-export weights RUN" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 20, b"\2\0\0\0\0\0\0\0{}"])
def test_weights_that_are_none_are_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="no file of edge-export weights"):
        build(tmp_path / "out", checkpoint=path)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_there_is_kept(tmp_path, submission):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("dear")
    for force in (False, True):
        with pytest.raises(FileExistsError, match="holds something else"):
            build(tmp_path / "mine", force=force)
    with pytest.raises(FileExistsError, match="the working folder"):
        build(Path("."), force=True)
    (tmp_path / "file.zip").write_bytes(b"dear")
    with pytest.raises(FileExistsError, match="exists already"):
        build(tmp_path / "file.zip")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        build(tmp_path / "absent/out")
    assert (tmp_path / "mine/thesis.txt").read_text() == "dear"
    assert (tmp_path / "file.zip").read_bytes() == b"dear"
    old = shutil.copytree(submission, tmp_path / "old")
    (old / "later.txt").write_text("x")
    build(old, samples_of=submission, force=True)
    assert bytes_of(old) == bytes_of(submission)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_stops_it_leaves_nothing(submission, tmp_path, monkeypatch, stop):
    def fail(folder, facts):
        raise stop

    monkeypatch.setattr(pack, "write_manifest", fail)
    with pytest.raises(type(stop) if isinstance(stop, OSError) else stop) as caught:
        build(tmp_path / "out.zip", samples_of=submission)
    assert not list(tmp_path.iterdir())
    if isinstance(stop, OSError):
        assert (caught.value.filename, caught.value.errno) == (str(tmp_path / "out.zip"), 28)


def test_only_a_checkout_can_be_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CHECKOUT", tmp_path)
    with pytest.raises(EdgeError, match="needs a checkout"):
        build(tmp_path / "out")


def test_pins_are_those_of_the_constraints(submission):
    for machine in sources.MACHINES:
        lines = (submission / f"requirements-{machine}.txt").read_text().splitlines()[1:]
        assert {line.split("==")[0] for line in lines} == {
            "flatbuffers", "numpy", "onnxruntime", "packaging", "pillow", "protobuf", "psutil"}
        for python in sources.PYTHONS:
            chosen = [line.split(" ;")[0] for line in lines if " ;" not in line or f'"{python}"' in line]
            constraints = (sources.CHECKOUT / f"constraints/py{python.replace('.', '')}-{machine}.txt").read_text()
            assert len(chosen) == 7
            assert set(chosen) <= set(constraints.splitlines())


def test_a_card_is_written_of_what_the_model_says():
    model = Classifier.load()
    text, accuracy = write_card(model), json.loads(model.metadata["metrics"])["accuracy"]
    held_out = DEFAULT_MODEL.with_name(DEFAULT_MODEL.name.replace(".int8.onnx", ".heldout.txt")).read_text()
    assert accuracy["n"] == held_out.count("\n") and 0.75 < accuracy["low"] < accuracy["value"] < accuracy["high"]
    shown = f"{accuracy['value']:.4f} | {accuracy['low']:.4f} to {accuracy['high']:.4f} | {accuracy['n']}"
    assert f"| accuracy | {shown} |" in text
    assert "| training: recipe | lite |" in text
    assert "no medical device" in text
    assert "Of the float model" in text
    float_model = sources.CHECKOUT / "models" / "mobileone_s0_fitz16_coarse_128.onnx"
    assert "Of the float model" not in write_card(Classifier.load(float_model))


def test_pip_says_why_in_one_line(monkeypatch, tmp_path):
    done = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: Could not find numpy\nERROR: more\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(EdgeError) as caught:
        sources.download_wheels(tmp_path, "x86_64")
    assert str(caught.value).startswith("the wheels for Python 3.11 on x86_64 cannot be fetched: ERROR: Could not find")
    assert "\n" not in str(caught.value)
