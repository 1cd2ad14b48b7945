"""What can only be told of a submission by running it. One function for each rule, as in `rules_static`.

Each execution file is run once, without a network, as the organisers would: what is looked at is what it leaves, never
what it says. Folders have spaces and other than ASCII in their names, as theirs may have.
"""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.speed.latency import latency_score
from edge.errors import EdgeError
from edge.predictions import read

from . import accuracy as execution
from . import samples, sandbox
from .rules import Contest, Problems

FOLDER = "a folder, größer"
_ACCURACY, _LATENCY, _ENVIRONMENT = "run_accuracy.sh", "run_latency.sh", "code/environment.sh"
_IMPORT = """
set -eu
here=$PWD
. "$here/code/environment.sh"
exec "$python" -I -c 'import edge, bench, export.submission'
"""


class Failed(EdgeError):
    """An execution file that failed, or that was not run: then it has no log."""

    def __init__(self, script: str, what: str, log: Path | None = None) -> None:
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
    """For the logs."""
    contest: Contest
    timeout_s: float = sandbox.TIMEOUT_S
    """Of one run of an execution file."""
    notes: list[str] = field(default_factory=list)
    """What else is to be told of the latest rule."""

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
        """Runs a command that stands for an execution file.

        Raises:
          Failed: its exit status is not 0, or it took too long.
        """
        log, home = self.logs / f"{Path(script).stem}.log", self.scratch / "home"
        home.mkdir(exist_ok=True)
        status = sandbox.run(
            command, cwd=self.folder, log=log, home=home, added={"PYTHON": sys.executable}, network=network,
            timeout_s=self.timeout_s,
        )
        if status:
            last = "".join(f": {line}" for line in sandbox.tail(log, 1))
            raise Failed(script, f"exit status {status}{last}", log)


def environment(trial: Trial) -> Problems:
    """An environment, of what is packed, else of what is pinned."""
    numpy = f"numpy-*-cp{sys.version_info[0]}{sys.version_info[1]}-*_{platform.machine()}.whl"
    has_wheels = any((trial.folder / "wheels").glob(numpy))
    others = "; the packed wheels are for another machine or Python" * (trial.folder / "wheels").is_dir()
    pinned = f"the pinned versions, with this network{others}"
    trial.notes.append(f"made from {'the packed wheels, without a network' if has_wheels else pinned}")
    trial.execute(_ENVIRONMENT, ["sh", "-c", _IMPORT], network=not has_wheels)
    yield from ()


def accuracy(trial: Trial) -> Problems:
    """A row for every image, and every number that the contest asks for."""
    output = trial.run(_ACCURACY)
    try:
        rows = read(output / execution.PREDICTIONS).rows
    except EdgeError as error:
        yield _ACCURACY, str(error).replace(f"{output}/", "")
        return
    expected, found = samples.names_below(trial.images), [row.path for row in rows]
    for name in sorted(set(expected) - set(found)):
        yield _ACCURACY, f"gives no row for {name}"
    for name in sorted(set(found) - set(expected)):
        yield _ACCURACY, f"gives a row for {name}, which is no image of the data"
    if len(found) > len(set(found)):
        yield _ACCURACY, "gives two rows for one image"
    for row in rows:
        if row.status != "ok":
            yield _ACCURACY, f"cannot use {row.path}: {row.error}"
    results = _json(output / execution.RESULTS, _ACCURACY)
    groups = sorted({name.split("/")[0] for name in expected})
    wanted: dict[str, tuple[str, ...]] = {name: ("score", name) for name in ("accuracy", "spd", "fairness")}
    wanted |= {f"accuracy of {group}": ("by_group", group, "accuracy") for group in groups}
    for name, path in wanted.items():
        if _number(results, *path, "value") is None:
            yield _ACCURACY, f"{execution.RESULTS} has no {name}"


def recorded(trial: Trial) -> Problems:
    """The predictions recorded are those made here."""
    output = trial.output(_ACCURACY) / execution.PREDICTIONS
    if not output.is_file():
        raise Failed(_ACCURACY, "gave no predictions")
    wrong, ties = samples.compare(trial.folder / "samples" / execution.PREDICTIONS, output)
    trial.notes += [f"near-tie: {tie}" for tie in ties]
    yield from (("samples/predictions.csv", what) for what in wrong)


def latency(trial: Trial) -> Problems:
    """The contest's protocol."""
    wanted = trial.contest.settings["latency"]
    images = min(wanted["images"], len(samples.images_of(trial.images)))
    result = _json(trial.run(_LATENCY) / "latency.json", _LATENCY)
    paths = {"seconds_per_100": (), "score": (), "images": (), "runs": ("protocol",)}
    found = {name: _number(result, "latency", *path, name) for name, path in paths.items()}
    for name, value in found.items():
        if value is None:
            yield _LATENCY, f"latency.json has no {name}"
    seconds, score, timed, runs = found.values()
    if runs is not None and runs < wanted["runs"]:
        yield _LATENCY, f"timed {runs:g} iterations, expected {wanted['runs']}"
    if timed is not None and timed < images:
        yield _LATENCY, f"timed {timed:g} images, expected {images}"
    if seconds is not None and score is not None and not (seconds > 0 and score == latency_score(seconds)):
        yield _LATENCY, f"scores {score} for {seconds} s, expected 1 - L / 100"


CHECKS: dict[str, Callable[[Trial], Problems]] = {
    "environment": environment,
    "accuracy": accuracy,
    "recorded": recorded,
    "latency": latency,
}
"""By the name that a rule has for it, in the order in which they are run."""


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
