"""One run of an execution file: without a network, with an empty home, within a time, its words in a log."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

TIMEOUT_S = 600
"""Of one run."""
TOO_LONG = 124
"""Exit status that stands for a run that was killed for its time."""
CUT = "cut by unshare -rn: the execution files see no interface"
NOT_CUT = (
    "NOT CUT, unshare -rn is not allowed here: pip has no index and proxies are closed, but a program that opens a "
    "socket of its own is not noticed"
)

_NAMESPACE = ("unshare", "-rn")
_DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "FAIREDGE_VENV", "FAIREDGE_PYTHON")
_KEPT = ("PATH", "OMP_NUM_THREADS", "LANG", "LC_ALL", "PYENV_ROOT", "PYENV_VERSION")
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_CLOSED = "http://127.0.0.1:9"  # discard: nothing listens there
_TAIL = 65_536


@cache
def can_cut() -> bool:
    """Whether this machine lets a process have a network of its own, without any interface."""
    with suppress(OSError):
        command = [*_NAMESPACE, "true"]
        return not subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode
    return False


def run(
    command: Sequence[str], *, cwd: Path, log: Path, home: Path, added: Mapping[str, str], network: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> int:
    """Runs a command to its end; when it ends or is interrupted, everything of its session is killed.

    Args:
      command: The program and its arguments.
      cwd: Where it runs.
      log: File for what it writes to both outputs.
      home: HOME and TMPDIR of the command; where it may use the network they are the user's, with pip's settings.
      added: To its environment.
      network: Whether it may use the network.
      timeout_s: After which it is killed.

    Returns:
      Its exit status; `TOO_LONG` where it took too long.
    """
    prefix = _NAMESPACE if not network and can_cut() else ()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*prefix, *command], cwd=cwd, env={**_environment(home, network=network), **added},
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            file.write(f"killed after {timeout_s:.0f} s\n".encode())
            return TOO_LONG
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def tail(log: Path, count: int) -> list[str]:
    """The last lines of a log, each cut."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        text = file.read().decode("utf-8", "replace")
    return [line[:300] for line in text.strip().splitlines()[-count:]]


def _environment(home: Path, *, network: bool) -> dict[str, str]:
    if network:
        return {name: value for name, value in os.environ.items() if name not in _DROPPED}
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    own = {"HOME": str(home), "TMPDIR": str(home), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    return {**kept, **dict.fromkeys(_PROXIES, _CLOSED), **own}
