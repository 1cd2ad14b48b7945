"""Writes constraints/py<version>-<machine>.txt, the versions that tests and releases use.

Run it by `make lock`. One file for each supported Python and machine, because no single set of versions has wheels
for all of them. pip resolves each for its target, wheels only, so any of the Pythons can write all files.
"""

from __future__ import annotations

import argparse
import configparser
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_24", "manylinux_2_17", "manylinux2014")

# PyTorch's metadata brings several GB of CUDA packages to every Linux. Its version is given on the command line and
# its other dependencies are locked by naming them; the CPU build comes from an index of its own (see Makefile).
TORCH_NEEDS = ("filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions")


def main() -> int:
    """Locks every Python and machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--torch", required=True, metavar="VERSION")
    torch = parser.parse_args().torch
    wanted = [*declared(HERE.parent / "setup.cfg"), *TORCH_NEEDS]
    for python in PYTHONS:
        for machine in MACHINES:
            versions = {**resolve(wanted, python, machine), "torch": torch}
            name = f"py{python.replace('.', '')}-{machine}.txt"
            lines = [f"{package}=={versions[package]}\n" for package in sorted(versions)]
            header = f"# Python {python}, Linux {machine}. Written by `make lock`.\n"
            (HERE / name).write_text(header + "".join(lines), encoding="utf-8")
            print(f"{name}: {len(lines)} packages")
    return 0


def declared(setup_cfg: Path) -> list[str]:
    """All requirements of the package and its extras, without PyTorch and references to its own extras."""
    config = configparser.ConfigParser()
    config.read(setup_cfg, encoding="utf-8")
    groups = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = sorted({line for group in groups for line in group.split("\n") if line})
    return [line for line in lines if Requirement(line).name not in ("torch", config["metadata"]["name"])]


def resolve(wanted: list[str], python: str, machine: str) -> dict[str, str]:
    """Requirements -> {canonical package name: version} of everything they bring.

    pip judges Requires-Python and environment markers by the interpreter it runs in, also when told of another: both
    are judged again for the target, until nothing is left to correct.
    """
    while True:
        report = pip_report(wanted, python, machine)
        packages = [item["metadata"] for item in report["install"]]
        versions = {str(canonicalize_name(package["name"])): package["version"] for package in packages}
        too_new = [
            f"{package['name']}!={package['version']}"
            for package in packages
            if python not in SpecifierSet(package.get("requires_python", ""))
        ]
        forgotten = needed_on_target(packages, report["environment"], python, machine) - set(versions)
        if not too_new and not forgotten:
            return versions
        wanted = [*wanted, *too_new, *sorted(forgotten)]


def pip_report(wanted: list[str], python: str, machine: str) -> dict[str, Any]:
    """What pip would install, as its installation report."""
    platforms = [argument for platform in PLATFORMS for argument in ("--platform", f"{platform}_{machine}")]
    with tempfile.TemporaryDirectory() as target:
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--report", "-", "--only-binary=:all:"]
        command += ["--ignore-installed", "--ignore-requires-python", "--target", target, "--python-version", python]
        result = subprocess.run([*command, *platforms, *wanted], check=True, stdout=subprocess.PIPE)
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def needed_on_target(packages: list[dict[str, Any]], here: dict[str, str], python: str, machine: str) -> set[str]:
    """Canonical names required by the markers of the target, `here` being the markers' values in this interpreter."""
    target = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine, "extra": ""}
    requirements = [Requirement(line) for package in packages for line in package.get("requires_dist", ())]
    return {
        canonicalize_name(requirement.name)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({**here, **target})
    }


if __name__ == "__main__":
    raise SystemExit(main())
