"""The Pi's execution file on a Cortex-A72 that is emulated: the file itself, with Python as a process of qemu-user.

Its shell runs here, its Python there: an environment for another processor cannot be made here, so the packages are
unpacked into a tree that stands for the Pi. That its own environment.sh makes one is tried on this machine.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from bench.pi4b import emulator, tree
from bench.pi4b.tools import Pi4bError, Unavailable

from . import samples, sources
from .stage import Problems, Skipped, Trial
from .trial import latency_problems, timing_of

_PYTHON = "3.11"
"""Of Raspberry Pi OS bookworm."""
_IMAGES = 2
"""An emulated Pi takes some seconds for each, and there are ten iterations."""
_SCRIPT, _NAME = "run_latency.sh", "aarch64"


def aarch64(trial: Trial) -> Problems:
    """Runs run_latency.sh with the packed wheels, else the pinned versions, as on the Pi. Its times mean nothing."""
    requirements = trial.folder / "requirements-aarch64.txt"
    if not requirements.is_file():
        yield requirements.name, "is missing"
        return
    own = sorted((trial.folder / "code").glob("*.whl"))
    packed = [path for path in sorted((trial.folder / "wheels").glob("*.whl")) if _is_for_pi(path)]
    pins = sources.for_python(requirements, _PYTHON)
    try:
        pi = tree.build_tree(
            tree.default_folder(), python=_PYTHON, wheels=[*own, *packed], site_requirements=[] if packed else pins
        )
    except Unavailable as error:
        raise Skipped(str(error)) from error
    except Pi4bError as error:  # such as a pinned version that does not exist
        yield requirements.name, str(error)
        return
    images, output = trial.scratch / "images of the pi", trial.scratch / "output" / _NAME
    images.mkdir()
    for number, path in enumerate(samples.images_of(trial.folder / "samples/images")[:_IMAGES]):
        shutil.copyfile(path, images / f"{number}.jpg")
    status = trial.execute(
        _SCRIPT, _NAME, ["sh", _SCRIPT, str(images), str(output)], cwd=trial.folder,
        added={"FAIREDGE_PYTHON": str(_wrapper(trial, pi))},
    )
    trial.notes[_NAME] = [
        f"run_latency.sh here, its Python {_PYTHON} emulated as Cortex-A72, with "
        + (f"{len(packed)} packed wheels" if packed else "the pinned versions, fetched"),
        "the times of an emulated processor mean nothing",
    ]
    if status:
        raise trial.failed(status)
    timing = timing_of(output)
    if timing.architecture != "aarch64":
        yield _SCRIPT, f"ran on {str(timing.architecture)[:40]}, expected aarch64"
    yield from latency_problems(trial, timing, _IMAGES)


def _wrapper(trial: Trial, pi: tree.Tree) -> Path:
    """A script that stands for the environment's Python: the tree's, which finds packages by PYTHONPATH."""
    path = trial.scratch / "python-of-the-pi"
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in emulator.environment(pi, {}).items())
    # -I would hide PYTHONPATH; the variables are those of an isolated run all the same.
    text = f'#!/bin/sh\n[ "$1" = -I ] && shift\nexec env {variables} {shlex.quote(str(pi.launcher))} "$@"\n'
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def _is_for_pi(wheel: Path) -> bool:
    """Whether a wheel is of the Pi's processor and Python; one of neither counts as well."""
    python, abi, platform = wheel.stem.split("-")[-3:]
    tag = f"cp{_PYTHON.replace('.', '')}"
    is_python = python.startswith("py") or tag in python.split(".") or abi == "abi3"
    return is_python and (platform == "any" or platform.endswith("_aarch64"))
