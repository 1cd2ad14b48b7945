"""Runs Python in a tree as a Cortex-A72 process, counting if asked.

    tree = build_tree("build/pi4b", wheels=["dist/fairedge-0.1-py3-none-any.whl"])
    run(tree, ["-m", "edge", "--check"])

The instructions are those of the Pi, the speed is not, and neither is what only a board has: its clock, its memory
bus, its heat. Files outside the tree are this machine's, at the same paths. `counter.c`, a QEMU plugin, counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import layers, programs
from .programs import Pi4bError
from .rootfs import Tree

COUNTER = Path(__file__).with_name("counter.c")
_KEPT = ("HOME", "LANG", "LC_ALL", "TMPDIR")
"""Of this machine's environment; anything else may change what a program does, and what it costs."""


def run(
    tree: Tree, argv: Sequence[str | os.PathLike[str]], *, cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None, timeout_s: float | None = None, count: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs Python with the arguments `argv` to its end; what it printed is text.

    A child that the program starts as `sys.executable` runs under emulation too. A negative return code is the signal
    that ended it: -4 (SIGILL) is an instruction that a Cortex-A72 does not have. `env` is added to a small fixed
    environment, its PYTHONPATH before the tree's own. `count` is a file for the counts, which `read_counts` reads.

    Raises:
      Pi4bError: a program is absent, or the time is over.
    """
    programs.require("qemu-aarch64")
    command = tree.emulator()
    if count is not None:
        programs.require("setarch")  # without random addresses two runs give the same counts
        plugin = plugin_argument(tree.root.parent, count, programs.qemu_version())
        command = ["setarch", "-R", *command, "-plugin", plugin]
    command += [str(tree.interpreter), *(os.fspath(argument) for argument in argv)]
    try:
        return programs.execute(command, cwd=cwd, env=environment(tree, env or {}), timeout_s=timeout_s)
    except TimeoutError as stop:
        raise Pi4bError(f"{' '.join(map(str, argv))[:80]}: not done after {timeout_s:g} s under emulation") from stop


def environment(tree: Tree, added: Mapping[str, str]) -> dict[str, str]:
    """What a program in the tree finds in its environment."""
    folders = [*filter(None, [added.get("PYTHONPATH")]), *map(str, tree.site)]
    return {
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        **added,
        "PYTHONPATH": os.pathsep.join(folders),
    }


def plugin_argument(folder: Path, output: Path, qemu: str) -> str:
    """The -plugin argument of a QEMU of this version; compiles the counter into `folder` unless it is there.

    Up to 8 it takes the first version of the plugin interface, from 9 on the second.
    Source: QEMU, include/qemu/qemu-plugin.h and plugins/plugin.h, which refuse what is older or newer.

    Raises:
      Pi4bError: there is no compiler, or a path has a comma, at which QEMU would cut the argument.
    """
    if "," in f"{folder}{output.resolve()}":
        raise Pi4bError(f"{output}: got a path with a comma, which QEMU cannot pass on to the counter")
    api = 1 if int(qemu.split(".")[0]) < 9 else 2
    digest = hashlib.sha256(COUNTER.read_bytes()).hexdigest()[:12]
    library = folder / f"counter-{digest}-{api}.so"
    if not library.exists():
        programs.require("cc", "the headers of the C library")
        command = ["cc", "-O2", "-shared", "-fPIC", f"-DAPI={api}", str(COUNTER), "-o"]
        what = "compiling the counting plugin"
        layers.put(library, lambda part: programs.call([*command, part], what=what, timeout_s=120))
    return f"file={library},out={output.resolve()}"  # without file= QEMU cuts a path at its first "="


def read_counts(path: Path) -> dict[int, dict[str, int]]:
    """Tag -> counts of each region that was marked; marks below 0 only separate.

    Raises:
      Pi4bError: the file is absent or cut short.
    """
    try:
        regions = [json.loads(line) for line in path.read_text().splitlines()]
        return {region.pop("tag"): region for region in regions if region["tag"] >= 0}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Pi4bError(f"{path}: the counter wrote nothing usable: {error}") from error
