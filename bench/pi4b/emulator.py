"""Runs Python in a tree as a Cortex-A72 process, counting if asked.

    tree = build_tree("build/pi4b", wheels=["dist/fairedge-0.1-py3-none-any.whl"])
    run(tree, ["-m", "edge", "--check"])

The instructions are those of the Pi, the speed is not, and neither is what only a board has: its clock, its memory
bus, its heat. Files outside the tree are this machine's, at the same paths.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import counter, programs
from .programs import Pi4bError
from .rootfs import Tree

_KEPT = ("HOME", "LANG", "LC_ALL", "TMPDIR")
"""Of this machine's environment; anything else may change what a program does, and what it costs."""


def run(
    tree: Tree, argv: Sequence[str | os.PathLike[str]], *, cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None, timeout_s: float | None = None, count: str | os.PathLike[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs Python to its end; what it printed is text.

    A child that the program starts as `sys.executable` runs under emulation too. A negative return code is the signal
    that ended it: -4 (SIGILL) is an instruction that a Cortex-A72 does not have.

    Args:
      tree: Where it runs.
      argv: Python's arguments, as ["-m", "edge", "--check"].
      cwd: Working folder; None: this process's.
      env: Added to a small fixed environment. PYTHONPATH is put before the tree's own.
      timeout_s: After so many seconds it is killed; None: never.
      count: File for the counts of `counter`, one JSON object a line; None: nothing is counted.

    Raises:
      Pi4bError: a program is absent, or the time is over.
    """
    programs.require("qemu-aarch64")
    command = tree.emulator()
    if count is not None:
        programs.require("setarch")  # without random addresses two runs give the same counts
        plugin = counter.plugin_argument(tree.root.parent, Path(count), api=counter.api(programs.qemu_version()))
        command = ["setarch", "-R", *command, "-plugin", plugin]
    command += [str(tree.interpreter), *(os.fspath(argument) for argument in argv)]
    try:
        return programs.execute(command, cwd=cwd, env=environment(tree, env or {}), timeout_s=timeout_s)
    except TimeoutError as stop:
        what = " ".join(map(str, argv))[:80]
        raise Pi4bError(f"{what}: not done after {timeout_s:g} s under emulation") from stop


def environment(tree: Tree, added: Mapping[str, str]) -> dict[str, str]:
    """What a program in the tree finds in its environment."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    folders = [*filter(None, [added.get("PYTHONPATH")]), *map(str, tree.site)]
    return {
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        **kept,
        **added,
        "PYTHONPATH": os.pathsep.join(folders),
    }
