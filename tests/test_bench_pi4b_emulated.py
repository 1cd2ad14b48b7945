"""The project's wheel and its pinned aarch64 packages as a Cortex-A72 process, beside the same program here.

Needs qemu-user, mmdebstrap, a C compiler, Debian's archive and pip's package index: `make test-pi4b` runs it. Where a
machine lacks one of them the tests are skipped, with the reason.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pi4b_answers
import pytest

from bench.cli import main
from bench.photos import images
from bench.pi4b import count, estimate, programs
from bench.pi4b import time_model as model_of_times
from bench.pi4b.count import count_regions
from bench.pi4b.emulator import run
from bench.pi4b.pieces import Spec
from bench.pi4b.programs import Unavailable
from bench.pi4b.rootfs import RUNTIME, build_tree, default_folder, pinned
from edge.classifier import DEFAULT_MODEL

pytestmark = pytest.mark.pi4b

ROOT = Path(__file__).parent.parent
MODELS = (ROOT / "models" / "mobileone_s0_fitz16_coarse_128.onnx", DEFAULT_MODEL)
"""One of floats, one of integers."""
TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest: two orders of summation, and no more."""
SMALL = ("small.jpg", "dermoscope.jpg", "rotated.jpg")


def available(work):
    """What `work` gives; skips where the machine lacks what it needs."""
    try:
        programs.require(*programs.NEEDED)
        return work()
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}  # equal wheels for equal sources
    command = [sys.executable, "-m", "build", "--outdir", folder, ROOT]
    available(lambda: programs.call(command, what="building the wheel", timeout_s=600, env=environment, fetches=True))
    (path,) = folder.glob("*.whl")
    return path


def built(*wheels, **options):
    return available(lambda: build_tree(default_folder(), wheels=wheels, **options))


@pytest.fixture(scope="session")
def tree(wheel):
    return built(wheel)


@pytest.fixture(scope="session")
def counting_tree(tree):
    """Counted are the packages that run here, not the wheel's."""
    bare = replace(tree, site=tree.site[1:])
    available(lambda: count.check(bare))
    return bare


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Full and scaled decoding, EXIF, progressive, grey, CMYK, a PNG with alpha, and a broken file."""
    folder = tmp_path_factory.mktemp("photos of mine")
    for name, data in images.demo_files():
        if name not in ("camera.jpg", "square.jpg", "SCAN0001.JPG"):  # more time, nothing that others do not show
            images.write(folder, name, data)
    return folder


def there(tree, *arguments, status=0, **options):
    """What a program says under emulation."""
    result = run(tree, arguments, cwd="/", timeout_s=600, **options)  # not here: the checkout would be imported
    assert result.returncode == status, f"{arguments} gave {result.returncode}:\n{result.stdout}\n{result.stderr}"
    return result


def here(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def differences(ours, theirs):
    """One line for everything in which two runs of pi4b_answers.py differ by more than summation."""
    assert ours["answers"].keys() == theirs["answers"].keys()
    for name, mine in ours["answers"].items():
        other = theirs["answers"][name]
        for key in ("error", "pixels", "whole"):
            if mine.get(key) != other.get(key):
                yield f"{name}: {key}"
        if "logits" in mine:
            a, b = (np.array(answers["logits"], np.float64) for answers in (mine, other))
            if a.argmax() != b.argmax() or not np.abs(a - b).max() <= TOLERANCE * np.abs(a).max():
                yield f"{name}: logits {a} and {b}"
    for workers, labels in ours["labels"].items():
        if labels != theirs["labels"][workers]:
            yield f"labels with {workers} workers"


@pytest.fixture(scope="session", params=MODELS, ids=[path.name for path in MODELS])
def bundled(request):
    return request.param


@pytest.fixture(scope="session")
def answers(photos, bundled):
    return json.loads(here(pi4b_answers.__file__, photos, bundled))


def test_answers_are_those_of_x86(tree, photos, answers, bundled):
    """int8 too: its integers leave no room for another order of summation."""
    found = json.loads(there(tree, pi4b_answers.__file__, photos, bundled).stdout)
    assert list(differences(answers, found)) == []
    assert [name for name, answer in found["answers"].items() if "error" in answer] == ["broken.jpg"]
    assert found["labels"]["1"] == found["labels"]["4"]


@pytest.mark.parametrize("bundled", MODELS[:1], indirect=True)
def test_a_planted_fault_is_seen(tree, photos, answers, bundled, tmp_path):
    """The comparison can fail, on every photo."""
    for name in SMALL:
        (tmp_path / name).symlink_to(photos / name)
    found = json.loads(there(tree, pi4b_answers.__file__, tmp_path, bundled, "faults").stdout)
    expected = {"answers": {name: answers["answers"][name] for name in SMALL}, "labels": {}}
    for fault in pi4b_answers.FAULTS:
        wrong = list(differences(expected, {"answers": found[fault], "labels": {}}))
        assert {line.split(":")[0] for line in wrong} == {*SMALL}, fault


def test_check_passes_and_names_the_board(tree):
    said = there(tree, "-m", "edge", "--check").stdout
    assert "board: Raspberry Pi 4 Model B" in said
    assert "architecture: aarch64" in said
    assert "self_test: ok" in said


def test_everything_imports_and_nothing_from_here(tree, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    ours = "edge.cli, edge.pipeline, bench.cli, bench.speed.latency, bench.results.build, bench.pi4b.board"
    modules = f"{ours}, numpy, PIL, psutil"
    program = f"import os, sys, edge, {modules}; print(edge.__file__, sys.path, dict(os.environ))"
    said = there(tree, "-c", program).stdout
    assert "/wheel-" in said.split()[0]
    assert "/nowhere" not in said


def test_an_onnxruntime_that_kills_a_pi_is_seen(wheel):
    """1.21.0 uses an instruction that a Cortex-A72 lacks (github.com/microsoft/onnxruntime/issues/23957)."""
    requirements = [r if not r.startswith("onnxruntime") else "onnxruntime==1.21.0" for r in pinned(RUNTIME)]
    tree = built(wheel, site_requirements=requirements)
    assert run(tree, ["-c", "import onnxruntime"], timeout_s=240).returncode == -4
    assert "importing onnxruntime dies with signal 4" in there(tree, "-m", "edge", "--check", status=5).stderr


def test_python_3_13_of_trixie(wheel, photos):
    tree = built(wheel, python="3.13")
    said = there(tree, "-m", "edge", "-q", photos / "rotated.jpg").stdout
    assert said.splitlines()[1].startswith("rotated.jpg,")
    assert ",ok," in said


def test_two_counts_of_a_region_agree(counting_tree, photos):
    photo, model = str(photos / "dermoscope.jpg"), str(MODELS[0])
    spec = Spec((photo,), models=(model,), batches=(1,))
    one, two = (count_regions(counting_tree, spec) for _ in range(2))
    expected = ["decode dermoscope.jpg", "resize dermoscope.jpg", f"infer {MODELS[0].name} batch 1"]
    assert [cost.label for cost in one] == expected
    formula = model_of_times.fit(model_of_times.read_points())
    for a, b in zip(one, two, strict=True):
        times = [formula.ms(model_of_times.Counts.of(cost.counted)) for cost in (a, b)]
        assert times[1] == pytest.approx(times[0], rel=1e-3), a.label
        for name in ("instructions", "accesses"):
            assert b.counted[name] == pytest.approx(a.counted[name], rel=1e-3, abs=20), (a.label, name)
        for name in ("l1_misses", "l2_misses"):  # of 1.65 million there are, from count to count, 2,050 more or not
            assert b.counted[name] == pytest.approx(a.counted[name], rel=5e-3, abs=20), (a.label, name)
        assert b.counted["branch_misses"] == pytest.approx(a.counted["branch_misses"], rel=0.02)
    decode, resize, infer = (cost.counted for cost in one)
    assert sum(decode[kind] for kind in decode if kind.startswith("simd")) < 0.5 * decode["instructions"]
    assert infer["simd_fma"] > 0.3 * infer["instructions"]  # of 86 million multiply-adds four go into one
    assert infer["crypto"] == 0  # which QEMU's cortex-a72 has and a Pi 4B has not
    assert infer["l2_misses"] < infer["l1_misses"] < infer["accesses"] < infer["instructions"]


def test_a_failing_region_gives_one_line(counting_tree, photos, monkeypatch, capsys):
    """What fails inside, while it is counted, reaches the person as one line with its reason."""
    whole, broken = photos / "small.jpg", photos / "broken.jpg"
    monkeypatch.setattr(estimate, "write_photos", lambda folder: [(whole, 0.5), (broken, 0.5)])
    monkeypatch.setattr(count, "check", lambda tree: None)  # as done for this machine
    assert main(["pi4b", "-q"]) == 5
    said = capsys.readouterr()
    expected = f"edge-bench: counting failed under emulation with 1: edge.errors.DecodeError: {broken}: truncated"
    assert said.err.startswith(expected) and said.err.count("\n") == 1 and not said.out


def test_a_tree_tells_what_debian_it_is_of(tree):
    found = tree.debian_packages()
    assert found["python3.11-minimal"].startswith("3.11.2-") and found["libc6"].startswith("2.36-")
    assert found["zlib1g"].startswith("1:")  # not as in a file's name
