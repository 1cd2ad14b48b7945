"""Nothing phones home: no look-up, no connection, and no file but the output, whatever the dependencies begin to do."""

import ast
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from sample_images import TINY_MODEL, encoded, photo

ROOT = Path(__file__).parents[1]
PACKAGES = ("edge", "bench", "train", "export")
NOWHERE = "/proc/nowhere"  # where nobody can write, root neither

TRAP = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void tell(const char *what, const char *of) {
    char line[600];
    int length = snprintf(line, sizeof line, "%s %.500s\n", what, of ? of : "");
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int log = real(getenv("TRAP_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (log < 0 || write(log, line, length) != length) abort();
    close(log);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    tell("look-up", node);
    return EAI_FAIL;
}
struct hostent *gethostbyname(const char *name) { tell("look-up", name); return NULL; }
struct hostent *gethostbyname2(const char *name, int family) { tell("look-up", name); return NULL; }

/* A socket alone contacts nobody: libuuid opens one to ask the kernel for a number. */
static int refused(const char *what, const struct sockaddr *to) {
    if (to == NULL || (to->sa_family != AF_INET && to->sa_family != AF_INET6)) return 0;
    tell(what, "");
    errno = EACCES;
    return 1;
}
#define REAL(name, ...) ((int (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))
int connect(int fd, const struct sockaddr *to, socklen_t size) {
    return refused("connect", to) ? -1 : REAL(connect, int, const struct sockaddr *, socklen_t)(fd, to, size);
}
int bind(int fd, const struct sockaddr *to, socklen_t size) {
    return refused("bind", to) ? -1 : REAL(bind, int, const struct sockaddr *, socklen_t)(fd, to, size);
}
ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size) {
    if (refused("send", to)) return -1;
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "sendto");
    return real(fd, data, length, flags, to, size);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    if (refused("send", message->msg_name)) return -1;
    ssize_t (*real)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
    return real(fd, message, flags);
}

/* Files written outside of the sandbox; those in it are counted when all is over. */
static void look(const char *path, int writes, int opened) {
    const char *own = getenv("TRAP_SANDBOX");
    if (writes && opened && path[0] == '/' && strncmp(path, own, strlen(own)) && strncmp(path, "/dev/", 5))
        tell("file", path);
}
#define WRITES (O_WRONLY | O_RDWR | O_CREAT)
#define MODE va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more)
#define OPEN(name) int name(const char *path, int flags, ...) { \
        MODE; int fd = REAL(name, const char *, int, ...)(path, flags, mode); \
        look(path, flags & WRITES, fd >= 0); return fd; }
#define OPENAT(name) int name(int at, const char *path, int flags, ...) { \
        MODE; int fd = REAL(name, int, const char *, int, ...)(at, path, flags, mode); \
        look(path, flags & WRITES, fd >= 0); return fd; }
#define FOPEN(name) FILE *name(const char *path, const char *mode) { \
        FILE *(*real)(const char *, const char *) = dlsym(RTLD_NEXT, #name); \
        FILE *file = real(path, mode); \
        look(path, strpbrk(mode, "wa+") != NULL, file != NULL); return file; }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) FOPEN(fopen) FOPEN(fopen64)
"""
"""A library that a process loads first, its children too: look-ups and connections fail and are told, C++'s as well."""


@pytest.fixture(scope="module")
def trap(tmp_path_factory):
    """The library; None where there is no C compiler."""
    if (compiler := shutil.which("cc")) is None:
        return None
    folder = tmp_path_factory.mktemp("trap")
    (folder / "trap.c").write_text(TRAP)
    command = [compiler, "-shared", "-fPIC", "-w", "-o", "trap.so", "trap.c", "-ldl"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "trap.so"


@pytest.fixture
def sandbox(tmp_path, trap):
    return Sandbox(tmp_path, trap)


class Sandbox:
    """Processes with an empty HOME, a folder of their own and nothing else of this one's environment.

    onnxruntime keeps quiet in tests and where CI is set, so a test that handed its environment on could not fail.
    """

    def __init__(self, root, trap):
        self.root, self.trap = root, trap
        self.work, self.log = root / "work", root / "log"
        for name in ("home", "tmp", "work"):
            (root / name).mkdir()

    def run(self, *arguments, program=None, home=None):
        """Python with arguments, or with a program whose arguments they are."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home or self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "0",  # whatever a user's environment says
            "TRAP_LOG": str(self.log),
            "TRAP_SANDBOX": f"{self.root}/",
        }
        if self.trap is not None:
            environment["LD_PRELOAD"] = str(self.trap)
        command = [sys.executable, *(["-c", program] if program else []), *map(str, arguments)]
        self.before = self.paths()
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    def paths(self):
        """All files and folders but the log."""
        return {*self.root.rglob("*")} - {self.log}

    def heard(self):
        """What the trap told."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def check(self, *outputs):
        """The last run told nobody, and wrote its outputs, below the folder it started in, and nothing else."""
        assert self.heard() == []
        assert self.paths() - self.before == {self.work / name for name in outputs}
        if self.trap is None:
            pytest.skip("no C compiler: files were watched, look-ups and connections were not")


@pytest.fixture
def data(sandbox):
    """A small data set of the tiny model's classes, in the folder that processes start in."""
    for i, name in enumerate(("ash", "birch", "cedar") * 8):
        path = sandbox.work / f"data/g{i // 3 % 2}/{name}/{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(64, 48, seed=i)))


def test_the_trap_hears(sandbox):
    if sandbox.trap is None:
        pytest.skip("no C compiler")
    outside = sandbox.root.with_name(f"{sandbox.root.name}-outside")
    program = (
        "import socket, sys\n"
        "for act in (\n"
        "    lambda: socket.getaddrinfo('host.invalid', 443),\n"
        "    lambda: socket.socket(socket.AF_INET6).connect(('::1', 9)),\n"
        "    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9)),\n"
        "    lambda: open(sys.argv[1], 'w'),\n"
        "):\n"
        "    try: act()\n"
        "    except OSError: pass\n"
    )
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {program!r}, sys.argv[1]])"
    sandbox.run(outside, program=child)
    assert sandbox.heard() == ["look-up host.invalid", "connect ", "send ", f"file {outside}"]


def test_edge_infer(sandbox, data):
    sandbox.run("-m", "edge", "-q", "-r", "data", "-o", "out.csv")
    sandbox.check("out.csv", "out.csv.meta.json")


def test_library_and_check(sandbox, data):
    program = (
        "import sys\nfrom edge import Classifier\n"
        "print(*(each.label for each in Classifier.load().predict(sys.argv[1:])))\n"
        "from edge.cli import main\n"
        "assert main(['--check']) == 0\n"
    )
    done = sandbox.run("data/g0/ash/0.jpg", "data/g1/ash/3.jpg", program=program)
    assert len(done.stdout.splitlines()[0].split()) == 2
    sandbox.check()


def test_a_home_that_cannot_be_written(sandbox, data):
    done = sandbox.run("-m", "edge", "-q", "-r", "data", "-o", "out.csv", home=NOWHERE)
    assert done.stderr == ""
    sandbox.check("out.csv", "out.csv.meta.json")


def test_edge_bench(sandbox, data):
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from bench.cli import main\n"
        "tiny = ['-m', sys.argv[1], '-q']\n"
        "main(['latency', '-r', 'data', *tiny, '--runs', '1', '--no-cold-start', '-o', 'latency.json'])\n"
        "from bench.speed.latency import cold_start\n"
        "cold_start(Path(sys.argv[1]), 'data/g0/ash/0.jpg', runs=1)\n"
        "from edge.cli import main as infer\n"
        "infer(['-r', 'data', *tiny, '-o', 'out.csv'])\n"
        "assert main(['score', 'out.csv', '--data', 'data', '-q', '-o', 'results.json']) == 0\n"
    )
    sandbox.run(TINY_MODEL, program=program)
    sandbox.check("latency.json", "out.csv", "out.csv.meta.json", "results.json")


def test_execution_file_of_a_submission(sandbox, data):
    sandbox.run("-m", "export.submission", "accuracy", "-m", TINY_MODEL, "-o", "out", "--reference", "g0", "data")
    sandbox.check("out", "out/predictions.csv", "out/predictions.csv.meta.json", "out/results.json")


@pytest.mark.skipif(not all(map(find_spec, ("torch", "onnx"))), reason="torch and onnx are not installed")
def test_edge_export(sandbox, data):
    from sample_networks import random_network
    from test_train_loop import MOBILEONE, blank

    from train.checkpoint import save

    ema = random_network(num_conv_branches=1).state_dict()
    save(replace(blank(MOBILEONE), ema=ema), sandbox.work / "checkpoint.pt")
    program = (
        "import sys\n"
        "from export.cli import main\n"
        "tiny = sys.argv[1]\n"
        "assert main(['onnx', 'checkpoint.pt', '-o', 'model.onnx']) == 0\n"
        "assert main(['int8', tiny, '--calibrate', 'data', '-n', '16', '-o', 'int8.onnx']) == 0\n"
        "assert main(['verify', tiny, 'int8.onnx', '--data', 'data', '-o', 'verify.json']) in (0, 6)\n"
        "assert main(['info', 'model.onnx', '-o', 'info.json']) == 0\n"
    )
    sandbox.run(TINY_MODEL, program=program)
    sandbox.check("model.onnx", "int8.onnx", "verify.json", "info.json")


@pytest.mark.slow
def test_nothing_is_looked_up_later(sandbox):
    """onnxruntime 1.31's first look-up comes nine seconds after its import."""
    sandbox.run(program="import time\nfrom edge import Classifier\nClassifier.load()\ntime.sleep(15)")
    sandbox.check()


def _importing(package):
    """Files of a package that import onnxruntime, wherever in them."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "onnxruntime" for name in names):
                yield path
                break


def test_every_package_that_imports_onnxruntime_turns_its_telemetry_off_before():
    """A module's package is imported before it, so whatever the order of imports in the module."""
    importing = [package for package in PACKAGES if [*_importing(package)]]
    assert {"edge", "bench", "export"} <= {*importing}
    program = (
        "import os, sys\n"
        "from importlib import import_module\n"
        "for package in sys.argv[1:]:\n"
        "    os.environ['ORT_DISABLE_TELEMETRY'] = '0'\n"
        f"    for name in [name for name in sys.modules if name.split('.')[0] in {PACKAGES}]: del sys.modules[name]\n"
        "    import_module(package)\n"
        "    assert 'onnxruntime' not in sys.modules, package\n"
        "    assert os.environ['ORT_DISABLE_TELEMETRY'] == '1', package\n"
    )
    subprocess.run([sys.executable, "-c", program, *importing], cwd=ROOT, check=True)
