"""Whether this machine can emulate and count, for what has to be skipped where it cannot.

    python -m bench.pi4b.ready [COUNTS.json]

exits 5 with one line when something is absent that is no fault of the project: a program, the permission to fix
addresses, the network, or the QEMU that COUNTS.json was counted with. It leaves the tree that is counted in, as only
building it shows whether Debian and the package index can be reached. Anything else that goes wrong is a failure.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edge.command import DONE, fail

from . import cost, tools
from .tools import Unavailable
from .tree import build_tree, default_folder


def main(arguments: Sequence[str]) -> int:
    """Says what is absent; see the module's first lines."""
    try:
        tools.require(*tools.NEEDED)
        for path in map(Path, arguments):
            if (problem := cost.other_qemu(path, cost.read_costs(path)[0], tools.qemu_version())) is not None:
                raise Unavailable(problem)
        tools.require_fixed_addresses()
        cost.check(build_tree(default_folder()))
    except Unavailable as error:
        return fail("SKIPPED", str(error), error.exit_status)
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
