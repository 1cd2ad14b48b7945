"""The programs of the machine that the emulation needs, and the one message when one is absent."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edge.errors import EdgeError

_PACKAGES = {
    "qemu-aarch64": "qemu-user",
    "mmdebstrap": "mmdebstrap debian-archive-keyring",
    "cc": "gcc libc6-dev",
    "setarch": "util-linux",
}
"""Program -> Debian package. Of QEMU the dynamic build: the static one knows no plugins."""


class Pi4bError(EdgeError):
    """The emulation cannot run here."""

    exit_status = 5


def require(*programs: str) -> None:
    """Says before the work which programs are absent.

    Raises:
      Pi4bError: at least one is; the message has the command that installs them.
    """
    absent = [name for name in programs if shutil.which(name) is None]
    if absent:
        packages = " ".join(_PACKAGES[name] for name in absent)
        install = f"sudo apt-get install -y --no-install-recommends {packages}"
        raise Pi4bError(f"the Pi 4B emulation needs {', '.join(absent)}, not found: {install}")


def call(command: Sequence[str | Path], *, what: str) -> None:
    """Runs a program to its end, quietly.

    Args:
      command: The program and its arguments.
      what: What it is for, for the message.

    Raises:
      Pi4bError: it failed; the message has its last line.
    """
    result = subprocess.run(
        [str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if result.returncode:
        said = last_line(result.stderr.strip() or result.stdout)
        raise Pi4bError(f"{what} failed: {command[0]} gave {result.returncode}: {said}")


def last_line(text: str) -> str:
    """The last line of what a program said."""
    return (text.strip() or "no message").splitlines()[-1]
