"""The tree, the emulator, the counter's output and the cost baseline, without emulation."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sample_images import TINY_MODEL

from bench.cli import main
from bench.pi4b import actions, cache, contest, cost, counter, hardware, measured, model, ready, tools, tree
from bench.pi4b.cost import BaselineError, Cost
from bench.pi4b.emulator import environment, run
from bench.pi4b.model import Formula
from bench.pi4b.regions import Spec
from bench.pi4b.tools import Pi4bError, Unavailable
from bench.pi4b.tree import Tree, build_tree, pinned
from edge import device
from edge.classifier import Classifier

ROOT = Path(__file__).parents[1]
BASELINE = ROOT / "docs" / "pi4b-cost.json"


FORMULA = Formula(0.5, 17.0, 40.0)
PARTS = ("versions", "models", "photos", "regions")


def region(name="net", *, kind="infer", **changes):
    """5 million cycles of instructions, 17 of L1 misses, 80 of L2 misses: 57 ms."""
    zeros = dict.fromkeys(("simd_fma", "simd_int_mac", "simd_float", "simd_int", "branch_misses"), 0)
    counts = {"instructions": 10_000_000, "l1_misses": 3_000_000, "l2_misses": 2_000_000, **zeros}
    return Cost(kind, name, 1, {**counts, **changes})


def compare(before, after):
    return list(cost.compare(before, after, FORMULA))


@pytest.mark.parametrize("name", ["instructions", "l1_misses", "l2_misses"])
def test_three_percent_more_is_seen_and_one_is_not(name):
    before = [region()]
    dearer = region(**{name: round(1.03 * before[0].counted[name])})
    (line,) = compare(before, [dearer])
    assert line.startswith("infer net batch 1: ") and "+3.0%" in line
    assert compare(before, [region(**{name: round(1.01 * before[0].counted[name])})]) == []
    assert compare(before, [region(**{name: round(0.9 * before[0].counted[name])})]) == []  # cheaper is welcome


def test_misses_that_cost_no_time_do_not_count():
    small = {"instructions": 10_000_000, "l1_misses": 20_000}
    # 19,000 misses that L2 does not answer either, 23 cycles each: 0.24 ms; 20,000 more of both: 0.44 ms
    assert compare([region(**small, l2_misses=10)], [region(**small, l2_misses=19_010)]) == []
    dearer = region(instructions=10_000_000, l1_misses=40_000, l2_misses=20_010)
    assert len(compare([region(**small, l2_misses=10)], [dearer])) == 2


def test_where_the_buffers_of_a_decode_lie_does_not_count():
    """3 % more L1 misses are 1.5 % of this time: enough for a network alone. 3 % more of the others are for all."""
    for kind, expected in (("infer", 1), ("decode", 0)):
        assert len(compare([region(kind=kind)], [region(kind=kind, l1_misses=3_090_000)])) == expected
        assert len(compare([region(kind=kind)], [region(kind=kind, instructions=10_300_000)])) == 1
        assert len(compare([region(kind=kind)], [region(kind=kind, l2_misses=2_060_000)])) == 1


def test_counts_of_one_decode_in_two_folders_are_equal_enough():
    """2592x1936, the same program and photo, counted in trees at two places: 17 % of the time apart."""
    here = {"instructions": 63_838_430, "l1_misses": 76_445, "l2_misses": 5_943}
    there = {"instructions": 63_759_604, "l1_misses": 401_915, "l2_misses": 5_886}
    assert compare([region(kind="decode", **here)], [region(kind="decode", **there)]) == []
    dearer = region(kind="decode", **{**there, "l1_misses": 802_000})
    assert len(compare([region(kind="decode", **here)], [dearer])) == 1


def test_a_region_that_is_gone_is_seen():
    assert compare([region("a"), region("b")], [region("b")]) == ["infer a batch 1: not counted any more"]


def test_a_region_that_nothing_watches_is_seen():
    expected = ["infer b batch 1: not in the baseline, which has to be made anew"]
    assert compare([region("a")], [region("a"), region("b")]) == expected


def test_committed_baseline_can_be_read():
    result, costs = cost.read_costs(BASELINE)
    assert result["note"].startswith("modelled, not measured")
    assert {each.kind for each in costs} == {"decode", "resize", "infer"}
    assert result["versions"]["onnxruntime"] in (ROOT / "constraints/py311-aarch64.txt").read_text()


def results(**changes):
    """A results file as bytes, with changes to it or to its only region."""
    one = {**region().as_json(), **{key: value for key, value in changes.items() if key not in PARTS}}
    digests = {"models": {"net": "f00"}, "photos": {"a.jpg": "ba5e"}}
    whole = {"schema": cost.SCHEMA, "versions": {"qemu": "7.2.22"}, **digests, "regions": [one]}
    return json.dumps({**whole, **{key: value for key, value in changes.items() if key in PARTS}}).encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "damaged results"),
        (b"[]", "no results of edge-bench pi4b"),
        (b'{"schema": "edge-bench/1"}', "no results of edge-bench pi4b"),
        (b'{"schema": "edge-pi4b/1"}', "damaged results of edge-bench pi4b: KeyError"),
        (b'{"schema": "edge-pi4b/1", "versions": {}, "regions": [{}]}', "damaged results of edge-bench pi4b: KeyError"),
        (b'{"schema": "edge-pi4b/1", "versions": 3, "regions": []}', "damaged results of edge-bench pi4b: TypeError"),
        (results(versions={"numpy": ["2"]}), "damaged results of edge-bench pi4b: TypeError versions"),
        (results(models=[["a", "b"]]), "damaged results of edge-bench pi4b: TypeError models"),
        (results(photos=["a.jpg"]), "damaged results of edge-bench pi4b: TypeError photos"),
        (results(models=None), "damaged results of edge-bench pi4b: TypeError models"),
        (results(regions={"a": 1}), "damaged results of edge-bench pi4b: ValueError"),
        (results(regions=[]), "there is no region"),
        (results(regions=[region().as_json()] * 2), "infer net batch 1 is there twice"),
        (results(instructions=10**400), "larger than any counter"),
        (results(instructions=float("inf")), "damaged results of edge-bench pi4b: KeyError 'instructions'"),
        (results(l1_misses=float("nan")), "damaged results of edge-bench pi4b: KeyError 'l1_misses'"),
        (results(l2_misses=True), "damaged results of edge-bench pi4b: KeyError 'l2_misses'"),
        (results(l2_misses=-1), "a count is negative"),
        (results(instructions=0), "a count is negative"),
        (results(batch=float("inf")), "a region of no known kind"),
        (results(name=["x"]), "a region of no known kind"),
        (results(kind=["infer"]), "a region of no known kind"),
        (b"\xff\xfe", "damaged results"),
    ],
)
def test_bad_baselines(content, expected, tmp_path, capsys):
    path = tmp_path / "base line.json"
    path.write_bytes(content)
    with pytest.raises(BaselineError, match=expected):
        cost.read_costs(path)
    assert main(["pi4b", "--baseline", str(path)]) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_output_is_never_an_input(tmp_path, capsys):
    path = tmp_path / "counts.json"
    path.write_bytes(BASELINE.read_bytes())
    assert main(["pi4b", "--baseline", str(path), "-o", str(path), "--force"]) == 2
    assert "is an input" in capsys.readouterr().err
    assert path.read_bytes() == BASELINE.read_bytes()


def test_absent_programs_are_named_with_the_command_that_installs_them(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tools.shutil, "which", lambda name: None)
    with pytest.raises(Pi4bError) as error:
        tools.require("qemu-aarch64", "mmdebstrap", "cc")
    assert error.value.exit_status == 5
    assert "needs qemu-aarch64 (qemu-user), mmdebstrap (mmdebstrap), cc (gcc), not found" in str(error.value)
    packages = "qemu-user mmdebstrap gcc"
    assert str(error.value).endswith(f"apt-get install -y --no-install-recommends {packages}")
    assert main(["pi4b", "--cache", str(tmp_path / "new"), "--no-photos"]) == 5
    said = capsys.readouterr().err
    assert said.startswith("edge-bench: the Pi 4B emulation needs ") and said.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_what_is_there_but_does_not_work_is_named_too(monkeypatch):
    monkeypatch.setattr(tools.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(tools, "_output", lambda *command: "no such option, no such header")
    monkeypatch.setattr(tools, "_KEYRINGS", ("nowhere/keys",))
    with pytest.raises(Unavailable) as error:
        tools.require(*tools.NEEDED)
    expected = "Debian trixie's (qemu-user), Debian's keys (debian-archive-keyring), the headers of the C library"
    assert f"as {expected} (libc6-dev), not found" in str(error.value)
    installed = re.search("PI4B_PACKAGES = (.*)", (ROOT / "Makefile").read_text())[1].split()
    assert {*tools._PACKAGES.values()} == {*installed}


def program(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_container_that_forbids_fixed_addresses_is_named(monkeypatch, tmp_path):
    program(tmp_path, "setarch", "echo 'setarch: failed to set personality: Operation not permitted' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Unavailable, match="setarch -R is refused here .setarch: failed to set personality: Operation"):
        tools.require_fixed_addresses()


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("Could not load plugin /a/counter.so: plugin requires API version 1, but this QEMU supports only a minimum "
         "version of 2", Unavailable),
        ("Could not load plugin /a: /a: cannot open shared object file: No such file or directory", Pi4bError),
        ("Could not load plugin /a.so: undefined symbol: qemu_plugin_new", Pi4bError),
        ("Fatal Python error: init_fs_encoding", Pi4bError),
    ],
)  # fmt: skip
def test_only_a_qemu_of_another_age_is_no_fault_of_the_counter(said, failure, monkeypatch, tmp_path):
    monkeypatch.setattr(tools, "require_fixed_addresses", lambda: None)
    monkeypatch.setattr(tools, "qemu_version", lambda: "11.0.0")
    monkeypatch.setattr(cost, "run", lambda *a, **o: SimpleNamespace(returncode=1, stderr=f"qemu-aarch64: {said}\n"))
    with pytest.raises(Pi4bError, match=re.escape(said)) as error:
        cost.check(Tree(tmp_path, "3.11", ()))
    assert type(error.value) is failure


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", "7.2.22"),
        ("qemu-aarch64 version 10.0.8", "10.0.8"),
        ("qemu-aarch64 version 8.2.2(qemu-8.2.2-1.fc40)", "8.2.2"),
    ],
)
def test_qemu_tells_its_version_and_so_the_counter_its_own(said, version, monkeypatch, tmp_path):
    program(tmp_path, "qemu-aarch64", f"echo '{said}'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert tools.qemu_version() == version
    assert counter.api(version) == (2 if version == "10.0.8" else 1)


def test_what_says_no_version_is_not_asked_to_count(monkeypatch, tmp_path):
    program(tmp_path, "qemu-aarch64", "echo nonsense")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Unavailable, match="got 'nonsense', expected a version"):
        tools.qemu_version()


def test_a_program_that_fails_gives_its_last_line():
    with pytest.raises(Pi4bError, match="^trying failed: sh gave 3: second$"):
        tools.call(["sh", "-c", "echo first; echo second >&2; exit 3"], what="trying", timeout_s=60)
    with pytest.raises(Unavailable, match="^trying: sh was not done after 0.5 s$"):
        tools.call(["sh", "-c", "sleep 60 & wait"], what="trying", timeout_s=0.5, fetches=True)


APT_OFFLINE = """\
I: running apt-get update...
Ign:1 http://deb.debian.org/debian bookworm InRelease
Err:1 http://deb.debian.org/debian bookworm InRelease
  Temporary failure resolving 'deb.debian.org'
E: Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Temporary failure resolving 'deb.debian.org'
E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> failed
E: mmdebstrap failed to run"""
APT_NO_PACKAGE = """\
Reading package lists...
E: Unable to locate package nonsense
E: apt download failed: E: apt-get --yes -oDebug::pkgDpkgPm=1 install nonsense failed
E: mmdebstrap failed to run"""
PIP_OFFLINE = """\
WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError('<HTTPSConnection>: \
Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')': /simple/psutil/
ERROR: Could not find a version that satisfies the requirement psutil==7.99.9 (from versions: none)
ERROR: No matching distribution found for psutil==7.99.9"""


@pytest.mark.parametrize(
    ("said", "failure", "shown"),
    [
        (APT_OFFLINE, Unavailable, "the network cannot be reached: Temporary failure resolving 'deb.debian.org'"),
        (APT_NO_PACKAGE, Pi4bError, "gave 100: E: Unable to locate package nonsense"),
        (PIP_OFFLINE, Unavailable, "reached: Failed to establish a new connection: [Errno -3] Temporary failure in"),
        (PIP_OFFLINE.replace("total=0", "total=2"), Pi4bError, "ERROR: Could not find a version that satisfies the"),
        ("E: Failed to fetch x  404  Not Found [IP: ::1 80]\nE: mmdebstrap failed to run", Pi4bError, "404  Not Found"),
        ("tar: a: Cannot write: No space left on device\ntar: Exiting", Pi4bError, "write: No space left on device"),
        ("counter.c:3:5: error: unknown type\ncounter.c:9:1: note: here", Pi4bError, "3:5: error: unknown type"),
    ],
)
def test_only_a_network_that_is_not_there_is_no_fault_of_the_project(said, failure, shown, tmp_path):
    (tmp_path / "said").write_text(said)
    command = ["sh", "-c", f"cat '{tmp_path}/said' >&2; exit 100"]
    with pytest.raises(Pi4bError) as error:
        tools.call(command, what="fetching", timeout_s=60, fetches=True)
    assert type(error.value) is failure and shown in str(error.value)
    with pytest.raises(Pi4bError) as error:
        tools.call(command, what="reading", timeout_s=60)
    assert type(error.value) is Pi4bError


@pytest.mark.parametrize(
    ("index", "failure", "shown"),
    [
        ({"PIP_NO_INDEX": "1"}, Pi4bError, "ERROR: Could not find a version that satisfies the requirement psutil"),
        ({"PIP_INDEX_URL": "http://127.0.0.1:9/"}, Unavailable, "Failed to establish a new connection"),
    ],
)
def test_a_pin_that_does_not_exist_is_a_failure_and_no_network_is_none(index, failure, shown, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(tmp_path), **index}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Pi4bError) as error:
        tree._fetch(tmp_path / "part", "3.11", ["psutil==7.99.9"])
    assert type(error.value) is failure and shown in str(error.value)


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
    monkeypatch.setattr(tree, "_unpack_debian", lambda part, suite: (part / "usr/bin").mkdir(parents=True))


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


def test_what_runs_is_the_qemu_that_tells_its_version(monkeypatch, tmp_path):
    """Also where it lies in none of the folders that a program in the tree sees."""
    program(tmp_path, "qemu-aarch64", "echo mine")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert run(Tree(tmp_path, "3.11", ()), ["-c", ""], timeout_s=60).stdout == "mine\n"


def test_a_layer_that_fails_leaves_nothing(no_debian, tmp_path):
    (tmp_path / "broken.whl").write_bytes(b"no zip")
    for wheel, expected in (("broken.whl", "is no wheel"), ("absent.whl", "wheel cannot be read")):
        with pytest.raises(Pi4bError, match=expected):
            build_tree(tmp_path / "trees", wheels=[tmp_path / wheel], site_requirements=[])
    assert [path.name.split("-")[0] for path in (tmp_path / "trees").iterdir()] == ["debian"]


def test_the_faked_board_is_a_pi_4(tmp_path):
    for name, content in hardware.files():
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


def test_time_is_limited(monkeypatch, tmp_path):
    monkeypatch.setattr(tools, "require", lambda *names: None)
    child = f"sleep 61 & echo $! > '{tmp_path}/child'; wait"
    monkeypatch.setattr(Tree, "emulator", lambda self: ["sh", "-c", child])
    with pytest.raises(Pi4bError, match="-m edge: not done after 1 s"):
        run(Tree(tmp_path, "3.11", ()), ["-m", "edge"], timeout_s=1)
    assert ends((tmp_path / "child").read_text().strip())


def ends(process):
    """Whether a process is gone, or is about to be: one that is killed takes a moment."""
    for _ in range(500):
        try:
            if "zombie" in Path(f"/proc/{process}/status").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_ended_leaves_no_process_and_no_file(number, tmp_path):
    """The programs here are in a session of their own, which no signal of the terminal reaches."""
    scratch, started = tmp_path / "scratch", tmp_path / "started"
    scratch.mkdir()
    program(tmp_path, "mmdebstrap", f"mkdir $TMPDIR/mmdebstrap.xyz; sleep 61 & echo $$ $! > '{started}.part'; "
            f"mv '{started}.part' '{started}'; wait")  # fmt: skip
    text = f"""if True:
        from bench.pi4b import tools, tree
        from edge.command import run
        tools.require = lambda *names: None
        run("build", lambda: tree.build_tree({str(tmp_path / "cache")!r}) and 0)"""
    here = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    build = subprocess.Popen([sys.executable, "-c", text], env=here, stderr=subprocess.PIPE, text=True)
    with build:
        while not started.exists():
            assert build.poll() is None
            time.sleep(0.02)
        build.send_signal(number)
        assert build.communicate()[1] == "build: interrupted\n"
    assert all(map(ends, started.read_text().split()))
    assert not [*scratch.iterdir(), *(tmp_path / "cache").iterdir()]


def test_counts_are_read_by_tag(tmp_path):
    path = tmp_path / "counts"
    path.write_text('{"tag": -2, "instructions": 1}\n{"tag": 0, "instructions": 5}\n{"tag": -1, "instructions": 2}\n')
    assert counter.read(path) == {0: {"tag": 0, "instructions": 5}}
    path.write_text('{"tag": 0, "instr')
    with pytest.raises(Pi4bError, match="wrote nothing usable"):
        counter.read(path)
    assert f"enum {{ MARK = {counter.MARK} }};" in counter.SOURCE.read_text()
    with pytest.raises(Pi4bError, match="path with a comma"):
        counter.plugin_argument(tmp_path, tmp_path / "a,b", api=1)


QEMU = r"""
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
typedef void (*translated)(uint64_t, void *);
typedef void (*executed)(unsigned, void *);
typedef void (*called)(uint64_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                       uint64_t, uint64_t);
static translated on_translation; static executed on_execution; static called on_call; static void *block;
static const uint32_t words[] = {0x91000400, 0x9b017c00, 0x54000040};    /* add, mul, b.eq */
static int version;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, translated f) { on_translation = f; }
void qemu_plugin_register_vcpu_tb_exec_cb(void *tb, executed f, int flags, void *data)
{
    on_execution = f;
    block = data;
}
void qemu_plugin_register_vcpu_mem_cb(void *insn, void *f, int flags, int which, void *data) {}
void qemu_plugin_register_vcpu_syscall_cb(uint64_t id, called f) { on_call = f; }
void qemu_plugin_register_atexit_cb(uint64_t id, void *f, void *data) {}
size_t qemu_plugin_tb_n_insns(void *tb) { return 3; }
uint64_t qemu_plugin_tb_vaddr(void *tb) { return 4096; }
void *qemu_plugin_tb_get_insn(void *tb, size_t i) { return (void *)&words[i]; }
unsigned qemu_plugin_mem_size_shift(uint32_t info) { return 2; }
void *qemu_plugin_insn_data(void *insn, void *to, size_t size)
{
    if (version < 3)
        return insn;
    memcpy(to, insn, size);
    return (void *)size;                                                 /* how many bytes, no pointer */
}
int main(int argc, char **argv)
{
    struct { const char *name; int min, current; } info = {"aarch64", 0, version = atoi(argv[2])};
    void *plugin = dlopen(argv[1], RTLD_NOW);
    int *wants = dlsym(plugin, "qemu_plugin_version");
    int (*install)(uint64_t, void *, int, char **) = dlsym(plugin, "qemu_plugin_install");
    if (*wants > version || *wants < (version > 1 ? 2 : 0) || install(0, &info, 1, argv + 3))
        return 3;
    on_translation(0, NULL);
    on_call(0, 0, 9999, -2, 0, 0, 0, 0, 0, 0, 0);
    on_execution(0, block);
    on_execution(0, block);
    on_execution(1, block);                                              /* of another thread */
    on_call(0, 0, 9999, 7, 0, 0, 0, 0, 0, 0, 0);
    return 0;
}
"""
"""What the counter sees of a QEMU, with the interface of any version."""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(("api", "version"), [(1, 1), (2, 2), (2, 3), (2, 5)])
def test_counter_counts_with_each_plugin_interface(api, version, tmp_path):
    (tmp_path / "qemu.c").write_text(QEMU)
    command = ["cc", "-rdynamic", "-o", str(tmp_path / "qemu"), str(tmp_path / "qemu.c"), "-ldl"]
    tools.call(command, what="compiling the stand-in", timeout_s=60)
    folder = tmp_path / "a=b c"  # QEMU takes what is before the first "=" for a name
    folder.mkdir()
    library, *arguments = counter.plugin_argument(folder, folder / "counts", api=api).split(",")
    (name, library), (given, path) = (part.split("=", 1) for part in (library, *arguments))
    assert (name, given, path) == ("file", "out", str(folder / "counts"))
    tools.call([str(tmp_path / "qemu"), library, str(version), *arguments], what="counting", timeout_s=60)
    (found,) = counter.read(folder / "counts").values()
    expected = {"tag": 7, "instructions": 6, "integer": 2, "multiply": 2, "branch": 2}
    assert {name: value for name, value in found.items() if value and name != "branch_misses"} == expected
    with pytest.raises(Pi4bError, match="counting failed"):  # the other interface's counter is refused
        other, *_ = counter.plugin_argument(folder, folder / "counts", api=3 - api).split(",")
        command = [str(tmp_path / "qemu"), other.removeprefix("file="), str(version), *arguments]
        tools.call(command, what="counting", timeout_s=60)


def test_a_folder_that_python_or_qemu_would_cut_is_refused_before_the_work(tmp_path, capsys):
    for name, sign in (("a:b", ":"), ("a,b", ",")):
        assert main(["pi4b", "--cache", str(tmp_path / name), "--no-photos"]) == 5
        assert f"got a path with {sign}, expected one without" in capsys.readouterr().err
        with pytest.raises(Pi4bError, match="got a path with"):
            build_tree(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_what_killed_builds_have_left_is_removed_and_nothing_else(no_debian, monkeypatch, tmp_path):
    parts = [tmp_path / f"{cache.PART}debian-bookworm-abc", tmp_path / f"{cache.PART}counter-1.so.77"]
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
    monkeypatch.setattr(cache, "time", SimpleNamespace(time=lambda: later))
    build_tree(tmp_path, site_requirements=[])
    assert not any(path.exists() for path in parts) and all(path.exists() for path in theirs)


def test_what_is_made_is_removed_if_its_process_was_killed(monkeypatch, tmp_path):
    """The names of half-made things are those that are looked for."""
    made = []

    def make(part):
        made.append(part)
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.shutil, "rmtree", lambda *arguments, **options: None)
    monkeypatch.setattr(Path, "unlink", lambda *arguments, **options: None)
    for work in (lambda: cache.layer(tmp_path, "wheels", [], make), lambda: cache.put(tmp_path / "a.jpg", make)):
        with pytest.raises(KeyboardInterrupt):
            work()
    assert all(path.name.startswith(cache.PART) and path.parent == tmp_path for path in made) and len(made) == 2


def test_two_processes_make_the_same_at_once(monkeypatch, tmp_path):
    """Each is in the middle of it when the other is done."""
    def put(part):
        part.write_bytes(b"one")
        with monkeypatch.context() as other:
            other.setattr(cache.os, "getpid", lambda: 7)
            cache.put(tmp_path / "photo.jpg", lambda again: again.write_bytes(b"one"))

    cache.put(tmp_path / "photo.jpg", put)
    assert (tmp_path / "photo.jpg").read_bytes() == b"one"
    done = []

    def build(part):
        (part / "edge").symlink_to(ROOT / "edge")
        if not done:
            done.append(part)
            done.append(cache.layer(tmp_path, "packages", [], build))

    assert cache.layer(tmp_path, "packages", [], build) == done[1]
    assert {path.name for path in tmp_path.iterdir()} == {"photo.jpg", done[1].name}


def test_a_cache_that_can_only_be_read_tells_what_to_do(no_debian, monkeypatch, tmp_path):
    """Seen at another place than where it was filled, as mounted into a container."""
    build_tree(tmp_path / "a", site_requirements=[])
    (tmp_path / "a").rename(tmp_path / "b")

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(cache.os, "access", lambda path, mode: False)
    monkeypatch.setattr(cache, "mkdtemp", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    for work in (lambda: build_tree(tmp_path / "b", site_requirements=[]), lambda: cost.own_packages(tmp_path / "b")):
        with pytest.raises(Pi4bError, match=r"Read-only file system.*: copy it .* \(cp -a\), .* with --cache") as error:
            work()
        assert error.value.exit_status == 5


def test_counting_is_given_up_after_a_time_that_grows_with_the_work(monkeypatch, tmp_path):
    limits = []

    def run(*arguments, timeout_s, **others):
        limits.append(timeout_s)
        raise Pi4bError("stop")

    monkeypatch.setattr(cost, "run", run)
    one = Spec(("a.jpg",), models=("m",), batches=(1, 4))
    for spec in (Spec(), one, replace(one, winners=True)):
        with pytest.raises(Pi4bError, match="stop"):
            cost.count(Tree(tmp_path / "root", "3.11", ()), spec, {})
    assert limits == [60, 60 + 2 * 60 + 5 * 150, 60 + 3 * 60 + 5 * 150]


@pytest.fixture
def gate(monkeypatch, tmp_path):
    """`edge-bench pi4b --baseline` where everything but the counting is real: (baseline, counts) -> exit status."""
    versions = {"python": "3.11", "qemu": "7.2.22", "numpy": "2"}
    monkeypatch.setattr(tools, "require", lambda *names: None)
    monkeypatch.setattr(actions, "_versions", lambda arguments: versions)
    done = []

    def stand_in(costs):
        def build(*arguments, **others):
            done.append("tree")
            return SimpleNamespace(debian_packages=lambda: {"libc6": "1"})

        monkeypatch.setattr(actions, "build_tree", build)
        monkeypatch.setattr(cost, "check", lambda tree: None)
        monkeypatch.setattr(cost, "count", lambda *arguments: costs)

    def check(before, after, *, options=(), **changes):
        done.clear()
        stand_in(after)
        whole = {"versions": versions, "models": {TINY_MODEL.name: Classifier.load(TINY_MODEL).sha256}, **changes}
        path = tmp_path / "base line.json"
        path.write_bytes(results(regions=[each.as_json() for each in before], **whole))
        common = ["--no-photos", "-m", str(TINY_MODEL), "--cache", str(tmp_path)]
        return main(["pi4b", "--baseline", str(path), *common, *options]), list(done)

    return check


def test_gate_keeps_what_costs_no_more(gate, capsys):
    assert gate([region()], [region(instructions=10_100_000)]) == (0, ["tree"])
    assert "1 regions cost no more than in" in capsys.readouterr().err


def test_gate_refuses_what_costs_more(gate, capsys):
    assert gate([region()], [region(instructions=10_300_000)]) == (6, ["tree"])
    said = capsys.readouterr().err.splitlines()
    assert "infer net batch 1: instructions, 10,300,000 against 10,000,000, +3.0%" in said[0]
    assert said[1].endswith("(counted with other debian_packages and photos)") and len(said) == 2
    assert gate([region("a"), region("b")], [region("a")])[0] == 6
    assert gate([region("a")], [region("a"), region("b")])[0] == 6
    assert gate([], [region("a")])[0] == 3


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"versions": {"python": "3.11", "qemu": "7.2.22", "numpy": "1"}}, 6, "counted with other versions (numpy)"),
        ({"models": {"net": "f00"}}, 6, "counted with other models (net, tiny.onnx)"),
        (
            {"versions": {"python": "3.11", "qemu": "10.0.2", "numpy": "2"}},
            5,
            "counted with QEMU 10.0.2, here is QEMU 7.2.22: their counts cannot be compared",
        ),
    ],
)
def test_gate_refuses_other_inputs_before_the_count(changes, status, said, gate, capsys):
    assert gate([region()], [region()], **changes) == (status, [])
    assert said in capsys.readouterr().err


def test_gate_goes_by_the_published_times_alone(gate, monkeypatch):
    """A board's report moves the formula of the results, not what matters in the comparison."""
    used = []
    monkeypatch.setattr(cost, "compare", lambda before, after, formula: used.append(formula) or ())
    before = model.fit(model.read_points())
    skewed = [replace(point, ms=9 * point.ms) for point in model.read_points()]
    monkeypatch.setattr(measured, "network_points", lambda *arguments: skewed)
    monkeypatch.setattr(measured, "read", lambda path: {})
    monkeypatch.setattr(measured, "check", lambda *arguments: None)
    monkeypatch.setattr(measured, "photo_ratios", lambda reports, costs, formula, photos: used.append(formula))
    monkeypatch.setattr(actions, "check_files", lambda *arguments: None)
    options = ["--calibrate", "any.json"]
    assert gate([region()], [region()], options=options)[0] == 0
    assert used[1] == before and used[0] != before


def test_a_report_that_says_nothing_of_photos_is_named(monkeypatch, tmp_path, capsys):
    """And the published range stays."""
    photos = [(str(tmp_path / "a.jpg"), "a.jpg", 1.0)]
    (tmp_path / "a.jpg").write_bytes(b"photo")
    costs = [region("a.jpg", kind="decode"), region("a.jpg", kind="resize"), region(TINY_MODEL.name)]
    monkeypatch.setattr(tools, "require", lambda *names: None)
    monkeypatch.setattr(actions, "_versions", lambda arguments: {})
    monkeypatch.setattr(actions, "build_tree", lambda *a, **o: SimpleNamespace(debian_packages=lambda: {}))
    monkeypatch.setattr(actions, "_contest_photos", lambda folder: photos)
    monkeypatch.setattr(cost, "check", lambda tree: None)
    monkeypatch.setattr(cost, "count", lambda *arguments: costs)
    sha256 = Classifier.load(TINY_MODEL).sha256
    for name, digest in (("same", measured.digests([photos[0][0]])["a.jpg"]), ("other", "f00")):
        report = {
            "schema": measured.SCHEMA, "valid": True, "model": {"name": "net", "sha256": sha256}, "reasons": [],
            "machine": {"before": {"board": measured.BOARD, "clock_max_mhz": 1800}}, "photos": {"a.jpg": digest},
            "regions": [
                {"kind": "infer", "name": "net", "batch": 1, "ms": 40.0},
                {"kind": "decode", "name": "a.jpg", "batch": 1, "ms": 50.0},
            ],
        }  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    common = ["pi4b", "-m", str(TINY_MODEL), "--cache", str(tmp_path), "--calibrate"]
    assert main([*common, str(tmp_path / "same.json")]) == 0
    assert capsys.readouterr().err == ""
    out = tmp_path / "out.json"
    assert main([*common, str(tmp_path / "other.json"), "-o", str(out)]) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"edge-bench: {tmp_path}/other.json: says nothing of photos") and said.count("\n") == 1
    assert json.loads(out.read_bytes())["photo_factors"] == json.loads(out.read_bytes())["winners_factors"]


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--images", "nowhere"], 3, "nowhere"),
        (["-o", "there.json"], 2, "exists already"),
        (["-m", "{model}", "-m", "{copy}"], 3, "copy.onnx has the same content as tiny.onnx"),
        (["-m", "{model}", "-m", "{model}"], 3, "got the name tiny.onnx twice"),
        (["-m", "nowhere.onnx"], 4, "nowhere.onnx"),
        (["--calibrate", "there.json"], 3, "no report of edge-bench board"),
    ],
)
def test_inputs_are_looked_at_before_the_work(options, status, said, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "copy.onnx").write_bytes(TINY_MODEL.read_bytes())

    def work(*arguments, **others):
        raise AssertionError("work before the inputs are known to be good")

    for place, name in ((tools, "require"), (actions, "build_tree"), (cost, "count"), (contest, "write_photos")):
        monkeypatch.setattr(place, name, work)
    options = [option.format(model=TINY_MODEL, copy="copy.onnx") for option in options]
    assert main(["pi4b", "--cache", str(tmp_path / "cache"), *options]) == status
    assert said in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (Unavailable("no network"), ready.SKIPPED, "SKIPPED: no network\n"),
        (Pi4bError("the counter does not compile"), 5, "pi4b-ready: the counter does not compile\n"),
        (OSError(28, "No space left on device", "/tmp/x"), 5, "pi4b-ready: /tmp/x: No space left on device\n"),
    ],
)
def test_ready_skips_what_the_machine_lacks_and_nothing_else(failure, status, said, monkeypatch, capsys):
    def build(folder):
        raise failure

    monkeypatch.setattr(tools, "require", lambda *names: None)
    monkeypatch.setattr(tools, "require_fixed_addresses", lambda: None)
    monkeypatch.setattr(ready, "build_tree", build)
    assert ready.main([]) == status != 0
    assert capsys.readouterr().err == said
    assert ready.SKIPPED not in (5, 0)
    assert f"\n\t{ready.SKIPPED}) echo \"make check-cost: SKIPPED" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("content", [b'{"schema": "edge-pi4b/1", "vers', b"", None])
def test_ready_refuses_a_damaged_baseline_with_one_line(content, monkeypatch, tmp_path, capsys):
    """Also where nothing could be counted: a machine without QEMU sees it too."""
    monkeypatch.setattr(tools.shutil, "which", lambda name: None)
    path = tmp_path / "counts.json"
    if content is not None:
        path.write_bytes(content)
    assert ready.main([str(path)]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"pi4b-ready: {path}: ") and said.count("\n") == 1


def test_ready_names_both_versions_of_qemu(monkeypatch, capsys):
    monkeypatch.setattr(tools, "require", lambda *names: None)
    monkeypatch.setattr(tools, "qemu_version", lambda: "10.0.8")
    monkeypatch.setattr(ready, "build_tree", lambda folder: pytest.fail("built"))
    assert ready.main([str(BASELINE)]) == ready.SKIPPED
    then = json.loads(BASELINE.read_bytes())["versions"]["qemu"]
    assert f"counted with QEMU {then}, here is QEMU 10.0.8" in capsys.readouterr().err


def test_spec_goes_through_json():
    spec = Spec(("a b.jpg",), "{}", ("ä.onnx",), (1, 4), True)
    assert Spec.from_json(json.dumps(vars(spec))) == spec


def test_packages_are_linked_again_after_a_move(monkeypatch, tmp_path):
    links = cost.own_packages(tmp_path)
    assert (links / "edge").resolve() == ROOT / "edge" and {path.name for path in links.iterdir()} == {"edge", "bench"}
    monkeypatch.setattr(cost.edge, "__path__", [str(tmp_path / "moved" / "edge")])
    assert (cost.own_packages(tmp_path) / "edge").readlink() == tmp_path / "moved" / "edge"
    assert (links / "edge").resolve() == ROOT / "edge"  # a process that counts now still has its own


def test_nothing_of_the_users_is_replaced_in_a_cache(tmp_path):
    for name in ("packages/edge", "packages/bench"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    cost.own_packages(tmp_path)
    assert (tmp_path / "packages/edge").read_text() == "mine"
