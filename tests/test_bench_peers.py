"""The contenders: each runs as a whole process, answers every path in order, and is compared turn by turn."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import onnx
import pytest
from make_tiny import add_outputs
from sample_images import TINY_MODEL, folder_of_photos

from bench.speed import peers, process_cost
from bench.speed.latency import quartiles
from edge.errors import EdgeError

HAS_OPENCV = importlib.util.find_spec("cv2") is not None
needs_opencv = pytest.mark.skipif(not HAS_OPENCV, reason="the peers need opencv-python-headless (extra baseline)")


@pytest.fixture
def paths(tmp_path):
    folder = folder_of_photos(tmp_path / "photos", 7, size=(300, 200))
    return [str(folder / f"img{i}.jpg") for i in range(7)]


def test_every_peer_answers_every_path(paths, tmp_path, monkeypatch):
    """Whatever name a file has."""
    names = (b"\xff \xe9.jpg", b"two\nlines.jpg", b" blank .jpg")
    odd = [os.path.join(str(tmp_path), os.fsdecode(name)) for name in names]
    for name in odd:
        shutil.copyfile(paths[0], name)
    monkeypatch.chdir(Path(__file__).parents[1])
    names = [name for name in peers.PEERS if HAS_OPENCV or name not in peers._WITH_OPENCV]
    figures = peers.interleaved(names, TINY_MODEL, [*paths, *odd], workers=2, batch_size=4, runs=1)
    assert list(figures) == ["ours", *names]
    for row in figures.values():
        assert row["wall_s"][0] > 0 and row["cpu_s"][0] > 0 and row["peak_mb"] > 10
        assert 0 <= row["equal_labels"] <= 1
    assert figures["ours"]["wall_ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert len(list(peers.table(figures))) == 2 + len(names)


@needs_opencv
@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_keeps_the_order_whatever_the_threads(name, paths):
    """Eight paths, one photo repeated: equal photos get equal labels, in every thread and in the remainder."""
    run = peers._RUNNERS[name]
    mixed = [paths[0], paths[1], paths[0], paths[2], paths[1], paths[0], paths[2], paths[0]]
    single = run(str(TINY_MODEL), mixed, 1)
    assert run(str(TINY_MODEL), mixed, 3) == single
    assert single[0] == single[2] == single[5] == single[7]
    assert single[1] == single[4]


@needs_opencv
@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_asks_for_the_logits(name, paths, tmp_path):
    model = onnx.load(TINY_MODEL)
    add_outputs(model)
    onnx.save(model, tmp_path / "more.onnx")
    run = peers._RUNNERS[name]
    assert run(str(tmp_path / "more.onnx"), paths, 1) == run(str(TINY_MODEL), paths, 1)


def test_a_peer_that_fails_is_one_line(paths):
    broken = [*paths, __file__]  # ours gives it an error row, the tutorial dies
    with pytest.raises(EdgeError, match="naive failed: .*cannot identify image file") as caught:
        peers.interleaved(["naive"], TINY_MODEL, broken, workers=1, batch_size=1, runs=1)
    assert "pip" not in str(caught.value)  # nothing is missing


def test_a_missing_package_is_said_before_anything_is_timed(tmp_path, monkeypatch):
    (tmp_path / "cv2.py").write_text("raise ModuleNotFoundError(\"No module named 'cv2'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    peers.check(["naive", "organisers"])
    with pytest.raises(EdgeError, match=r"winners cannot run: .*cv2.* \(pip install -e '.\[baseline\]' in the"):
        peers.check(["naive", "winners"])


def test_quartiles_of_one_and_of_many():
    assert quartiles([2.0]) == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert quartiles([1, 2, 3, 4, 5]) == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_a_processs_cost_is_its_own():
    ballast = bytearray(200_000_000)  # the kernel would start a child's peak from this
    ballast[::4096] = b"x" * len(ballast[::4096])
    program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    cost = process_cost.run([sys.executable, "-c", program])
    assert (cost.status, cost.output, cost.error) == (3, b"out\n", "err")
    assert cost.peak_mb < 100
    assert 0 < cost.cpu_s and 0 < cost.wall_s
    assert process_cost.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]).status == -9
