"""The rules of the contest that take a run. One function for each, as in `rules`.

Each execution file is run once, without a network, as the organisers would: what is looked at is what it leaves, never
what it says. Folders have spaces and other than ASCII in their names, as theirs may have.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.metrics.contest import latency_score
from bench.remarks import one_answer
from edge.errors import EdgeError
from edge.image_list import collect
from edge.predictions import Prediction, read

from .accuracy import PREDICTIONS, RESULTS
from .rules import CONTEST, Problems

FOLDER = "a folder, größer"
TOLERANCE = 1e-4
"""Largest difference of a probability between two processors that is none."""
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
_KILLED = 124
_LOG_BYTES, _LOG_LINES = 65_536, 20
_ACCURACY, _LATENCY, _ENVIRONMENT = "run_accuracy.sh", "run_latency.sh", "code/environment.sh"
_IMPORT = """
set -eu
here=$PWD
. "$here/code/environment.sh"
exec "$python" -I -c 'import edge, bench, export.submission'
"""


class Failed(EdgeError):
    """An execution file that failed, and the last lines of its log; none where it was not run."""

    def __init__(self, script: str, what: str, log: Sequence[str] = ()) -> None:
        self.script, self.what, self.log = script, what, log
        super().__init__(f"{script}: {what}")


@dataclass
class Trial:
    """A submission on trial."""

    folder: Path
    """Where it is unpacked; nobody else uses it."""
    scratch: Path
    """For what it writes, removed in the end."""
    logs: Path
    timeout_s: float = 600
    notes: list[str] = field(default_factory=list)
    """What else is to be said of the latest rule."""

    @property
    def images(self) -> Path:
        """The sample images of the submission."""
        return self.folder / "samples/images"

    def output(self, script: str) -> Path:
        """Where an execution file leaves what it writes."""
        return self.scratch / FOLDER / Path(script).stem

    def run(self, script: str) -> Path:
        """Runs an execution file on the sample images; returns the folder with what it wrote."""
        self.execute(script, ["sh", script, str(self.images), str(self.output(script))])
        return self.output(script)

    def execute(self, script: str, command: Sequence[str], *, network: bool = False) -> None:
        """Runs a command that stands for an execution file; when it ends or is interrupted, its session is killed.

        Without the network its HOME is empty; with it, HOME is the user's, with pip's settings.

        Raises:
          Failed: its exit status is not 0, or it took too long.
        """
        log, home = self.logs / f"{Path(script).stem}.log", self.scratch / "home"
        home.mkdir(exist_ok=True)
        prefix = _NAMESPACE if not network and can_cut() else ()
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [*prefix, *command], cwd=self.folder, env=_variables(home, network=network), stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )
            try:
                status = process.wait(self.timeout_s)
            except subprocess.TimeoutExpired:
                status = _KILLED
                file.write(f"killed after {self.timeout_s:.0f} s\n".encode())
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status:
            lines = _tail(log)
            raise Failed(script, ": ".join([f"exit status {status}", *lines[-1:]]), lines)


def environment(trial: Trial) -> Problems:
    """An environment can be made of what is packed, else of what is pinned."""
    wheels = trial.folder / "wheels"
    has_wheels = any(wheels.glob(f"numpy-*-cp{sys.version_info[0]}{sys.version_info[1]}-*_{platform.machine()}.whl"))
    others = "; the packed wheels are for another machine or Python" * wheels.is_dir()
    pinned = f"the pinned versions, with this network{others}"
    trial.notes.append(f"made from {'the packed wheels, without a network' if has_wheels else pinned}")
    trial.execute(_ENVIRONMENT, ["sh", "-c", _IMPORT], network=not has_wheels)
    yield from ()


def accuracy(trial: Trial) -> Problems:
    """There is a row for every image, and every number that the contest asks for."""
    output = trial.run(_ACCURACY)
    try:
        rows = read(output / PREDICTIONS).rows
    except EdgeError as error:
        yield _ACCURACY, str(error).replace(f"{output}/", "")
        return
    expected, found = set(_images(trial)), [row.path for row in rows]
    for name in sorted(expected.difference(found)):
        yield _ACCURACY, f"gives no row for {name}"
    for name in sorted(set(found) - expected):
        yield _ACCURACY, f"gives a row for {name}, which is no image of the data"
    if len(found) > len(set(found)):
        yield _ACCURACY, "gives two rows for one image"
    if line := one_answer((row.label for row in rows if row.status == "ok"), of="sample picture"):
        trial.notes.append(line)
    for row in rows:
        if row.status != "ok":
            yield _ACCURACY, f"cannot use {row.path}: {row.error}"
    results = _json(output / RESULTS, _ACCURACY)
    wanted: dict[str, tuple[str, ...]] = {name: ("score", name) for name in ("accuracy", "spd", "fairness")}
    for group in sorted({name.split("/")[0] for name in expected}):
        wanted[f"accuracy of {group}"] = ("by_group", group, "accuracy")
    for name, path in wanted.items():
        if _number(results, *path, "value") is None:
            yield _ACCURACY, f"{RESULTS} has no {name}"


def recorded(trial: Trial) -> Problems:
    """The recorded predictions are those made here: the same labels, and probabilities to `TOLERANCE`.

    Another processor may answer the other class where the two most probable ones are closer: such near-ties are notes.
    """
    output, name = trial.output(_ACCURACY) / PREDICTIONS, f"samples/{PREDICTIONS}"
    if not output.is_file():
        raise Failed(_ACCURACY, "gave no predictions")
    try:
        before, after = ({row.path: row for row in read(path).rows} for path in (trial.folder / name, output))
    except EdgeError as error:
        yield name, str(error)
        return
    for path in sorted({*before, *after}):
        if path not in after:
            yield name, f"{path}: has no row"
        elif path not in before:
            yield name, f"{path}: was not recorded"
        elif what := _difference(before[path], after[path]):
            yield name, f"{path}: {what}"
        elif (margin := _margin(before[path])) <= 2 * TOLERANCE:
            trial.notes.append(f"near-tie: {path}: {before[path].label} by {margin:.1e}")
        elif before[path].label != after[path].label:
            yield name, f"{path}: got {after[path].label}, recorded {before[path].label}"


def latency(trial: Trial) -> Problems:
    """The contest's protocol is kept."""
    result = _json(trial.run(_LATENCY) / "latency.json", _LATENCY)
    paths = {"seconds_per_100": (), "score": (), "images": (), "runs": ("protocol",)}
    found = {name: _number(result, "latency", *path, name) for name, path in paths.items()}
    for name, value in found.items():
        if value is None:
            yield _LATENCY, f"latency.json has no {name}"
    seconds, score, timed, runs = found.values()
    if runs is not None and runs < CONTEST.latency["runs"]:
        yield _LATENCY, f"timed {runs:g} iterations, expected {CONTEST.latency['runs']}"
    if timed is not None and timed < (images := min(CONTEST.latency["images"], len(_images(trial)))):
        yield _LATENCY, f"timed {timed:g} images, expected {images}"
    if seconds is not None and score is not None and not (seconds > 0 and score == latency_score(seconds)):
        yield _LATENCY, f"scores {score} for {seconds} s, expected 1 - L / 100"


_JUDGES: tuple[Callable[[Trial], Problems], ...] = (environment, accuracy, recorded, latency)
CHECKS = {judge.__name__: judge for judge in _JUDGES}
"""By the name that a rule has for it, in the order in which they are run."""


def _difference(a: Prediction, b: Prediction) -> str:
    """How the probabilities of an image differ; "" where they do not."""
    if a.probabilities is None or b.probabilities is None or a.probabilities.shape != b.probabilities.shape:
        return f"got {b.status} {b.error[:80]}, recorded {a.status}" if {a.status, b.status} != {"error"} else ""
    distance = np.abs(a.probabilities - b.probabilities).max()
    is_small = distance <= TOLERANCE * 1.01  # files have six decimals
    return "" if is_small else f"a probability differs by {distance:.1e}, expected at most {TOLERANCE:.0e}"


def _margin(row: Prediction) -> float:
    if row.probabilities is None:
        return math.inf
    second, first = np.sort(row.probabilities)[-2:]
    return float(first - second)


def _images(trial: Trial) -> list[str]:
    """Names of the sample images, as a predictions file has them."""
    return collect([str(trial.images)], recursive=True).names


def _json(path: Path, script: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Failed(script, f"gives no {path.name}: {type(error).__name__}") from error
    if not isinstance(values, dict):
        raise Failed(script, f"gives a {path.name} that is no JSON object")
    return values


def _number(values: object, *path: str) -> float | None:
    """The finite number at a path of names in JSON of anybody's; None where there is none."""
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    if isinstance(values, bool) or not isinstance(values, float | int) or not math.isfinite(values):
        return None
    return values


@cache
def can_cut() -> bool:
    """Whether this machine lets a process have a network of its own, without any interface."""
    with suppress(OSError):
        command = [*_NAMESPACE, "true"]
        return not subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode
    return False


def _variables(home: Path, *, network: bool) -> dict[str, str]:
    """The environment of an execution file: the user's where it may use the network, else next to nothing."""
    if network:
        kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    else:
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        kept |= {"HOME": str(home), "TMPDIR": str(home), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
        kept |= dict.fromkeys(_PROXIES, _CLOSED)
    return {**kept, "PYTHON": sys.executable}


def _tail(log: Path) -> list[str]:
    """The last lines of a log, each cut."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_BYTES))
        text = file.read().decode("utf-8", "replace")
    return [line[:300] for line in text.strip().splitlines()[-_LOG_LINES:]]
