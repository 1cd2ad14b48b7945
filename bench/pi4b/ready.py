"""Whether this machine can emulate and count, for what has to be skipped where it cannot.

    python -m bench.pi4b.ready [COUNTS.json]

exits 77 with one line when something is absent that is no fault of the project: a program, the permission to fix
addresses, the network, or the QEMU that COUNTS.json was counted with. It leaves the tree that is counted in, as only
building it shows whether Debian and the package index can be reached. Anything else that goes wrong is a failure, with
one line and the status of the commands; 5 may be a full disk.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edge.command import DONE, fail, run

from . import cost, tools
from .tools import Unavailable
from .tree import build_tree, default_folder

SKIPPED = 77
"""Exit status, as of a test that is skipped under automake: none of the commands' own."""


def main(arguments: Sequence[str]) -> int:
    """Says what is absent; see the module's first lines."""

    def look() -> int:
        try:
            _look([*map(Path, arguments)])
        except Unavailable as error:
            return fail("SKIPPED", str(error), SKIPPED)
        return DONE

    return run("pi4b-ready", look)


def _look(baselines: Sequence[Path]) -> None:
    """Raises what would stop a count.

    Raises:
      Unavailable: something is absent that is no fault of the project.
    """
    read = [(path, cost.read_costs(path)[0]) for path in baselines]
    tools.require(*tools.NEEDED)
    for path, result in read:
        if (problem := cost.other_qemu(path, result, tools.qemu_version())) is not None:
            raise Unavailable(problem)
    tools.require_fixed_addresses()
    cost.check(build_tree(default_folder()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
