"""A command as a process of its own, with what it cost.

The kernel's peak memory of a process starts from that of the process it was forked from, so a benchmark that holds
images would charge its own size to every command. A small launcher in between keeps the figures the command's own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import NamedTemporaryFile, TemporaryFile

_LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
wall = time.perf_counter() - start
process.returncode = os.waitstatus_to_exitcode(status)
with open(sys.argv[1], "w") as report:
    json.dump([process.returncode, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6], report)
"""


@dataclass(frozen=True)
class Cost:
    """What one finished process took."""

    status: int  # exit status; negative: the signal that ended it
    wall_s: float
    cpu_s: float  # user and system time of all its threads
    peak_mb: float  # largest resident set, MB (10^6 bytes)
    output: bytes  # standard output
    error: str  # last line of standard error, "" when there is none


def run(command: Sequence[str]) -> Cost:
    """Runs a command to its end."""
    with NamedTemporaryFile("r") as report, TemporaryFile() as out, TemporaryFile() as err:
        launcher = [sys.executable, "-S", "-E", "-c", _LAUNCHER, report.name, *command]
        subprocess.run(launcher, stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=True)
        out.seek(0)
        err.seek(0)
        lines = err.read().decode("utf-8", "replace").strip().splitlines()
        status, wall_s, cpu_s, peak_mb = json.load(report)
        return Cost(status, wall_s, cpu_s, peak_mb, out.read(), lines[-1] if lines else "")
