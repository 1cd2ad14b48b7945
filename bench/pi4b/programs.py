"""The programs of the machine that the emulation needs, and the one message when one is absent or does not work.

    python -m bench.pi4b.programs

says which are: exit status 5 and one line.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from edge.errors import EdgeError
from edge.exit import DONE, fail, terminations_as_interrupts

_PACKAGES = {
    "qemu-aarch64": "qemu-user",
    "plugins of qemu-aarch64, absent from static builds as Debian trixie's": "qemu-user",
    "mmdebstrap": "mmdebstrap",
    "Debian's keys": "debian-archive-keyring",
    "cc": "gcc",
    "the headers of the C library": "libc6-dev",
    "setarch": "util-linux",
}
"""What is needed -> Debian package. The counter declares QEMU's plugin interface itself: Debian has no header of it."""
NEEDED = tuple(_PACKAGES)

_KEYRINGS = ("usr/share/keyrings/debian-archive-keyring", "etc/apt/trusted.gpg.d/debian-archive")
"""Starts of files with the keys that Debian's archive is signed with."""
_ERROR = re.compile("^(E|ERROR|error): |: (fatal )?error: |: No space left on device")
_HEADERS = "#include <inttypes.h>\n#include <stdio.h>\n"


class Pi4bError(EdgeError):
    """The emulation does not work."""

    exit_status = 5


class Unavailable(Pi4bError):
    """It cannot work on this machine, whatever the project does: a program, a permission or the network is absent."""


def require(*names: str) -> None:
    """Says before the work, as Unavailable, which of some names of `NEEDED` are absent, and what installs them."""
    if absent := [name for name in names if not _is_there(name)]:
        each = ", ".join(f"{name} ({_PACKAGES[name]})" for name in absent)
        packages = " ".join(dict.fromkeys(_PACKAGES[name] for name in absent))
        install = f"sudo apt-get install -y --no-install-recommends {packages}"
        raise Unavailable(f"the Pi 4B emulation needs {each}, not found: {install}")


def require_fixed_addresses() -> None:
    """Says before the work, as Unavailable, that addresses cannot be fixed: two counts of one region would differ."""
    require("setarch")
    said = subprocess.run(["setarch", "-R", "true"], capture_output=True, text=True, errors="replace", timeout=60)
    if said.returncode:
        raise Unavailable(
            f"setarch -R is refused here ({last_line(said.stderr)}), as in containers that filter personality(): "
            "with random addresses counts do not repeat"
        )


def qemu_version() -> str:
    """As "7.2.22"; raises Unavailable where there is no QEMU, or it says something else."""
    require("qemu-aarch64")
    said = _output(["qemu-aarch64", "--version"])
    if (found := re.search(r"\bversion (\d+\.\d[\w.]*)", said)) is None:
        raise Unavailable(f"qemu-aarch64 --version: got {last_line(said)!r}, expected a version")
    return found[1]


def call(
    command: Sequence[str | Path], *, what: str, timeout_s: float, env: Mapping[str, str] | None = None,
    fetches: bool = False,
) -> None:
    """Runs a program to its end, quietly, with English messages.

    `what` it is for stands in the message; `env`: None for this process's environment.

    Raises:
      Pi4bError: it failed, with its reason, or was not done after `timeout_s`; Unavailable where it fetches, since the
        machine, and not the project, is what failed.
    """
    failure = Unavailable if fetches else Pi4bError
    english = {**(os.environ if env is None else env), "LC_ALL": "C.UTF-8"}
    try:
        result = execute([str(part) for part in command], env=english, timeout_s=timeout_s)
    except TimeoutError as error:
        raise failure(f"{what}: {command[0]} was not done after {timeout_s:g} s") from error
    if result.returncode:
        said = result.stderr.strip() or result.stdout
        # The first line that calls itself an error, else the last: what follows comes of it.
        reason = next(filter(_ERROR.search, said.splitlines()), last_line(said)).strip()
        raise failure(f"{what} failed: {command[0]} gave {result.returncode}: {reason}")


def execute(
    command: Sequence[str], *, cwd: str | os.PathLike[str] | None = None, env: Mapping[str, str],
    timeout_s: float | None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program and what it starts, without standard input; what it printed is text.

    Raises:
      TimeoutError: the time is over; it and its children are killed, as by any exception.
      KeyboardInterrupt: Ctrl-C, or SIGTERM or SIGHUP to this process.
    """
    with terminations_as_interrupts(), subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="backslashreplace", start_new_session=True,
    ) as process:
        try:
            output, error = process.communicate(timeout=timeout_s)
        except BaseException as stop:  # also Ctrl-C and SIGTERM, which do not reach another session
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the children that the program has started
            if isinstance(stop, subprocess.TimeoutExpired):
                raise TimeoutError from stop
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, error)


def last_line(text: str) -> str:
    """The last line of what a program said."""
    return (text.strip() or "no message").splitlines()[-1]


def _is_there(name: str) -> bool:
    if name.startswith("plugins of"):
        return shutil.which("qemu-aarch64") is None or "-plugin" in _output(["qemu-aarch64", "-h"])
    if name == "Debian's keys":
        return any(list(Path("/").glob(f"{start}*")) for start in _KEYRINGS)
    if name == "the headers of the C library":
        return shutil.which("cc") is None or "printf" in _output(["cc", "-E", "-x", "c", "-"], _HEADERS)
    return shutil.which(name) is not None


def _output(command: Sequence[str], said: str = "") -> str:
    return subprocess.run(command, input=said, capture_output=True, text=True, errors="replace", timeout=60).stdout


def main() -> int:
    """Names what is absent; see the module's first lines."""
    try:
        require(*NEEDED)
    except Unavailable as error:
        return fail("pi4b-tools", str(error), error.exit_status)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
