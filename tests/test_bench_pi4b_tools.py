"""The programs that the emulation is made of: what is there, which of its failures are the machine's, how they end."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.cli import main
from bench.pi4b import count, layers, programs
from bench.pi4b.emulator import plugin_argument, read_counts, run
from bench.pi4b.programs import Pi4bError, Unavailable
from bench.pi4b.rootfs import Tree

ROOT = Path(__file__).parents[1]


def test_absent_programs_are_named_with_the_command_that_installs_them(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(programs.shutil, "which", lambda name: None)
    with pytest.raises(Pi4bError) as error:
        programs.require("qemu-aarch64", "mmdebstrap", "cc")
    assert error.value.exit_status == 5
    assert "needs qemu-aarch64 (qemu-user), mmdebstrap (mmdebstrap), cc (gcc), not found" in str(error.value)
    packages = "qemu-user mmdebstrap gcc"
    assert str(error.value).endswith(f"apt-get install -y --no-install-recommends {packages}")
    assert main(["pi4b", "--cache", str(tmp_path / "new"), "--no-photos"]) == 5
    said = capsys.readouterr().err
    assert said.startswith("edge-bench: the Pi 4B emulation needs ") and said.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_what_is_there_but_does_not_work_is_named_too(monkeypatch):
    monkeypatch.setattr(programs.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(programs, "_output", lambda *command: "no such option, no such header")
    monkeypatch.setattr(programs, "_KEYRINGS", ("nowhere/keys",))
    with pytest.raises(Unavailable) as error:
        programs.require(*programs.NEEDED)
    expected = "Debian trixie's (qemu-user), Debian's keys (debian-archive-keyring), the headers of the C library"
    assert f"as {expected} (libc6-dev), not found" in str(error.value)
    installed = re.search("PI4B_PACKAGES = (.*)", (ROOT / "Makefile").read_text())[1].split()
    assert {*programs._PACKAGES.values()} == {*installed}


def program(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_container_that_forbids_fixed_addresses_is_named(monkeypatch, tmp_path):
    program(tmp_path, "setarch", "echo 'setarch: failed to set personality: Operation not permitted' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Unavailable, match="setarch -R is refused here .setarch: failed to set personality: Operation"):
        programs.require_fixed_addresses()


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
    monkeypatch.setattr(programs, "require_fixed_addresses", lambda: None)
    monkeypatch.setattr(programs, "qemu_version", lambda: "11.0.0")
    monkeypatch.setattr(count, "run", lambda *a, **o: SimpleNamespace(returncode=1, stderr=f"qemu-aarch64: {said}\n"))
    with pytest.raises(Pi4bError, match=re.escape(said)) as error:
        count.check(Tree(tmp_path, "3.11", ()))
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
    assert programs.qemu_version() == version
    monkeypatch.setattr(layers, "put", lambda path, make: None)
    plugin = plugin_argument(tmp_path, tmp_path / "counts", version)
    assert plugin.partition(",")[0].endswith("-2.so" if version == "10.0.8" else "-1.so")


def test_what_says_no_version_is_not_asked_to_count(monkeypatch, tmp_path):
    program(tmp_path, "qemu-aarch64", "echo nonsense")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Unavailable, match="got 'nonsense', expected a version"):
        programs.qemu_version()


def test_a_program_that_fails_gives_its_last_line():
    with pytest.raises(Pi4bError, match="^trying failed: sh gave 3: second$"):
        programs.call(["sh", "-c", "echo first; echo second >&2; exit 3"], what="trying", timeout_s=60)
    with pytest.raises(Unavailable, match="^trying: sh was not done after 0.5 s$"):
        programs.call(["sh", "-c", "sleep 60 & wait"], what="trying", timeout_s=0.5, fetches=True)


APT_NO_PACKAGE = """\
Reading package lists...
E: Unable to locate package nonsense
E: apt download failed: E: apt-get --yes -oDebug::pkgDpkgPm=1 install nonsense failed
E: mmdebstrap failed to run"""


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (APT_NO_PACKAGE, "gave 100: E: Unable to locate package nonsense"),
        ("E: Failed to fetch x  404  Not Found [IP: ::1 80]\nE: mmdebstrap failed to run", "404  Not Found"),
        ("tar: a: Cannot write: No space left on device\ntar: Exiting", "write: No space left on device"),
        ("counter.c:3:5: error: unknown type\ncounter.c:9:1: note: here", "3:5: error: unknown type"),
    ],
)
def test_a_program_that_fails_to_fetch_is_no_fault_of_the_project(said, shown, tmp_path):
    (tmp_path / "said").write_text(said)
    command = ["sh", "-c", f"cat '{tmp_path}/said' >&2; exit 100"]
    for fetches, failure in ((True, Unavailable), (False, Pi4bError)):
        with pytest.raises(Pi4bError) as error:
            programs.call(command, what="fetching", timeout_s=60, fetches=fetches)
        assert type(error.value) is failure and shown in str(error.value)


def test_what_runs_is_the_qemu_that_tells_its_version(monkeypatch, tmp_path):
    """Also where it lies in none of the folders that a program in the tree sees."""
    program(tmp_path, "qemu-aarch64", "echo mine")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert run(Tree(tmp_path, "3.11", ()), ["-c", ""], timeout_s=60).stdout == "mine\n"


def test_time_is_limited(monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "require", lambda *names: None)
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
        from bench.pi4b import programs, rootfs
        from edge.exit import run
        programs.require = lambda *names: None
        run("build", lambda: rootfs.build_tree({str(tmp_path / "cache")!r}) and 0)"""
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


@pytest.fixture(scope="module")
def qemu(tmp_path_factory):
    """The stand-in, compiled."""
    path = tmp_path_factory.mktemp("a=b c") / "qemu"  # QEMU takes what is before the first "=" for a name
    path.with_suffix(".c").write_text(QEMU)
    command = ["cc", "-rdynamic", "-o", path, path.with_suffix(".c"), "-ldl"]
    programs.call(command, what="compiling the stand-in", timeout_s=60)
    return path


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(("api", "version"), [(1, 1), (2, 2), (2, 3), (2, 5)])
def test_counter_counts_with_each_plugin_interface(api, version, qemu):
    folder = qemu.parent
    qemus = {1: "8.2.2", 2: "9.0.0"}
    library, *arguments = plugin_argument(folder, folder / "counts", qemus[api]).split(",")
    (name, library), (given, path) = (part.split("=", 1) for part in (library, *arguments))
    assert (name, given, path) == ("file", "out", str(folder / "counts"))
    programs.call([qemu, library, str(version), *arguments], what="counting", timeout_s=60)
    ((tag, found),) = read_counts(folder / "counts").items()
    expected = {"instructions": 6, "integer": 2, "multiply": 2, "branch": 2}
    assert tag == 7 and {name: value for name, value in found.items() if value and name != "branch_misses"} == expected
    with pytest.raises(Pi4bError, match="counting failed"):  # the other interface's counter is refused
        other, *_ = plugin_argument(folder, folder / "counts", qemus[3 - api]).split(",")
        command = [qemu, other.removeprefix("file="), str(version), *arguments]
        programs.call(command, what="counting", timeout_s=60)
