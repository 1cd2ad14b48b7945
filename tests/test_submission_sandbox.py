"""How an execution file is run: without a network, with a time, and with nothing of it left behind."""

import socket
import sys
import time
from pathlib import Path

import pytest

from export.submission import trial
from export.submission.trial import Failed, Trial


@pytest.fixture
def sandbox(tmp_path):
    return Trial(tmp_path, tmp_path, tmp_path, timeout_s=60)


@pytest.fixture
def uncut(monkeypatch):
    monkeypatch.setattr(trial, "can_cut", lambda: False)


def run(sandbox, *command, **settings):
    """Runs a command; returns what it said."""
    sandbox.execute("some.sh", command, **settings)
    return (sandbox.logs / "some.log").read_text()


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


def test_a_command_that_hangs_is_killed_with_its_children(sandbox, uncut):
    sandbox.timeout_s = 0.5
    with pytest.raises(Failed, match="some.sh: exit status 124: killed after 0 s") as caught:
        run(sandbox, "sh", "-c", "sleep 60 & echo $!; wait")
    assert ends(caught.value.log[0])


def test_what_a_command_leaves_running_is_killed(sandbox, uncut):
    assert ends(run(sandbox, "sh", "-c", "sleep 60 & echo $!").strip())


def test_the_end_of_a_log(sandbox, uncut):
    with pytest.raises(Failed) as caught:
        run(sandbox, "sh", "-c", "yes | head -n 100000; printf 'last %0400d' 0; exit 3")
    assert caught.value.log == ["y"] * 19 + ["last " + "0" * 295]


def test_the_network_is_cut(sandbox):
    if not trial.can_cut():
        pytest.skip("unshare -rn is not allowed here")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        program = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)"
        command = (sys.executable, "-S", "-c", program)
        assert run(sandbox, *command, network=True) == ""
        with pytest.raises(Failed, match="exit status 1: .*Error"):
            run(sandbox, *command)


def test_without_namespaces_pip_has_no_index_and_proxies_are_closed(sandbox, uncut, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    said = dict(line.split("=", 1) for line in run(sandbox, "env").splitlines())
    assert said["PIP_NO_INDEX"] == "1"
    assert said["https_proxy"].startswith("http://127.0.0.1:")
    assert said["HOME"] == str(sandbox.scratch / "home")
    assert not {"PIP_INDEX_URL", "PYTHONPATH"} & set(said)
    assert "is not noticed" in trial.NOT_CUT


def test_a_machine_without_unshare_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert trial.can_cut.__wrapped__() is False
