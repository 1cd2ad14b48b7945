"""The code of a submission: the wheel of this checkout, its readable source, and what its packages are pinned to."""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

from edge.errors import EdgeError
from edge.exit import ENVIRONMENT

from .archive import write_zip
from .metadata import canonical, required_names

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("edge", "bench", "train", "export")
MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.11", "3.12", "3.13")
WHEEL_PYTHONS = ("3.11", "3.13")
"""Of Raspberry Pi OS bookworm and trixie."""

_BESIDE = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
_MANYLINUX = ("2_17", "2_24", "2_26", "2_27", "2_28")
_SETUPTOOLS = 77
"""The oldest that reads our metadata; see pyproject.toml."""


def check_checkout() -> None:
    """Refuses to pack from anything but a checkout: the wheel has neither the constraints nor the build's files.

    Raises:
      EdgeError: this package runs from an environment.
    """
    if not (CHECKOUT / "setup.cfg").is_file() or not (CHECKOUT / "constraints").is_dir():
        hint = "in one, run python -m export.submission pack (check runs anywhere)"
        raise EdgeError(f"pack needs a checkout: {hint}", exit_status=ENVIRONMENT)


def copy_source(target: Path) -> None:
    """Copies what a wheel is built from, without the bundled model files, which the wheel has."""
    for package in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.onnx")
        shutil.copytree(CHECKOUT / package, target / package, ignore=ignore)
    for name in _BESIDE:
        shutil.copyfile(CHECKOUT / name, target / name)
    shutil.copytree(CHECKOUT / "constraints", target / "constraints", ignore=shutil.ignore_patterns("*.toml"))


def build_wheel(folder: Path) -> Path:
    """Builds the wheel of the checkout into a folder, and makes its bytes depend on its files alone.

    Raises:
      EdgeError: it does not build: no setuptools here, and no package index to fetch it from.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source, built, files = (Path(scratch) / name for name in ("source", "built", "files"))
        copy_source(source)
        for model in sorted((CHECKOUT / "edge/models").glob("*.onnx")):
            shutil.copyfile(model, source / "edge/models" / model.name)
        isolation = ["--no-build-isolation"] if _has_setuptools() else []
        _pip("wheel", "--no-deps", *isolation, "-w", str(built), str(source), what="the wheel cannot be built")
        (wheel,) = built.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(files)
        write_zip(files, folder / wheel.name)
        return folder / wheel.name


def declared(name: str) -> list[str]:
    """The requirements of the package itself ("") or of one of its extras, with those of the extras it names."""
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    text = config["options.extras_require"][name] if name else config["options"]["install_requires"]
    lines = [line for line in text.split("\n") if line]
    inner = [match[1] for line in lines if (match := re.fullmatch(r"fairedge\[(\w+)\]", line))]
    return [line for line in lines if not line.startswith("fairedge[")] + [d for name in inner for d in declared(name)]


def closure(names: Collection[str]) -> set[str]:
    """Names of packages and of all that they bring, by what is installed here.

    Raises:
      EdgeError: one of them is not installed.
    """
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            waiting += required_names(importlib.metadata.requires(name) or [], extras=False)
        except importlib.metadata.PackageNotFoundError as error:
            reason = f"{name} is not installed: pip install . in the checkout"
            raise EdgeError(reason, exit_status=ENVIRONMENT) from error
    return found


def pins(names: set[str], machine: str) -> list[str]:
    """Lines of a requirements file: each package as the constraints have it, by Python where that differs.

    A package that is in no constraints file of this machine is left out: it is not needed there.
    """
    versions = {python: _constraints(python, machine) for python in PYTHONS}
    lines = []
    for name in sorted(names):
        by_python = {python: versions[python][name] for python in PYTHONS if name in versions[python]}
        if len(by_python) == len(PYTHONS) and len(set(by_python.values())) == 1:
            lines.append(f"{name}=={by_python[PYTHONS[0]]}\n")
        else:
            lines += [f'{name}=={version} ; python_version == "{python}"\n' for python, version in by_python.items()]
    return lines


def write_requirements(folder: Path) -> None:
    """Writes requirements-<machine>.txt, all that the runtime needs, and requirements-train.txt for the rest."""
    base = closure(required_names(declared(""), extras=False))
    for machine in MACHINES:
        header = f"# What both execution files need on Linux {machine}, all of it, Python 3.11 to 3.13.\n"
        (folder / f"requirements-{machine}.txt").write_text(header + "".join(pins(base, machine)), encoding="utf-8")
    training = required_names([*declared(""), *declared("export")], extras=False)
    header = "# For training and export, on Linux x86_64; what these bring is in code/source/constraints.\n"
    text = header + "".join(pins(set(training), "x86_64"))
    (folder / "requirements-train.txt").write_text(text, encoding="utf-8")


def download_wheels(folder: Path, requirements: Path, machine: str) -> None:
    """Fetches the wheels of a requirements file for both Pythons of a machine.

    Raises:
      EdgeError: the package index cannot be reached, or lacks one.
    """
    for python in WHEEL_PYTHONS:
        lines = for_python(requirements, python)
        platforms = [part for glibc in _MANYLINUX for part in ("--platform", f"manylinux_{glibc}_{machine}")]
        target = ["--implementation", "cp", "--python-version", python, *platforms]
        target += ["--platform", f"manylinux2014_{machine}", "--only-binary=:all:"]
        what = f"the wheels for Python {python} on {machine} cannot be fetched"
        _pip("download", "-d", str(folder), "--no-deps", *target, *lines, what=what)


def for_python(requirements: Path, python: str) -> list[str]:
    """The pins that hold for a Python, without their markers: pip would judge those by the Python it runs in."""
    lines = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        pin, _, marker = line.partition(";")
        if pin and not pin.startswith("#") and (not marker or f'"{python}"' in marker):
            lines.append(pin.strip())
    return lines


def licences_of(names: set[str]) -> Mapping[str, str]:
    """Package -> licence, of those installed here."""
    found = {}
    for name in sorted(names):
        said = importlib.metadata.metadata(name)
        classifiers = [line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or [] if "License ::" in line]
        whole = said.get_all("License-Expression") or classifiers or said.get_all("License") or ["see its wheel"]
        found[name] = "; ".join(whole).split("\n")[0]
    return found


def _constraints(python: str, machine: str) -> dict[str, str]:
    path = CHECKOUT / "constraints" / f"py{python.replace('.', '')}-{machine}.txt"
    lines = [line.strip().split("==") for line in path.read_text(encoding="utf-8").splitlines() if "==" in line]
    return {canonical(name): version for name, version in lines}


def _has_setuptools() -> bool:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= _SETUPTOOLS
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False


def _pip(command: str, *arguments: str, what: str) -> None:
    if importlib.util.find_spec("pip") is None:
        raise EdgeError(f"{what}: this Python has no pip", exit_status=ENVIRONMENT)
    full = [sys.executable, "-m", "pip", command, "-q", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(full, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        said = (lines or ["pip says nothing"])[0][:200]
        raise EdgeError(f"{what}: {said} (needs a package index)", exit_status=ENVIRONMENT)
