"""How an execution file is run: without a network, with limits, and with nothing of it left behind."""

import sys
import time
from pathlib import Path

import pytest

from export.submission import environment
from export.submission.environment import Isolation, find_isolation, run

OPEN = Isolation(has_namespaces=False, has_mounts=False)


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path):
    log = tmp_path / "log"
    command = ["sh", "-c", "sleep 60 & echo $!; wait"]
    assert run(command, cwd=tmp_path, log=log, isolation=OPEN, home=tmp_path, timeout_s=0.5) == 124
    child, said = log.read_text().split("\n")[:2]
    assert said == "killed after 0 s"
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_what_leaves_its_session_is_killed_too(tmp_path):
    isolation = find_isolation()
    if not isolation.has_pids:
        pytest.skip("unshare --pid --mount-proc is not allowed here")
    command = ["sh", "-c", "setsid sh -c 'echo begun; sleep 2; touch survived' & sleep 0.5"]
    assert run(command, cwd=tmp_path, log=tmp_path / "log", isolation=isolation, home=tmp_path) == 0
    assert (tmp_path / "log").read_text() == "begun\n"
    time.sleep(2.5)
    assert not (tmp_path / "survived").exists()


def test_a_log_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_LIMITED", 'ulimit -f 20 && exec "$@"')
    assert run(["yes"], cwd=tmp_path, log=tmp_path / "log", isolation=OPEN, home=tmp_path, timeout_s=60) != 124
    assert (tmp_path / "log").stat().st_size <= 20 * 1024
    (tmp_path / "log").write_text("x\n" * 100_000 + "last " + "y" * 400)
    assert environment.tail(tmp_path / "log", 2) == ["x", "last " + "y" * 295]
    assert environment.tail(tmp_path / "absent", 2) == []


def test_the_network_is_cut(tmp_path):
    isolation = find_isolation()
    if not isolation.has_namespaces:
        pytest.skip("unshare -rn is not allowed here")
    program = "import socket; socket.create_connection(('127.0.0.1', PORT), 1)"
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        command = [sys.executable, "-c", program.replace("PORT", str(server.getsockname()[1]))]
        settings = {"cwd": tmp_path, "log": tmp_path / "log", "home": tmp_path}
        assert run(command, isolation=OPEN, **settings) == 0
        assert run(command, isolation=isolation, **settings) == 1
    assert "Error" in (tmp_path / "log").read_text()


def test_without_namespaces_pip_has_no_index_and_proxies_are_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    run(["env"], cwd=tmp_path, log=tmp_path / "log", isolation=OPEN, home=tmp_path)
    said = dict(line.split("=", 1) for line in (tmp_path / "log").read_text().splitlines())
    assert said["PIP_NO_INDEX"] == "1"
    assert said["https_proxy"].startswith("http://127.0.0.1:")
    assert said["HOME"] == str(tmp_path)
    assert not {"PIP_INDEX_URL", "PYTHONPATH"} & set(said)
    assert "not be noticed" in OPEN.how
