"""What can only be told of a submission by running it. One function for each rule, as in `static`.

Each runs an execution file in the way a server might, and looks at what it leaves: never at what it says.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.latency import latency_score
from edge.errors import EdgeError
from edge.predictions import Prediction, read

from . import accuracy as execution
from . import recount, samples
from .archive import OWN
from .stage import Failed, Problems, Skipped, Trial

_ACCURACY, _LATENCY, _ENVIRONMENT = "run_accuracy.sh", "run_latency.sh", "code/environment.sh"

_IMPORT = """
set -eu
here=$PWD
. "$here/code/environment.sh"
exec "$python" -I -c 'import edge, bench, export.submission'
"""
_SPACED = "a folder, größer"


def make_environment(trial: Trial) -> Problems:
    """An empty environment, of what is packed or pinned."""
    source = "the packed wheels, without a network" if trial.has_wheels else "the pinned versions, with this network"
    others = "; the packed wheels are for another machine or Python" * (trial.folder / "wheels").is_dir()
    trial.notes["environment"] = [f"made from {source}{'' if trial.has_wheels else others}"]
    status = trial.execute(
        _ENVIRONMENT, "environment", ["sh", "-c", _IMPORT], cwd=trial.folder, added=trial.shared,
        network=not trial.has_wheels,
    )
    if status:
        raise trial.failed(status)
    yield from ()


def accuracy(trial: Trial) -> Problems:
    """Predictions and every number that the contest asks for, of the samples that are packed."""
    data = trial.folder / "samples/images"
    output = trial.run(_ACCURACY, data, "accuracy")
    rows = list(_rows(trial, output, data))
    yield from rows
    if not rows:
        yield from _numbers(trial, output, data, trial.contest.settings["reference_group"])


def recorded(trial: Trial) -> Problems:
    """The predictions recorded are those made here."""
    output = trial.scratch / "output/accuracy" / execution.PREDICTIONS
    if not output.is_file():
        raise Skipped("run_accuracy.sh gave no predictions")
    wrong, ties = samples.compare(trial.folder / "samples" / execution.PREDICTIONS, output)
    trial.notes["recorded"] = [f"near-tie: {tie}" for tie in ties]
    yield from (("samples/predictions.csv", what) for what in wrong)


def suffixes(trial: Trial) -> Problems:
    """No image is left out."""
    yield from _rows(trial, trial.run(_ACCURACY, trial.images, "suffixes"), trial.images)


def missing_group(trial: Trial) -> Problems:
    """Another group takes the place of the reference."""
    name = trial.contest.settings["reference_group"]
    data = trial.scratch / "data without a group"
    shutil.copytree(trial.images, data, ignore=shutil.ignore_patterns(name))
    output = trial.run(_ACCURACY, data, "missing_group")
    reference = recount.value(_results(output), "score", "reference_group")
    if reference not in [path.name for path in data.iterdir()]:
        yield _ACCURACY, f"compares against {reference!r} in data without {name}"
    else:
        yield from _numbers(trial, output, data, str(reference))


def unlabelled(trial: Trial) -> Problems:
    """Groups without classes."""
    data = trial.scratch / "data of groups"
    for path in samples.images_of(trial.images):
        group, label, name = path.relative_to(trial.images).parts
        (data / group).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, data / group / f"{label}-{name}")
    yield from _rows(trial, trial.run(_ACCURACY, data, "unlabelled"), data)


def flat(trial: Trial) -> Problems:
    """No folders at all."""
    data = trial.scratch / "data of images"
    data.mkdir()
    for path in samples.images_of(trial.images):
        shutil.copyfile(path, data / "-".join(path.relative_to(trial.images).parts))
    yield from _rows(trial, trial.run(_ACCURACY, data, "flat"), data)


def spaces(trial: Trial) -> Problems:
    """Both execution files, in and on folders with spaces, and an environment there."""
    folder, data = trial.scratch / _SPACED / "submission", trial.scratch / _SPACED / "my data"
    _copy(trial.folder, folder)
    shutil.copytree(trial.images, data)
    yield from _rows(trial, trial.run(_ACCURACY, data, "spaces", folder=folder, own_venv=True), data)
    timing_of(trial.run(_LATENCY, data, "spaces-latency", folder=folder, own_venv=True))


def read_only(trial: Trial) -> Problems:
    """A folder that cannot be written: environment and results go elsewhere."""
    if not trial.isolation.can_be_read_only:
        raise Skipped("no folder can be made read-only for this superuser (unshare -rnm is not allowed)")
    folder = trial.scratch / "read-only"
    _copy(trial.folder, folder)
    before = _state(folder)
    _set_writable(folder, False)
    try:
        status = trial.execute(
            _ACCURACY, "read_only", ["sh", _ACCURACY, str(folder / "samples/images")], cwd=folder, read_only=folder,
            added={} if trial.has_wheels else trial.shared,
        )
    finally:
        _set_writable(folder, True)
    if status:
        raise trial.failed(status)
    if not any(trial.home("read_only").rglob(execution.PREDICTIONS)):
        yield _ACCURACY, "writes no predictions where its folder is read-only"
    for name in sorted(_state(folder) ^ before):
        yield name, "was changed, though the folder is read-only"


def latency(trial: Trial) -> Problems:
    """The contest's protocol, and the state of the device beside it."""
    timing = timing_of(trial.run(_LATENCY, trial.images, "latency"))
    yield from latency_problems(trial, timing, len(samples.images_of(trial.images)))
    text = trial.scratch / "output/latency/device.txt"
    said = text.read_text(encoding="utf-8", errors="replace") if text.is_file() else ""
    for name in ("governor", "temperature_c", "throttled", "clock_mhz"):
        if f"{name}:" not in said:
            yield _LATENCY, f"device.txt does not tell the {name}"


@dataclass(frozen=True)
class Timing:
    """What is read of a latency.json."""

    seconds_per_100: float
    score: float
    images: float
    runs: float
    """Iterations that it says it timed."""
    num_times: int
    """Times that it lists."""
    architecture: object
    """Of the processor; None where it does not say."""


def latency_problems(trial: Trial, timing: Timing, num_images: int) -> Problems:
    """What of a latency result on so many images is not the contest's protocol."""
    wanted = trial.contest.settings["latency"]
    images = min(wanted["images"], num_images)
    if timing.runs < wanted["runs"]:
        yield _LATENCY, f"timed {timing.runs:g} iterations, expected {wanted['runs']}"
    elif timing.num_times < wanted["runs"]:
        yield _LATENCY, f"lists {timing.num_times} times, expected {wanted['runs']}"
    if timing.images < images and trial.data is None:
        yield _LATENCY, f"timed {timing.images:g} images, expected {images}"
    if not timing.seconds_per_100 > 0 or timing.score != latency_score(timing.seconds_per_100):
        yield _LATENCY, f"scores {timing.score} for {timing.seconds_per_100} s, expected 1 - L / 100"


def timing_of(output: Path) -> Timing:
    """The latency.json of a run; raises `Failed` where there is none that has a latency."""
    result = _json(output / "latency.json", _LATENCY)

    def number(*names: str) -> float:
        found = recount.value(result, "latency", *names)
        if isinstance(found, bool) or not isinstance(found, float | int) or not math.isfinite(found):
            what = f"latency.json has no latency: {'.'.join(names)} is {str(found)[:40]!r}, expected a number"
            raise Failed(_LATENCY, what, output.name)
        return found

    times = recount.value(result, "latency", "samples", "wall_s")
    return Timing(
        number("seconds_per_100"), number("score"), number("images"), number("protocol", "runs"),
        len(times) if isinstance(times, list) else 0, recount.value(result, "machine", "before", "architecture"),
    )


TRIALS: dict[str, Callable[[Trial], Problems]] = {
    "environment": make_environment,
    "accuracy": accuracy,
    "recorded": recorded,
    "suffixes": suffixes,
    "missing_group": missing_group,
    "unlabelled": unlabelled,
    "flat": flat,
    "spaces": spaces,
    "read_only": read_only,
    "latency": latency,
}
"""By the name that a contest's rule has for it, in the order in which they are run."""


def _rows(trial: Trial, output: Path, data: Path) -> Problems:
    """Every image has one row, and, where they were drawn, an answer."""
    try:
        rows: list[Prediction] = read(output / execution.PREDICTIONS).rows
    except EdgeError as error:
        yield _ACCURACY, str(error).replace(f"{output}/", "")
        return
    expected, found = set(samples.names_below(data)), [row.path for row in rows]
    for name in sorted(expected - set(found)):
        yield _ACCURACY, f"gives no row for {name}"
    for name in sorted(set(found) - expected):
        yield _ACCURACY, f"gives a row for {name}, which is no image of the data"
    if len(found) > len(set(found)):
        yield _ACCURACY, "gives two rows for one image"
    for row in rows:
        if row.status != "ok" and trial.data is None:
            yield _ACCURACY, f"cannot use {row.path}: {row.error}"


def _numbers(trial: Trial, output: Path, data: Path, reference: str) -> Problems:
    """Every number is there, and is what the rows and the labels make it."""
    answers = {row.path: row.label for row in read(output / execution.PREDICTIONS).rows if row.status == "ok"}
    labels = {name: name.split("/")[-2] for name in samples.names_below(data)}
    wrong = recount.problems(_results(output), labels, answers, reference, profile=trial.contest.settings["profile"])
    yield from ((_ACCURACY, f"{execution.RESULTS} {what}") for what in wrong)


def _results(output: Path) -> dict[str, Any]:
    return _json(output / execution.RESULTS, _ACCURACY)


def _json(path: Path, script: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Failed(script, f"gives no {path.name}: {type(error).__name__}", path.parent.name) from error
    if not isinstance(values, dict):
        raise Failed(script, f"gives a {path.name} that is no JSON object", path.parent.name)
    return values


def _copy(folder: Path, target: Path) -> None:
    shutil.copytree(folder, target, ignore=lambda where, names: {*OWN} & {*names})


def _state(folder: Path) -> set[str]:
    return {f"{path.relative_to(folder)}" for path in folder.rglob("*")}


def _set_writable(folder: Path, is_writable: bool) -> None:
    """By modes: enough for whoever is no superuser, and no harm beside a mount."""
    for path in [folder, *folder.rglob("*")]:
        mode = path.stat().st_mode
        path.chmod(mode | 0o200 if is_writable else mode & ~0o222)
