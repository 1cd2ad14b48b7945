"""The arm64 tree and the cache that holds it; nothing is emulated here."""

import errno
import os
import re
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.cli import main
from bench.pi4b import count, layers, rootfs
from bench.pi4b.emulator import environment
from bench.pi4b.programs import Pi4bError, Unavailable
from bench.pi4b.rootfs import Tree, build_tree, pinned
from edge import device

ROOT = Path(__file__).parents[1]


def test_a_download_that_fails_says_what_pip_said(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(tmp_path), "PIP_NO_INDEX": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match="ERROR: Could not find a version that satisfies the requirement psutil"):
        rootfs._fetch(tmp_path / "part", "3.11", ["psutil==7.99.9"])


def test_pinned_versions():
    found = pinned(["numpy", "onnxruntime"])
    assert all(line in (ROOT / "constraints/py311-aarch64.txt").read_text().splitlines() for line in found)
    assert [line.split("==")[0] for line in found] == ["numpy", "onnxruntime"]
    with pytest.raises(Pi4bError, match="no version of nonsense"):
        pinned(["nonsense"], python="3.13")


def test_unknown_python(tmp_path):
    with pytest.raises(Pi4bError, match="got '3.9', expected 3.11 or 3.13"):
        build_tree(tmp_path, python="3.9")


@pytest.fixture
def no_debian(monkeypatch):
    """A tree without Debian in it: what pip and mmdebstrap bring is another test's matter."""
    monkeypatch.setattr(rootfs, "_unpack_debian", lambda part, suite: (part / "usr/bin").mkdir(parents=True))


def make_wheel(path, text):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing.py", text)
    return path


def test_trees_are_found_again_and_change_with_their_wheels(no_debian, tmp_path):
    wheel = make_wheel(tmp_path / "thing-1-py3-none-any.whl", "one = 1")
    first = build_tree(tmp_path / "tr ees", wheels=[wheel], site_requirements=[])
    assert first == build_tree(tmp_path / "tr ees", wheels=[wheel], site_requirements=[])
    (site,) = first.site
    assert (site / "thing.py").read_text() == "one = 1"
    make_wheel(wheel, "two = 2")
    second = build_tree(tmp_path / "tr ees", wheels=[wheel], site_requirements=[])
    assert second.root == first.root and second.site != first.site
    assert not [path for path in (tmp_path / "tr ees").iterdir() if path.name.startswith(".")]
    assert re.match("#!/bin/sh\nexec (/.*/)?qemu-aarch64 -cpu cortex-a72 -L '", first.launcher.read_text())


def test_a_layer_that_fails_leaves_nothing(no_debian, tmp_path):
    (tmp_path / "broken.whl").write_bytes(b"no zip")
    for wheel, expected in (("broken.whl", "is no wheel"), ("absent.whl", "wheel cannot be read")):
        with pytest.raises(Pi4bError, match=expected):
            build_tree(tmp_path / "trees", wheels=[tmp_path / wheel], site_requirements=[])
    assert [path.name.split("-")[0] for path in (tmp_path / "trees").iterdir()] == ["debian"]


def test_the_faked_board_is_a_pi_4(tmp_path):
    for name, content in rootfs.board_files():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = device.record(tmp_path)
    assert found["board"] == "Raspberry Pi 4 Model B Rev 1.5"
    assert (found["clock_max_mhz"], found["governor"], found["memory_mb"]) == (1800.0, "performance", 3978)
    caches = tmp_path / "sys/devices/system/cpu/cpu3/cache"
    assert (caches / "index2/number_of_sets").read_text() == "1024\n"


def test_environment_is_small_and_fixed(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    found = environment(Tree(tmp_path, "3.11", (Path("/site"),)), {"PYTHONPATH": "/mine", "A": "1"})
    assert found["PYTHONPATH"] == "/mine:/site"
    assert found["A"] == "1" and found["PYTHONHASHSEED"] == "0"


def test_a_folder_that_python_or_qemu_would_cut_is_refused_before_the_work(tmp_path, capsys):
    for name, sign in (("a:b", ":"), ("a,b", ",")):
        assert main(["pi4b", "--cache", str(tmp_path / name), "--no-photos"]) == 5
        assert f"got a path with {sign}, expected one without" in capsys.readouterr().err
        with pytest.raises(Pi4bError, match="got a path with"):
            build_tree(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_what_killed_builds_have_left_is_removed_and_nothing_else(no_debian, monkeypatch, tmp_path):
    parts = [tmp_path / f"{layers.PART}debian-bookworm-abc", tmp_path / f"{layers.PART}counter-1.so.77"]
    theirs = [tmp_path / name for name in (".git", ".ssh", ".wheels", ".debian-notes", "wheels-kept", ".bashrc")]
    for folder in (parts[0], *theirs[:-1]):
        (folder / "usr").mkdir(parents=True)
    for path in (parts[1], theirs[-1]):
        path.write_bytes(b"half")
    for path in (*parts, *theirs):
        os.utime(path, (1, 1))  # as an archive's folder, unpacked: says nothing of when that was
    build_tree(tmp_path, site_requirements=[])
    assert all(path.exists() for path in parts)  # another process may be at it
    later = time.time() + 7 * 3600
    monkeypatch.setattr(layers, "time", SimpleNamespace(time=lambda: later))
    build_tree(tmp_path, site_requirements=[])
    assert not any(path.exists() for path in parts) and all(path.exists() for path in theirs)


def test_what_is_made_is_removed_if_its_process_was_killed(monkeypatch, tmp_path):
    """The names of half-made things are those that are looked for."""
    made = []

    def make(part):
        made.append(part)
        raise KeyboardInterrupt

    monkeypatch.setattr(layers.shutil, "rmtree", lambda *arguments, **options: None)
    monkeypatch.setattr(Path, "unlink", lambda *arguments, **options: None)
    for work in (lambda: layers.layer(tmp_path, "wheels", [], make), lambda: layers.put(tmp_path / "a.jpg", make)):
        with pytest.raises(KeyboardInterrupt):
            work()
    assert all(path.name.startswith(layers.PART) and path.parent == tmp_path for path in made) and len(made) == 2


def test_two_processes_make_the_same_at_once(monkeypatch, tmp_path):
    """Each is in the middle of it when the other is done."""
    def put(part):
        part.write_bytes(b"one")
        with monkeypatch.context() as other:
            other.setattr(layers.os, "getpid", lambda: 7)
            layers.put(tmp_path / "photo.jpg", lambda again: again.write_bytes(b"one"))

    layers.put(tmp_path / "photo.jpg", put)
    assert (tmp_path / "photo.jpg").read_bytes() == b"one"
    done = []

    def build(part):
        (part / "edge").symlink_to(ROOT / "edge")
        if not done:
            done.append(part)
            done.append(layers.layer(tmp_path, "packages", [], build))

    assert layers.layer(tmp_path, "packages", [], build) == done[1]
    assert {path.name for path in tmp_path.iterdir()} == {"photo.jpg", done[1].name}


def test_a_cache_that_can_only_be_read_tells_what_to_do(no_debian, monkeypatch, tmp_path):
    """Seen at another place than where it was filled, as mounted into a container."""
    build_tree(tmp_path / "a", site_requirements=[])
    (tmp_path / "a").rename(tmp_path / "b")

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(layers.os, "access", lambda path, mode: False)
    monkeypatch.setattr(layers, "mkdtemp", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    for work in (lambda: build_tree(tmp_path / "b", site_requirements=[]), lambda: count.own_packages(tmp_path / "b")):
        with pytest.raises(Pi4bError, match=r"Read-only file system.*: copy it .* \(cp -a\), .* with --cache") as error:
            work()
        assert error.value.exit_status == 5


def test_packages_are_linked_again_after_a_move(monkeypatch, tmp_path):
    links = count.own_packages(tmp_path)
    assert (links / "edge").resolve() == ROOT / "edge" and {path.name for path in links.iterdir()} == {"edge", "bench"}
    monkeypatch.setattr(count.edge, "__path__", [str(tmp_path / "moved" / "edge")])
    assert (count.own_packages(tmp_path) / "edge").readlink() == tmp_path / "moved" / "edge"
    assert (links / "edge").resolve() == ROOT / "edge"  # a process that counts now still has its own


def test_nothing_of_the_users_is_replaced_in_a_cache(tmp_path):
    for name in ("packages/edge", "packages/bench"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    count.own_packages(tmp_path)
    assert (tmp_path / "packages/edge").read_text() == "mine"
