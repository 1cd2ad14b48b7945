"""The rules of the contest, `contests/esfair2023.json`, and those of them that can be judged without running anything.

One function for each rule: it yields (file, what is wrong).
"""

from __future__ import annotations

import configparser
import email
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from edge.classifier import Classifier
from edge.errors import EdgeError, ModelError

from .archive import MANIFEST, files_below, read_manifest, sha256_of
from .sources import canonical, required_names
from .weights import differences, read_header

Problems = Iterator[tuple[str, str]]
"""(file, what is wrong)."""

_MAX_BYTES = 100_000_000
"""Of a file that is read as text, and of an unpacked wheel: more is not looked into."""
_TEXTS = {".py", ".sh", ".md", ".txt", ".cfg", ".toml", ".json", ".csv", ".j2"}
_ABSOLUTE = re.compile(
    r"""(?: (?<=[\s"'`=(,>]) | ^ ) (?: /(?!/)[\w.~-]+ (?: /[\w.~-]+ )+ | [A-Za-z]:\\\\?\w )
    | (?: (?<![\w.~$}*/)%+-]) | (?<=:-) | (?<=file://) ) /(?:home|root|data|mnt|opt)(?![\w-]) (?: /[\w.~-]+ )*""",
    re.VERBOSE,
)
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.+!_-]+)(?:\s*;.*)?")
_SHELL = re.compile(r"(?:^|[\s`])sh +([\w./-]+\.sh)")
_MODULE = re.compile(r"python[\d.]* (?:-I )?-m ([\w.]+)")
_MODEL, _WEIGHTS = "model/model.onnx", "model/weights.safetensors"


@dataclass(frozen=True)
class Rule:
    """One numbered rule."""

    id: str
    """As "E07"."""
    check: str
    """What checks it: a name of `rules.CHECKS` or of `trial.CHECKS`."""
    what: str
    """What has to hold, one line."""
    fix: str
    """What to do where it does not, one line."""


@dataclass(frozen=True)
class Contest:
    """What the contest asks for; the file describes each value, under "about"."""

    name: str
    title: str
    sample_groups: list[str]
    reference_group: str
    profile: str
    classes: list[str]
    latency: dict[str, int]
    required: list[str]
    absolute_paths_allowed: list[str]
    code_files: list[str]
    rules: list[Rule]

    @classmethod
    def read(cls, path: Path) -> Contest:
        """Reads a contest's data file."""
        values = json.loads(path.read_text(encoding="utf-8"))
        del values["about"]
        return cls(**{**values, "rules": [Rule(**rule) for rule in values["rules"]]})

    def rule(self, check: str) -> Rule:
        """The rule that a check is for."""
        return next(rule for rule in self.rules if rule.check == check)


CONTEST = Contest.read(Path(__file__).parent / "contests/esfair2023.json")


@dataclass(frozen=True)
class Submission:
    """An unpacked submission, by anybody."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """MANIFEST.json; EdgeError where it is none."""
        return read_manifest(self.folder)

    @cached_property
    def files(self) -> list[str]:
        """All names, sorted."""
        return files_below(self.folder)

    @cached_property
    def classifier(self) -> Classifier:
        """The model; ModelError where it cannot be used."""
        return Classifier.load(self.folder / _MODEL)

    @cached_property
    def wheel(self) -> dict[str, bytes]:
        """The files of the code's wheel; empty where there is none that can be read, or it unpacks to too much."""
        try:
            with zipfile.ZipFile(min(self.folder.glob("code/fairedge-*.whl"))) as archive:
                entries = archive.infolist()
                if sum(info.file_size for info in entries) > _MAX_BYTES:
                    return {}
                # read() of a whole entry would decompress without a limit whatever the archive says of its size
                return {info.filename: archive.open(info).read(info.file_size) for info in entries}
        except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error):
            return {}

    @cached_property
    def needs(self) -> frozenset[str]:
        """Canonical names of the packages that the wheel always needs."""
        return required_names(email.message_from_string(self._info("METADATA")).get_all("Requires-Dist") or [])

    @cached_property
    def commands(self) -> frozenset[str]:
        """The wheel's console scripts."""
        points = configparser.ConfigParser()
        with suppress(configparser.Error):
            points.read_string(self._info("entry_points.txt"))
        return frozenset(points["console_scripts"] if points.has_section("console_scripts") else ())

    def text(self, name: str) -> str:
        """A file as text; what is no UTF-8 is replaced, a file that is missing or too large is empty."""
        path = self.folder / name
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")

    def _info(self, name: str) -> str:
        found = (data for path, data in self.wheel.items() if path.endswith(f".dist-info/{name}"))
        return next(found, b"").decode("utf-8", "replace")


def required(submission: Submission) -> Problems:
    """Every part is there."""
    for pattern in CONTEST.required:
        if not any(fnmatchcase(name, pattern) for name in submission.files):
            yield pattern, "is missing"


def manifest(submission: Submission) -> Problems:
    """Every file is as the manifest says."""
    listed, found = submission.manifest["files"], {*submission.files} - {MANIFEST}
    for name, said in sorted(listed.items()):
        if name not in found:
            yield name, "is in the manifest and not in the folder"
            continue
        path, said = submission.folder / name, said if isinstance(said, dict) else {}
        if path.stat().st_size != said.get("bytes"):
            yield name, f"has {path.stat().st_size} bytes, the manifest says {said.get('bytes')}"
        elif sha256_of(path) != said.get("sha256"):
            yield name, "has another SHA-256 than the manifest says"
    for name in sorted(found - set(listed)):
        yield name, "is in the folder and not in the manifest"


def absolute_paths(submission: Submission) -> Problems:
    """No file names a place on somebody's machine."""
    allowed = tuple(CONTEST.absolute_paths_allowed)
    for name in submission.files:
        if Path(name).suffix not in _TEXTS:
            continue
        for number, line in enumerate(submission.text(name).splitlines(), 1):
            for match in _ABSOLUTE.finditer(line) if "/" in line or ":\\" in line else ():
                if not f"{match[0]}/".startswith(allowed):
                    yield name, f"line {number} names {match[0]}"


def pickles(submission: Submission) -> Problems:
    """No file runs code when it is loaded."""
    for name in submission.files:
        if Path(name).suffix.lower() in CONTEST.code_files:
            yield name, f"is a {Path(name).suffix} file"
        elif reason := _pickle(submission.folder / name):
            yield name, reason
    for name in submission.wheel:
        if Path(name).suffix.lower() in CONTEST.code_files:
            yield name, f"is a {Path(name).suffix} file in the wheel"


def requirements(submission: Submission) -> Problems:
    """What is installed is pinned, and covers what the wheel needs."""
    for name in submission.files:
        if not fnmatchcase(name, "requirements-*.txt"):
            continue
        pins = set()
        for line in submission.text(name).splitlines():
            line = line.split("#")[0].strip()
            if match := _PIN.fullmatch(line):
                pins.add(canonical(match[1]))
            elif line:
                yield name, f"got {line[:60]!r}, expected NAME==VERSION"
        for needed in sorted(submission.needs - pins):
            yield name, f"does not pin {needed}, which the wheel needs"


def readme(submission: Submission) -> Problems:
    """Its commands are the ones that exist."""
    name = "README.md"
    text = submission.text(name)
    code = "\n".join(re.findall(r"^(?: {4}|\t)(.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text))
    called = set(_SHELL.findall(code))
    for script in ("run_accuracy.sh", "run_latency.sh"):
        if script not in called:
            yield name, f"does not say how to run {script}"
    for script in sorted(called.difference(submission.files)):
        yield name, f"names {script}, which is not there"
    for module in sorted(set(_MODULE.findall(code)) - {"pip", "venv"}):
        path = module.replace(".", "/")
        if not {f"{path}.py", f"{path}/__main__.py"} & submission.wheel.keys():
            yield name, f"runs python -m {module}, which is no module of the wheel"
    for command in sorted(set(re.findall(r"(?<![\w.-])(edge-[a-z]+)", code)) - submission.commands):
        yield name, f"names {command}, which is no command of the wheel"


def licences(submission: Submission) -> Problems:
    """Code and weights may be used, and by which terms."""
    for name in ("LICENSES/code.txt", "LICENSES/model.txt", "LICENSES/packages.txt"):
        if not submission.text(name).strip():
            yield name, "is missing or empty"
    with suppress(ModelError):  # another rule's finding
        stated = submission.classifier.metadata.get("license", "").strip()
        if stated in ("", "unspecified"):
            yield _MODEL, f"says of its licence {stated or 'nothing'!r}"


def model(submission: Submission) -> Problems:
    """It says what it is, and answers the contest's classes."""
    try:
        classes = list(submission.classifier.classes)
    except ModelError as error:
        yield _MODEL, str(error).removeprefix(f"{submission.folder / _MODEL}: ")
        return
    if classes != CONTEST.classes:
        yield _MODEL, f"answers {', '.join(classes)}; expected {', '.join(CONTEST.classes)}"
    if (listed := submission.text("model/classes.txt").split("\n")[:-1]) != classes:
        yield "model/classes.txt", f"lists {', '.join(listed) or 'nothing'}; the model has {', '.join(classes)}"


def weights(submission: Submission) -> Problems:
    """Both forms of the model are of one network."""
    if _WEIGHTS not in submission.files:
        return  # another rule's finding
    try:
        header = read_header(submission.folder / _WEIGHTS)
        yield from ((_WEIGHTS, what) for what in differences(header, submission.classifier))
    except EdgeError as error:
        yield _WEIGHTS, str(error).replace(f"{submission.folder}/", "")


def source(submission: Submission) -> Problems:
    """What can be read is what runs."""
    folder, wheel = "code/source/", submission.wheel
    readable = {name.removeprefix(folder) for name in submission.files if fnmatchcase(name, f"{folder}*.py")}
    built = {name for name in wheel if name.endswith(".py")}
    packages = {name.split("/")[0] for name in built}
    if not wheel:
        yield "code/fairedge-*.whl", "cannot be read, or unpacks to more than 100 MB"
    for name in sorted(built - readable):
        yield folder + name, "is in the wheel alone"
    for name in sorted(name for name in readable - built if name.split("/")[0] in packages):
        yield folder + name, "is not in the wheel"
    for name in sorted(built & readable):
        if (submission.folder / folder / name).read_bytes() != wheel[name]:
            yield folder + name, "differs from the file in the wheel"


_JUDGES: tuple[Callable[[Submission], Problems], ...] = (
    required, manifest, absolute_paths, pickles, requirements, readme, licences, model, weights, source,
)
CHECKS = {judge.__name__: judge for judge in _JUDGES}
"""By the name that a contest's rule has for it."""


def _pickle(path: Path) -> str | None:
    """Why a file looks like a pickle, whatever its name; None where it does not."""
    with open(path, "rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 1))
        end = file.read()
    if len(start) >= 2 and start[0] == 0x80 and 2 <= start[1] <= 5 and end == b".":  # PROTO n ... STOP
        return "is a pickle, whatever its name says"
    if start == b"PK\3\4" and path.suffix != ".whl":
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            if any(name.endswith(".pkl") for name in archive.namelist()):
                return "is a zip of a pickle, as torch.save writes it"
    return None
