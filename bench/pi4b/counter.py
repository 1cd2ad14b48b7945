"""The QEMU plugin that counts: compiling it, the argument it takes, and reading what it wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from . import layers, programs
from .programs import Pi4bError

MARK = 9999
"""The system call that ends a region, as in counter.c."""
SOURCE = Path(__file__).with_name("counter.c")


def api(qemu: str) -> int:
    """Version of the plugin interface that a QEMU of this version takes: up to 8 the first, from 9 on the second.

    Source: QEMU, include/qemu/qemu-plugin.h and plugins/plugin.h, which refuse what is older or newer.
    """
    return 1 if int(qemu.split(".")[0]) < 9 else 2


def plugin_argument(folder: Path, output: Path, *, api: int) -> str:
    """QEMU's -plugin argument; compiles the plugin into `folder` unless it is there.

    Raises:
      Pi4bError: there is no compiler, or `output` has a comma, at which QEMU would cut the argument.
    """
    if "," in f"{folder}{output.resolve()}":
        raise Pi4bError(f"{output}: got a path with a comma, which QEMU cannot pass on to the counter")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    library = folder / f"counter-{digest}-{api}.so"
    if not library.exists():
        programs.require("cc", "the headers of the C library")
        command: list[str | Path] = ["cc", "-O2", "-shared", "-fPIC", f"-DAPI={api}", SOURCE, "-o"]
        what = "compiling the counting plugin"
        layers.put(library, lambda part: programs.call([*command, part], what=what, timeout_s=120))
    return f"file={library},out={output.resolve()}"  # without file= QEMU cuts a path at its first "="


def read(path: Path) -> dict[int, dict[str, int]]:
    """Tag -> counts of each region that was marked; marks below 0 only separate.

    Raises:
      Pi4bError: the file is absent or cut short.
    """
    try:
        regions = [json.loads(line) for line in path.read_text().splitlines()]
        return {region["tag"]: region for region in regions if region["tag"] >= 0}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Pi4bError(f"{path}: the counter wrote nothing usable: {error}") from error
