"""What can be told of a submission without running it. One function for each rule: it yields (file, what is wrong)."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from edge.classifier import Classifier
from edge.errors import EdgeError, ModelError

from . import manifest, weights
from .archive import files_below
from .metadata import Metadata, canonical, read_metadata
from .rules import Contest, Problems

_MOST_BYTES = 100_000_000
"""Of a file that is read as text, and of an unpacked wheel: more is not looked into."""
_TEXTS = {".py", ".sh", ".md", ".txt", ".cfg", ".toml", ".json", ".csv", ".j2"}
_ABSOLUTE = re.compile(
    r"""(?: (?<=[\s"'`=(,>]) | ^ ) (?: /(?!/)[\w.~-]+ (?: /[\w.~-]+ )+ | [A-Za-z]:\\\\?\w )
    | (?: (?<![\w.~$}*/)%+-]) | (?<=:-) | (?<=file://) ) /(?:home|root|data|mnt|opt)(?![\w-]) (?: /[\w.~-]+ )*""",
    re.VERBOSE,
)
_NO_WHEEL = (
    OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error,
)
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.+!_-]+)(?:\s*;.*)?")
_SHELL = re.compile(r"(?:^|[\s`])sh +([\w./-]+\.sh)")
_MODULE = re.compile(r"python[\d.]* (?:-I )?-m ([\w.]+)")


@dataclass(frozen=True)
class Pack:
    """An unpacked submission."""

    folder: Path
    contest: Contest
    manifest: dict[str, Any]

    @cached_property
    def files(self) -> list[str]:
        """All names, sorted."""
        return files_below(self.folder)

    @cached_property
    def wheel(self) -> dict[str, bytes]:
        """The files of the code's wheel; empty where there is none that can be read, or it unpacks to too much."""
        try:
            with zipfile.ZipFile(min(self.folder.glob("code/fairedge-*.whl"))) as archive:
                entries = archive.infolist()
                if sum(info.file_size for info in entries) > _MOST_BYTES:
                    return {}
                # read() of a whole entry would decompress without a limit whatever the archive says of its size
                return {info.filename: archive.open(info).read(info.file_size) for info in entries}
        except _NO_WHEEL:
            return {}

    @cached_property
    def metadata(self) -> Metadata:
        """What the wheel says of itself."""
        return read_metadata(self.wheel)

    def text(self, name: str) -> str:
        """A file as text; what is no UTF-8 is replaced, a file that is missing or too large is empty."""
        path = self.folder / name
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")


def required(pack: Pack) -> Problems:
    """Every part is there."""
    for pattern in pack.contest.settings["required"]:
        if not any(fnmatchcase(name, pattern) for name in pack.files):
            yield pattern, "is missing"


def same_as_manifest(pack: Pack) -> Problems:
    """The manifest tells the truth."""
    yield from manifest.differences(pack.folder, pack.manifest["files"])


def absolute_paths(pack: Pack) -> Problems:
    """No file names a place on somebody's machine."""
    allowed = tuple(pack.contest.settings["absolute_paths_allowed"])
    for name in pack.files:
        if Path(name).suffix not in _TEXTS:
            continue
        for number, line in enumerate(pack.text(name).splitlines(), 1):
            for match in _ABSOLUTE.finditer(line) if "/" in line or ":\\" in line else ():
                if not f"{match[0]}/".startswith(allowed):
                    yield name, f"line {number} names {match[0]}"


def pickles(pack: Pack) -> Problems:
    """No file that runs code when it is loaded."""
    for name in pack.files:
        if Path(name).suffix.lower() in pack.contest.settings["code_files"]:
            yield name, f"is a {Path(name).suffix} file"
        elif reason := _pickle(pack.folder / name):
            yield name, reason
    for name in pack.wheel:
        if Path(name).suffix.lower() in pack.contest.settings["code_files"]:
            yield name, f"is a {Path(name).suffix} file in the wheel"


def requirements(pack: Pack) -> Problems:
    """What is installed is pinned, and covers what the wheel needs."""
    for name in pack.files:
        if not fnmatchcase(name, "requirements-*.txt"):
            continue
        lines = [line.split("#")[0].strip() for line in pack.text(name).splitlines()]
        pins = {canonical(match[1]) for line in lines if (match := _PIN.fullmatch(line))}
        for line in lines:
            if line and not _PIN.fullmatch(line):
                yield name, f"got {line[:60]!r}, expected NAME==VERSION"
        for needed in sorted(pack.metadata.base - pins):
            yield name, f"does not pin {needed}, which the wheel needs"


def readme(pack: Pack) -> Problems:
    """Its commands are the ones that exist."""
    name = "README.md"
    text = pack.text(name)
    code = "\n".join(re.findall(r"^(?: {4}|\t)(.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text))
    called = set(_SHELL.findall(code))
    for script in ("run_accuracy.sh", "run_latency.sh"):
        if script not in called:
            yield name, f"does not say how to run {script}"
    for script in sorted(called):
        if script not in pack.files:
            yield name, f"names {script}, which is not there"
    modules = {Path(path).with_suffix("").as_posix().replace("/", ".") for path in pack.wheel if path.endswith(".py")}
    for module in sorted(set(_MODULE.findall(code))):
        if not {module, f"{module}.__main__"} & modules and module not in ("pip", "venv"):
            yield name, f"runs python -m {module}, which is no module of the wheel"
    for command in sorted(set(re.findall(r"(?<![\w.-])(edge-[a-z]+)", code))):
        if command not in pack.metadata.commands:
            yield name, f"names {command}, which is no command of the wheel"


def licences(pack: Pack) -> Problems:
    """Code and weights may be used, and by which terms."""
    for name in ("LICENSES/code.txt", "LICENSES/model.txt", "LICENSES/packages.txt"):
        if not pack.text(name).strip():
            yield name, "is missing or empty"
    stated = ""
    try:
        stated = Classifier.load(pack.folder / "model/model.onnx").metadata.get("license", "").strip()
    except ModelError:
        return  # another rule's finding
    if stated in ("", "unspecified"):
        yield "model/model.onnx", f"says of its licence {stated or 'nothing'!r}"


def model(pack: Pack) -> Problems:
    """It says what it is, and answers the contest's classes."""
    name = "model/model.onnx"
    try:
        classes = list(Classifier.load(pack.folder / name).classes)
    except ModelError as error:
        yield name, str(error).removeprefix(f"{pack.folder / name}: ")
        return
    if classes != pack.contest.settings["classes"]:
        yield name, f"answers {', '.join(classes)}; expected {', '.join(pack.contest.settings['classes'])}"
    if (listed := pack.text("model/classes.txt").split("\n")[:-1]) != classes:
        yield "model/classes.txt", f"lists {', '.join(listed) or 'nothing'}; the model has {', '.join(classes)}"


def same_weights(pack: Pack) -> Problems:
    """Both forms of the model are of one network."""
    name = "model/weights.safetensors"
    if name not in pack.files:
        return  # another rule's finding
    try:
        found = weights.read_header(pack.folder / name)
        classifier = Classifier.load(pack.folder / "model/model.onnx")
        yield from ((name, what) for what in weights.differences(found, classifier))
    except EdgeError as error:
        yield name, str(error).replace(f"{pack.folder}/", "")


def same_source(pack: Pack) -> Problems:
    """What can be read is what runs."""
    folder = "code/source/"
    readable = {name.removeprefix(folder) for name in pack.files if name.startswith(folder) and name.endswith(".py")}
    built = {name for name in pack.wheel if name.endswith(".py")}
    packages = {name.split("/")[0] for name in built}
    if not pack.wheel:
        yield "code/fairedge-*.whl", "cannot be read, or unpacks to more than 100 MB"
    for name in sorted(built - readable):
        yield folder + name, "is in the wheel alone"
    for name in sorted(name for name in readable - built if name.split("/")[0] in packages):
        yield folder + name, "is not in the wheel"
    for name in sorted(built & readable):
        if (pack.folder / folder / name).read_bytes() != pack.wheel[name]:
            yield folder + name, "differs from the file in the wheel"


CHECKS: dict[str, Callable[[Pack], Problems]] = {
    "required": required,
    "manifest": same_as_manifest,
    "absolute_paths": absolute_paths,
    "pickles": pickles,
    "requirements": requirements,
    "readme": readme,
    "licences": licences,
    "model": model,
    "weights": same_weights,
    "source": same_source,
}
"""By the name that a contest's rule has for it."""


def _pickle(path: Path) -> str | None:
    """Why a file looks like a pickle, whatever its name; None where it does not."""
    with open(path, "rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 1))
        end = file.read()
    if len(start) >= 2 and start[0] == 0x80 and 2 <= start[1] <= 5 and end == b".":  # PROTO n ... STOP
        return "is a pickle, whatever its name says"
    if start == struct.pack("<I", 0x04034B50) and path.suffix != ".whl":
        try:
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith(".pkl") for name in archive.namelist()):
                    return "is a zip of a pickle, as torch.save writes it"
        except zipfile.BadZipFile:
            return None
    return None
