"""Where execution files are tried: without a network, with an empty home, and their words in a log."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

TIMEOUT_S = 600
"""Of one run of an execution file."""
EMULATED_TIMEOUT_S = 1800
"""The same, where the Pi is emulated as well."""
TOO_LONG = 124
"""Exit status that stands for a run that was killed for its time."""
MACHINE = platform.machine()

_DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "FAIREDGE_VENV", "FAIREDGE_PYTHON")
_KEPT = ("PATH", "OMP_NUM_THREADS", "PYTHON", "LANG", "LC_ALL", "PYENV_ROOT", "PYENV_VERSION")
_CLOSED_PROXY = "http://127.0.0.1:9"  # discard: nothing listens there
_PYTHONS = ("python3.11", "python3.13", "python3.12", "python3")
_PROBE = "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
_MAX_FILE = 400_000
"""Blocks of 512 bytes that a file may have which an execution file writes; its log is one."""
_LIMITED = f'ulimit -f {_MAX_FILE} && exec "$@"'
_PIDS = ("--pid", "--fork", "--kill-child", "--mount-proc")
_TAIL = 65_536
_BIND_READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && cd "$PWD" && exec "$@"'


@dataclass(frozen=True)
class Isolation:
    """What this machine allows to take away from a process."""

    has_namespaces: bool
    """Whether `unshare -rn` works."""
    has_mounts: bool
    """Whether a folder can be made read-only for a process and its children, the superuser too."""
    has_pids: bool = False
    """Whether a process and all that it starts can be ended together, whatever session they are of."""

    @property
    def how(self) -> str:
        """One line for the report."""
        if self.has_namespaces:
            return "cut by unshare -rn: the execution files see no interface"
        return (
            "unshare -rn is not allowed here: pip without an index, and proxies that are closed; a program that opens "
            "a socket of its own would not be noticed"
        )

    @property
    def can_be_read_only(self) -> bool:
        """Whether a folder can be kept from being written: by a mount, or by its modes, which a superuser ignores."""
        return self.has_mounts or os.geteuid() != 0


def find_isolation() -> Isolation:
    """Tries what is allowed."""
    return Isolation(
        _works("unshare", "-rn", "true"), _works("unshare", "-rnm", "true"), _works("unshare", "-rn", *_PIDS, "true")
    )


def pythons() -> list[str]:
    """Versions, as "3.11", of the interpreters here that environment.sh would look for."""
    candidates = [os.environ["PYTHON"]] if os.environ.get("PYTHON") else _PYTHONS
    found = []
    for candidate in candidates:
        try:
            done = subprocess.run([candidate, "-c", _PROBE], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            found.append(done.stdout.decode("ascii", "replace").strip())
    return found


def tail(log: Path, count: int) -> list[str]:
    """The last lines of a log, each cut; none where there is no log."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line[:300] for line in text.strip().splitlines()[-count:]]


def run(
    command: Sequence[str], *, cwd: Path, log: Path, isolation: Isolation, home: Path, network: bool = False,
    read_only: Path | None = None, added: Mapping[str, str] = MappingProxyType({}), timeout_s: float = TIMEOUT_S,
) -> int:
    """Runs a command to its end, its output in a log.

    Args:
      command: The program and its arguments.
      cwd: Where it runs.
      log: File for what it writes to both outputs.
      isolation: How the network is cut.
      home: HOME and TMPDIR of the command, unless it may use the network: then it is the user's, with pip's settings.
      network: Whether it may use the network.
      read_only: A folder that it must not be able to write.
      added: To its environment.
      timeout_s: After which it is killed.

    When it ends, or is interrupted, everything of its session is killed; with `has_pids`, and where it has no network,
    also what has left the session.

    Returns:
      Its exit status; `TOO_LONG` where it took too long.
    """
    prefix: list[str] = []
    if not network and isolation.has_namespaces:
        prefix = ["unshare", "-rnm" if read_only is not None and isolation.has_mounts else "-rn"]
        prefix += _PIDS if isolation.has_pids else ()
    if read_only is not None and "-rnm" in prefix:
        prefix += ["sh", "-c", _BIND_READ_ONLY, "sh", str(read_only)]
    prefix += ["sh", "-c", _LIMITED, "sh"]
    environment = {**_environment(home, network=network), **added}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*prefix, *command], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            file.write(f"killed after {timeout_s:.0f} s\n".encode())
            return TOO_LONG
        finally:
            _end(process)


def _environment(home: Path, *, network: bool) -> dict[str, str]:
    if network:
        return {name: value for name, value in os.environ.items() if name not in _DROPPED}
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    proxies = {name: _CLOSED_PROXY for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
    own = {"HOME": str(home), "TMPDIR": str(home), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    return {**kept, **proxies, **own}


def _works(*command: str) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of a command's session: also what it left behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        time.sleep(0.2)
    process.wait()
