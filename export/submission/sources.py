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
from collections.abc import Iterable
from pathlib import Path

from edge.errors import EdgeError
from edge.exit import ENVIRONMENT

from .archive import write_zip

CHECKOUT = Path(__file__).parents[2]
MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.11", "3.12", "3.13")
WHEEL_PYTHONS = ("3.11", "3.13")
"""Of Raspberry Pi OS bookworm and trixie."""

_PACKAGES = ("edge", "bench", "train", "export")
_BESIDE = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
_MANYLINUX = ("2_17", "2_24", "2_26", "2_27", "2_28")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
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
    for package in _PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.onnx")
        shutil.copytree(CHECKOUT / package, target / package, ignore=ignore)
    for name in _BESIDE:
        shutil.copyfile(CHECKOUT / name, target / name)
    shutil.copytree(CHECKOUT / "constraints", target / "constraints", ignore=shutil.ignore_patterns("*.toml"))


def build_wheel(folder: Path) -> None:
    """Builds the wheel of the checkout into a folder, and makes its bytes depend on its files alone.

    Raises:
      EdgeError: it does not build: no setuptools here, and no package index to fetch it from.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source, built, files = (Path(scratch) / name for name in ("source", "built", "files"))
        copy_source(source)
        for model in (CHECKOUT / "edge/models").glob("*.onnx"):
            shutil.copyfile(model, source / "edge/models" / model.name)
        isolation = ["--no-build-isolation"] if _has_setuptools() else []
        _pip("wheel", "--no-deps", *isolation, "-w", str(built), str(source), what="the wheel cannot be built")
        (wheel,) = built.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(files)
        write_zip(files, folder / wheel.name)


def declared(name: str) -> list[str]:
    """The requirements of the package itself ("") or of one of its extras, with those of the extras it names."""
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    text = config["options.extras_require"][name] if name else config["options"]["install_requires"]
    lines = [line for line in text.split("\n") if line]
    inner = [match[1] for line in lines if (match := re.fullmatch(r"fairedge\[(\w+)\]", line))]
    return [line for line in lines if not line.startswith("fairedge[")] + [d for name in inner for d in declared(name)]


def canonical(name: str) -> str:
    """The one spelling of a package's name. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required_names(requirements: Iterable[str]) -> frozenset[str]:
    """Canonical names of requirements, without those of extras."""
    found = (_NAME.match(line.strip()) for line in requirements if "extra ==" not in line)
    return frozenset(canonical(match[0]) for match in found if match)


def runtime_packages() -> set[str]:
    """Names of the packages that the runtime needs, and of all that they bring, by what is installed here.

    Raises:
      EdgeError: one of them is not installed.
    """
    found: set[str] = set()
    waiting = [*required_names(declared(""))]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            waiting += required_names(importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError as error:
            reason = f"{name} is not installed: pip install . in the checkout"
            raise EdgeError(reason, exit_status=ENVIRONMENT) from error
    return found


def write_requirements(folder: Path) -> None:
    """Writes requirements-<machine>.txt, all that the runtime needs, and requirements-train.txt for the rest."""
    runtime, training = runtime_packages(), required_names([*declared(""), *declared("export")])
    for machine in MACHINES:
        header = f"# What both execution files need on Linux {machine}, all of it, Python 3.11 to 3.13.\n"
        (folder / f"requirements-{machine}.txt").write_text(header + _pins(runtime, machine), encoding="utf-8")
    header = "# For training and export, on Linux x86_64; what these bring is in code/source/constraints.\n"
    (folder / "requirements-train.txt").write_text(header + _pins(training, "x86_64"), encoding="utf-8")


def download_wheels(folder: Path, machine: str) -> None:
    """Fetches the wheels of the runtime for both Pythons of a machine.

    Raises:
      EdgeError: the package index cannot be reached, or lacks one.
    """
    names = runtime_packages()
    for python in WHEEL_PYTHONS:
        versions = _constraints(python, machine)
        pins = [f"{name}=={versions[name]}" for name in sorted(names & versions.keys())]
        platforms = [part for glibc in _MANYLINUX for part in ("--platform", f"manylinux_{glibc}_{machine}")]
        target = ["--implementation", "cp", "--python-version", python, *platforms]
        target += ["--platform", f"manylinux2014_{machine}", "--only-binary=:all:"]
        what = f"the wheels for Python {python} on {machine} cannot be fetched"
        _pip("download", "-d", str(folder), "--no-deps", *target, *pins, what=what)


def licences() -> str:
    """The licences of the runtime's packages, a line each, as those installed here state them."""
    lines = []
    for name in sorted(runtime_packages()):
        said = importlib.metadata.metadata(name)
        classifiers = [line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or [] if "License ::" in line]
        whole = said.get_all("License-Expression") or classifiers or said.get_all("License") or ["see its wheel"]
        lines.append(f"{name}: {'; '.join(whole)}".split("\n")[0] + "\n")
    return "".join(lines)


def _pins(names: Iterable[str], machine: str) -> str:
    """Each package as the constraints have it, by Python where that differs; one that they lack is not needed."""
    versions = {python: _constraints(python, machine) for python in PYTHONS}
    lines = []
    for name in sorted(names):
        by_python = {python: versions[python][name] for python in PYTHONS if name in versions[python]}
        if len(by_python) == len(PYTHONS) and len(set(by_python.values())) == 1:
            lines.append(f"{name}=={by_python[PYTHONS[0]]}\n")
        else:
            lines += [f'{name}=={version} ; python_version == "{python}"\n' for python, version in by_python.items()]
    return "".join(lines)


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
