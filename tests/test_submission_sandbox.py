"""How an execution file is run: without a network, with a time, and with nothing of it left behind."""

import socket
import sys
import time
from pathlib import Path

import pytest

from export.submission import trial
from export.submission.trial import run


@pytest.fixture
def settings(tmp_path):
    return {"cwd": tmp_path, "log": tmp_path / "log", "home": tmp_path}


@pytest.fixture
def uncut(monkeypatch):
    monkeypatch.setattr(trial, "can_cut", lambda: False)


def ends(process):
    """Whether a process is gone, or is about to be: one that is killed takes a moment."""
    state = Path(f"/proc/{process}/stat")
    for _ in range(500):
        try:
            if state.read_text().split()[2] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_command_that_hangs_is_killed_with_its_children(settings, uncut):
    command = ["sh", "-c", "sleep 60 & echo $!; wait"]
    assert run(command, **settings, timeout_s=0.5) == 124
    child, said = settings["log"].read_text().split("\n")[:2]
    assert said == "killed after 0 s"
    assert ends(child)


def test_what_a_command_leaves_running_is_killed(settings, uncut):
    assert run(["sh", "-c", "sleep 60 & echo $!"], **settings) == 0
    assert ends(settings["log"].read_text().strip())


def test_the_end_of_a_log(tmp_path):
    (tmp_path / "log").write_text("x\n" * 100_000 + "last " + "y" * 400)
    assert trial.tail(tmp_path / "log")[-2:] == ["x", "last " + "y" * 295]


def test_the_network_is_cut(settings, monkeypatch):
    if not trial.can_cut():
        pytest.skip("unshare -rn is not allowed here")
    program = "import socket; socket.create_connection(('127.0.0.1', PORT), 1)"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        command = [sys.executable, "-c", program.replace("PORT", str(server.getsockname()[1]))]
        assert run(command, **settings, network=True) == 0
        assert run(command, **settings) == 1
    assert "Error" in settings["log"].read_text()


def test_without_namespaces_pip_has_no_index_and_proxies_are_closed(settings, uncut, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    run(["env"], **settings)
    said = dict(line.split("=", 1) for line in settings["log"].read_text().splitlines())
    assert said["PIP_NO_INDEX"] == "1"
    assert said["https_proxy"].startswith("http://127.0.0.1:")
    assert said["HOME"] == str(settings["home"])
    assert not {"PIP_INDEX_URL", "PYTHONPATH"} & set(said)
    assert "is not noticed" in trial.NOT_CUT


def test_a_machine_without_unshare_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert trial.can_cut.__wrapped__() is False
