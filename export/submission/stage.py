"""One submission on trial: where it lies, how its execution files are run, and what a run that fails raises."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bench import dataset
from edge.errors import EdgeError

from . import environment, samples
from .rules import Contest

Problems = Iterator[tuple[str, str]]
"""(file, what is wrong)."""

_PER_CELL = 3
"""Images of each group and class that are taken of a data set given."""


class Skipped(Exception):
    """A rule that could not be tried, and why."""


class Failed(EdgeError):
    """An execution file that failed; `name` is that of the run, which has a log."""

    def __init__(self, script: str, what: str, name: str) -> None:
        self.script, self.what, self.name = script, what, name
        super().__init__(f"{script}: {what}")


@dataclass
class Trial:
    """A submission on trial."""

    folder: Path
    """Where it is unpacked; nobody else uses it."""
    scratch: Path
    """For everything else, removed in the end."""
    logs: Path
    """For the logs."""
    contest: Contest
    isolation: environment.Isolation
    data: Path | None = None
    """A labelled data set to take sample images of; None: they are drawn."""
    timeout_s: float = environment.TIMEOUT_S
    """Of one run of an execution file."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """What else is to be told, by check."""
    latest: tuple[str, str] | None = None
    """Execution file and name of the last run."""
    hung: set[str] = field(default_factory=set)
    """Execution files that took too long: they are not run again."""

    @cached_property
    def has_wheels(self) -> bool:
        """Whether the submission brings what it needs on this machine, for a Python that is here."""
        wheels = [path.name for path in (self.folder / "wheels").glob(f"numpy-*_{environment.MACHINE}.whl")]
        tags = [f"-cp{version.replace('.', '')}-" for version in (environment.pythons() if wheels else ())]
        return any(tag in name for tag in tags for name in wheels)

    @property
    def shared(self) -> dict[str, str]:
        """What leads to the environment that the first trial makes and the others use."""
        return {"FAIREDGE_VENV": str(self.scratch / "environment")}

    @cached_property
    def images(self) -> Path:
        """A labelled data set of few images, with oddities where they are drawn."""
        folder = self.scratch / "data"
        groups, classes = self.contest.settings["sample_groups"], self.contest.settings["classes"]
        if self.data is None:
            samples.write_odd_images(folder, groups, classes)
            return folder
        taken: dict[tuple[str, str], int] = {}
        for sample in dataset.index(self.data):
            cell = sample.group, sample.label
            taken[cell] = taken.get(cell, 0) + 1
            if taken[cell] <= _PER_CELL:
                target = folder / sample.group / sample.label
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.data / sample.path, target / f"{taken[cell]}-{Path(sample.path).name}")
        return folder

    def begin(self) -> None:
        """Forgets the last run: what follows is of another trial."""
        self.latest = None

    def execute(
        self, script: str, name: str, command: Sequence[str], *, cwd: Path, added: dict[str, str],
        network: bool = False, read_only: Path | None = None,
    ) -> int:
        """Runs a command that stands for an execution file; returns its exit status.

        Raises:
          Skipped: the file took too long in an earlier trial.
        """
        if script in self.hung:
            raise Skipped(f"{script} took longer than {self.timeout_s:.0f} s before (--timeout)")
        self.latest = script, name
        status = environment.run(
            command, cwd=cwd, log=self.log(name), isolation=self.isolation, home=self.home(name), network=network,
            read_only=read_only, added=added, timeout_s=self.timeout_s,
        )
        if status == environment.TOO_LONG:
            self.hung.add(script)
        return status

    def run(self, script: str, data: Path, name: str, *, folder: Path | None = None, own_venv: bool = False) -> Path:
        """Runs an execution file; returns the folder with what it wrote. Raises `Failed` where it fails."""
        output = self.scratch / "output" / name
        status = self.execute(
            script, name, ["sh", script, str(data), str(output)], cwd=folder or self.folder,
            added={} if own_venv and self.has_wheels else self.shared,
        )
        if status not in (0, 1) or status == 1 and self.data is None:
            raise self.failed(status)
        return output

    def failed(self, status: int) -> Failed:
        """What to raise of the latest run, whose exit status is not the one expected."""
        script, name = self.latest or ("", "")
        last = environment.tail(self.log(name), 1)
        return Failed(script, f"exit status {status}{''.join(f': {line}' for line in last)}", name)

    def home(self, name: str) -> Path:
        """An empty home for a run."""
        home = self.scratch / "home" / name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def log(self, name: str) -> Path:
        """The log of a run."""
        return self.logs / f"{name}.log"
