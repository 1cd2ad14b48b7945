"""An arm64 Debian with Python and pinned aarch64 wheels, built on any machine without running arm64 code.

    folder/debian-bookworm-KEY/    Debian's Python, unpacked, and a board's /proc and /sys
    folder/wheels-KEY/             what pip makes of a list of pinned requirements
    folder/wheel-KEY/              one wheel, as the project's own

A key is a digest of all that went into its folder, so a change builds a new one and everything else is found again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

from . import layers, programs
from .programs import Pi4bError

_SUITES = {"3.11": ("bookworm", 36), "3.13": ("trixie", 41)}
"""Python -> the Debian that brings it, and minor version of its glibc, the newest manylinux a wheel may ask for."""
RUNTIME = ("flatbuffers", "numpy", "onnxruntime", "packaging", "pillow", "protobuf", "psutil")
"""What `pip install fairedge` brings."""

_DEBIAN_PACKAGES = ("base-files", "python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
_NOT_NEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/zoneinfo", "var/cache", "var/lib/apt")
_VERSIONS = "etc/debian-packages"
"""File of a tree: the packages that went into it, as NAME_VERSION_ARCHITECTURE.deb. Nothing is installed by dpkg."""
_HIDING = ("boot", "dev", "home", "media", "mnt", "opt", "root", "run", "srv", "tmp")
"""Folders of Debian's that would hide this machine's own of the same name."""
_CHECKOUT = Path(__file__).parents[2]
_CONSTRAINTS = _CHECKOUT / "constraints"
_BOARD = Path(__file__).with_name("board.json")


@dataclass(frozen=True)
class Tree:
    """A tree that programs run in."""

    root: Path  # Debian's root folder
    python: str  # "3.11" or "3.13"
    site: tuple[Path, ...]  # folders that are put before Python's own packages

    def debian_packages(self) -> dict[str, str]:
        """Name -> version."""
        names = (self.root / _VERSIONS).read_text().split()
        return {name: unquote(version) for name, version, _ in (each.rsplit("_", 2) for each in names)}

    @property
    def interpreter(self) -> Path:
        """The arm64 interpreter, which this machine cannot execute by itself."""
        return self.root / f"usr/bin/python{self.python}"

    @property
    def launcher(self) -> Path:
        """A script that executes it under emulation; the guest's `sys.executable`, so that children run as well."""
        return self.root / "usr/bin/python-pi4b"

    def emulator(self) -> list[str]:
        """The command line up to Python's own arguments."""
        qemu = shutil.which("qemu-aarch64") or "qemu-aarch64"  # the tree's PATH is not this process's
        return [qemu, "-cpu", "cortex-a72", "-L", str(self.root), "-0", str(self.launcher)]


def build_tree(
    folder: str | os.PathLike[str], *, python: str = "3.11", wheels: Sequence[str | os.PathLike[str]] = (),
    site_requirements: Sequence[str] | None = None,
) -> Tree:
    """Builds a tree in `folder`, made if needed, or finds it there; the first takes about 250 MB.

    `wheels` are unpacked, and `site_requirements`, for pip, as "numpy==2.4.6", fetched, each without what it depends
    on; None: what the runtime needs, as pinned in `constraints/`.

    Raises:
      Unavailable: a program is absent, or a download failed.
      Pi4bError: a wheel cannot be read, or the folder cannot be written.
    """
    if python not in _SUITES:
        raise Pi4bError(f"python: got {python!r}, expected {' or '.join(_SUITES)}")
    folder = Path(folder).resolve()
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layers.clear_leftovers(folder)
    requirements = pinned(RUNTIME, python=python) if site_requirements is None else list(site_requirements)
    suite, _ = _SUITES[python]
    inputs: list[object] = [_DEBIAN_PACKAGES, _NOT_NEEDED, _HIDING, _VERSIONS, sorted(board_files())]
    root = layers.layer(folder, f"debian-{suite}", inputs, lambda part: _unpack_debian(part, suite))
    _write_launcher(Tree(root, python, ()))
    site = []
    for wheel in map(Path, wheels):
        try:
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        except OSError as error:
            raise Pi4bError(f"{wheel}: wheel cannot be read: {error.strerror}") from error
        site.append(layers.layer(folder, "wheel", digest, lambda part: _unpack([wheel], part)))
    if requirements:
        inputs = [python, *requirements]
        site.append(layers.layer(folder, "wheels", inputs, lambda part: _fetch(part, python, requirements)))
    return Tree(root, python, tuple(site))


def default_folder() -> Path:
    """Where the commands keep trees: build/pi4b of the checkout; raises Pi4bError where there is none."""
    if not _CONSTRAINTS.is_dir():
        raise Pi4bError(f"the Pi 4B emulation needs a checkout, for its pinned versions: no folder {_CONSTRAINTS}")
    return _CHECKOUT / "build" / "pi4b"


def check_folder(folder: Path) -> None:
    """Says before the work, as Pi4bError, that Python would cut a folder's path at a colon, or QEMU at a comma."""
    if found := {",", ":"} & {*str(folder.resolve())}:
        raise Pi4bError(f"{folder}: got a path with {' and '.join(sorted(found))}, expected one without")


def pinned(names: Sequence[str], *, python: str = "3.11") -> list[str]:
    """The requirements "name==version" of the project's constraints for a Pi.

    Raises:
      Pi4bError: no checkout with `constraints/` is there, or a name is not pinned.
    """
    path = _CONSTRAINTS / f"py{python.replace('.', '')}-aarch64.txt"
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise Pi4bError(f"{path}: the pinned versions cannot be read ({error.strerror}); run in a checkout") from error
    versions = dict(line.split("==", 1) for line in lines if re.match(r"[\w.-]+==", line))
    if absent := [name for name in names if name not in versions]:
        raise Pi4bError(f"{path}: no version of {', '.join(absent)}")
    return [f"{name}=={versions[name]}" for name in names]


def versions(python: str, requirements: Sequence[str]) -> dict[str, str]:
    """What changes counts: name -> version."""
    packages = dict(requirement.split("==") for requirement in requirements)
    return {"python": python, "debian": _SUITES[python][0], "qemu": programs.qemu_version(), **packages}


def _unpack_debian(part: Path, suite: str) -> None:
    programs.require("mmdebstrap", "Debian's keys")
    # Nothing is executed in it, so that a user needs neither root nor a name space of his own.
    mode = "root" if os.geteuid() == 0 else "chrootless"
    record = f'ls "$1/var/cache/apt/archives" | grep "[.]deb$" > "$1/{_VERSIONS}"'
    options = [f"--mode={mode}", "--variant=extract", "--architectures=arm64", f"--extract-hook={record}"]
    options.append(f"--include={','.join(_DEBIAN_PACKAGES)}")
    left_out = [f"--exclude=./{name}" for name in (*_NOT_NEEDED, *_HIDING)]
    with TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)  # apt fetches as a user of its own
        archive = Path(scratch) / "debian.tar"  # a folder would belong to other users where mmdebstrap is not root
        fetch: list[str | Path] = ["mmdebstrap", *options, suite, archive]
        here = {**os.environ, "TMPDIR": scratch}  # removed with it, also where mmdebstrap is killed
        programs.call(fetch, what=f"fetching Debian {suite} for arm64", timeout_s=600, env=here, fetches=True)
        extract = ["tar", "--extract", "--no-same-owner", f"--file={archive}", f"--directory={part}", *left_out]
        programs.call(extract, what=f"unpacking Debian {suite}", timeout_s=300)
    for name, content in board_files():
        path = part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def board_files() -> Iterator[tuple[str, str]]:
    """What a Raspberry Pi 4B's kernel says of itself: path below / and content of the files that programs read.

    Without them onnxruntime's cpuinfo would read the host's, find an x86 processor in an arm64 process, and crash.
    Source: a Raspberry Pi 4 Model B Rev 1.5, 4 GB, Linux 6.1; Cortex-A72 technical reference manual, chapters 2 and 6.
    """
    for path, content in json.loads(_BOARD.read_bytes()).items():
        text = content if isinstance(content, str) else "\n".join(content)
        end = "" if text.endswith("\0") else "\n"
        for core in range(4 if "{core}" in path else 1):
            yield path.format(core=core), text.format(core=core, mask=f"{1 << core:x}") + end


def _write_launcher(tree: Tree) -> None:
    """The kernel of this machine executes the script itself, whoever asks: no binfmt registration is needed."""
    text = f'#!/bin/sh\nexec {shlex.join([*tree.emulator(), str(tree.interpreter)])} "$@"\n'
    if not tree.launcher.exists() or tree.launcher.read_text() != text:  # a tree may have been moved

        def write(part: Path) -> None:
            part.write_text(text)
            part.chmod(0o755)

        layers.put(tree.launcher, write)


def _fetch(part: Path, python: str, requirements: Sequence[str]) -> None:
    """Downloads aarch64 wheels and unpacks them: installing would ask the Python that runs here, not the Pi's."""
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(_SUITES[python][1], 16, -1)]
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries=3", "--no-deps"]
    options += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    options += [*platforms, "--platform=manylinux2014_aarch64"]
    with TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", *options, f"--dest={scratch}", *requirements]
        programs.call(command, what=f"fetching aarch64 wheels for Python {python}", timeout_s=600, fetches=True)
        _unpack(sorted(Path(scratch).glob("*.whl")), part)


def _unpack(wheels: Sequence[Path], part: Path) -> None:
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(part)
        except zipfile.BadZipFile as error:
            raise Pi4bError(f"{wheel}: is no wheel: {error}") from error
