"""How a command starts and ends: Ctrl-C at every moment of it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SEND = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\n"


def start(tmp_path, module, code="from edge.exit import start\nraise SystemExit(start('edge-x', 'module'))\n"):
    (tmp_path / "module.py").write_text(module)
    usual = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # not what the tests inherit
    (tmp_path / "command.py").write_text(f"{usual}import sys\nsys.path[:0] = [{str(ROOT)!r}]\n{code}")
    return subprocess.run([sys.executable, str(tmp_path / "command.py")], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "module",
    [
        f"{SEND}time.sleep(9)\nmain = print\n",
        f"def main():\n {SEND.replace(chr(10), chr(10) + ' ')}time.sleep(9)\n",  # while the arguments are read
        f"from edge.exit import run\ndef work():\n {SEND.replace(chr(10), chr(10) + ' ')}time.sleep(9)\n"
        "def main():\n return run('edge-x', work)\n",
    ],
)
def test_interrupted_is_130_and_one_line(tmp_path, module):
    result = start(tmp_path, module)
    assert (result.returncode, result.stderr) == (130, "edge-x: interrupted\n")


def test_an_import_is_not_broken_off_but_the_work_behind_it(tmp_path):
    code = (
        "import time\nfrom edge.exit import run\n"
        "def work():\n import module\n print(module.whole, flush=True)\n time.sleep(9)\n return 0\n"
        "raise SystemExit(run('edge-x', work))\n"
    )
    # As a library does that swallows what it does not expect.
    module = f"{SEND}try:\n time.sleep(0.2)\n whole = True\nexcept BaseException:\n whole = False\n"
    result = start(tmp_path, module, code)
    assert (result.returncode, result.stderr) == (130, "edge-x: interrupted\n")
    assert result.stdout == "True\n"


def test_what_a_shell_starts_behind_itself_ignores_interrupts():
    from edge.exit import quiet_interrupts, uninterrupted

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for context in (quiet_interrupts("x"), uninterrupted()):
            with context:
                assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("package", ["edge", "bench", "train", "export", "export.submission"])
def test_every_package_starts_its_command(package, monkeypatch):
    from importlib import import_module

    entry = import_module(f"{package}.__main__")
    monkeypatch.setattr(sys, "argv", ["x", "--version"])
    monkeypatch.setattr(entry, "start", lambda program, module: (program, callable(import_module(module).main)))
    name = package.rpartition(".")[2]
    program = {"edge": "edge-infer", "submission": "edge-submit"}.get(name, f"edge-{name}")
    assert entry.main() == (program, True)


def test_quiet_silences_what_libraries_in_c_print(tmp_path):
    code = (
        "import os, sys\nfrom edge.exit import quiet_libraries\n"
        "with quiet_libraries():\n os.write(2, b'noise')\n print('talk', file=sys.stderr)\n"
        "os.write(2, b'behind')\n"
    )
    assert start(tmp_path, "", code).stderr == "talk\nbehind"


def test_quiet_leaves_a_callers_standard_error(capsys, monkeypatch):
    from edge.exit import quiet_libraries

    with quiet_libraries():
        print("talk", file=sys.stderr)
    assert capsys.readouterr().err == "talk\n"
    monkeypatch.setattr(sys, "stderr", None)
    with quiet_libraries():
        pass
