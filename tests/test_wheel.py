"""The wheel, built and installed as a user gets it: no extras, an environment of its own, another folder.

Slow, and needs pip's package index: `make test-wheel` runs it.
"""

import configparser
import csv
import os
import platform
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parent.parent
PACKAGES = ("edge", "bench", "train", "export")
SLIM = {"fairedge", "flatbuffers", "numpy", "onnxruntime", "packaging", "pillow", "pip", "protobuf", "psutil"}

MAKE_IMAGE = """
from PIL import Image
Image.linear_gradient("L").resize((640, 480)).convert("RGB").save("photo of mine.jpg")
"""


def run(*command, cwd, status=0):
    # PYTHONPATH would put the checkout before the installed wheel.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    streams = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, **streams)
    assert result.returncode == status, f"{command} gave {result.returncode}:\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)  # wheel from source archive from checkout
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def commands(wheel, tmp_path_factory):
    """Folder of the commands of an environment with the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("a folder") / "environment"
    venv.create(folder, with_pip=True)
    name = f"py{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}.txt"
    constraints = ["-c", ROOT / "constraints" / name] if (ROOT / "constraints" / name).exists() else []
    run(folder / "bin/python", "-m", "pip", "install", "-q", *constraints, wheel, cwd=folder)
    return folder / "bin"


def test_name_says_any_platform(wheel):
    assert wheel.name.startswith("fairedge-")
    assert wheel.name.endswith("-py3-none-any.whl")


def test_contents_are_the_four_packages_and_nothing_else(contents):
    metadata = {name for name in contents if name.split("/")[0].endswith(".dist-info")}
    assert {name.split("/")[0] for name in set(contents) - metadata} == set(PACKAGES)
    sources = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert {name for name in contents if name.endswith(".py")} == sources
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(contents)
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def test_contents_have_the_model_its_card_and_its_licence(contents):
    models = ROOT / "edge/models"
    expected = {path.relative_to(ROOT).as_posix() for path in models.iterdir() if path.is_file()}
    assert {name for name in contents if name.startswith("edge/models/")} == expected
    suffixes = [Path(name).suffix for name in expected]
    assert suffixes.count(".onnx") == 1
    assert ".md" in suffixes
    assert "edge/models/LICENSE-MODELS" in expected


def test_metadata(contents):
    (text,) = (value.decode() for name, value in contents.items() if name.endswith(".dist-info/METADATA"))
    required = [line for line in text.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert len(required) == 4
    assert "\nRequires-Python: >=3.11\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text or "\nLicense: Apache-2.0\n" in text


def test_every_command_has_its_module(contents):
    (text,) = (value.decode() for name, value in contents.items() if name.endswith("entry_points.txt"))
    config = configparser.ConfigParser()
    config.read_string(text)
    for target in config["console_scripts"].values():
        module, function = target.split(":")
        assert f"def {function}(" in contents[module.replace(".", "/") + ".py"].decode()


def test_install_brings_the_runtime_alone(commands, tmp_path):
    lines = run(commands / "python", "-m", "pip", "list", "--format", "freeze", cwd=tmp_path).stdout.splitlines()
    found = {line.split("==")[0].lower() for line in lines}
    assert found - {"setuptools"} == SLIM  # the venv of Python 3.11 brings setuptools


def test_infer_runs_in_another_folder(commands, tmp_path):
    run(commands / "python", "-c", MAKE_IMAGE, cwd=tmp_path)
    (row,) = csv.DictReader(run(commands / "edge-infer", "photo of mine.jpg", cwd=tmp_path).stdout.splitlines())
    assert row["path"] == "photo of mine.jpg"
    assert row["status"] == "ok"
    assert 0 < float(row["confidence"]) <= 1


def test_infer_runs_as_a_module(commands, tmp_path):
    assert run(commands / "python", "-m", "edge", "--version", cwd=tmp_path).stdout.startswith("fairedge ")


@pytest.mark.parametrize("command", ["edge-infer", "edge-bench", "edge-train", "edge-export", "edge-submit"])
def test_help_needs_no_extra(commands, tmp_path, command):
    assert run(commands / command, "--help", cwd=tmp_path).stdout.startswith(f"usage: {command}")


def test_train_without_torch_says_what_to_install(commands, tmp_path):
    for name in ("BCC", "NV"):
        (tmp_path / "data/light" / name).mkdir(parents=True)
        run(commands / "python", "-c", MAKE_IMAGE, cwd=tmp_path / "data/light" / name)
    result = run(commands / "edge-train", "fit", "data", "--out", "run", cwd=tmp_path, status=5)
    assert re.fullmatch(r"edge-train:? needs PyTorch: pip install torch --index-url .*\.\[train\]'.*\n", result.stderr)


def test_export_without_torch_says_what_to_install(commands, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoint.pt").write_bytes(b"")
    result = run(commands / "edge-export", "onnx", "run", "-o", "model.onnx", cwd=tmp_path, status=5)
    assert re.fullmatch(r"edge-export:? needs .*: pip install .*-e '\.\[export\]' in the checkout .*\n", result.stderr)
