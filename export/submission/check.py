"""A submission unpacked and tried as the organisers would: every rule of the contest, each finding with its fix.

The trial runs the submission's own code, as the organisers will. The network is cut; the files of this machine are not.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from edge.errors import EdgeError
from edge.exit import printable

from . import manifest, rules, rules_run, rules_static, sandbox
from .archive import unpack
from .rules import Contest, Problems, Rule
from .rules_run import Failed, Trial

T = TypeVar("T")
_MAX_FINDINGS = 20
_SHOWN = 20
"""Lines of a log that are shown where an execution file failed."""
_NOT_ITS_OWN = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOMEM)
"""Errors of this machine, which say nothing of a submission."""


@dataclass(frozen=True)
class Verdict:
    """What came of one rule."""

    rule: Rule
    findings: tuple[tuple[str, str], ...] = ()
    """(file, what was found there), the file relative to the submission."""
    skipped: str = ""
    """Why it was not tried; "" where it was."""
    notes: tuple[str, ...] = ()
    """What else is to be told, one line each."""

    @property
    def state(self) -> str:
        """As in the report: ok, FAILED or skipped."""
        return "FAILED" if self.findings else "skipped" if self.skipped else "ok"


def check(
    source: Path, heard: Callable[[Verdict], None], *, logs: Path | None = None, timeout_s: float = sandbox.TIMEOUT_S
) -> dict[str, Any]:
    """Tries a submission.

    Args:
      source: A folder or a zip.
      heard: Takes each verdict as soon as it is there.
      logs: A folder that keeps the logs of the execution files; None: their last lines are in the verdicts alone.
      timeout_s: Of one run of an execution file.

    Returns:
      The report, JSON-ready.

    Raises:
      EdgeError: what is refused before it is unpacked, or is no submission to this contest.
    """
    contest = rules.load()
    with tempfile.TemporaryDirectory(prefix="edge-submit-") as name:
        scratch = Path(name)
        folder = scratch / rules_run.FOLDER / "submission"
        unpack(source, folder)
        said = manifest.read(folder)
        if said["contest"] != contest.name:
            raise EdgeError(f"contest: got {said['contest'][:40]!r}, expected {contest.name!r}")
        verdicts = []
        trial = Trial(folder, scratch, logs or scratch, contest, timeout_s)
        for verdict in chain(look(folder, contest), run(trial)):
            heard(verdict)
            verdicts.append(verdict)
    return {
        "schema": "edge-check/1",
        "contest": contest.name,
        "team": said.get("team"),
        "commit": said.get("commit"),
        "network": sandbox.CUT if sandbox.can_cut() else sandbox.NOT_CUT,
        "passed": not any(verdict.findings for verdict in verdicts),
        "rules": [_record(verdict) for verdict in verdicts],
    }


def look(folder: Path, contest: Contest) -> Iterator[Verdict]:
    """The rules that need no run, for a folder as it lies there.

    Raises:
      EdgeError: no submission.
    """
    pack = rules_static.Pack(folder, contest, manifest.read(folder))
    for name, judge in rules_static.CHECKS.items():
        yield _verdict(contest.rule(name), judge, pack)


def run(trial: Trial) -> Iterator[Verdict]:
    """The rules that need a run; without an environment there is none."""
    missing = ""
    for name, judge in rules_run.CHECKS.items():
        rule = trial.contest.rule(name)
        if missing:
            yield Verdict(rule, skipped=missing)
            continue
        trial.notes.clear()
        yield (verdict := _verdict(rule, judge, trial, trial.notes))
        if name == "environment" and verdict.findings:
            missing = "there is no environment"


def _verdict(rule: Rule, judge: Callable[[T], Problems], what_of: T, notes: Sequence[str] = ()) -> Verdict:
    """What a rule says; what a submission's content makes its check stumble over is a finding as well."""
    found: list[tuple[str, str]] = []
    try:
        for problem in judge(what_of):
            found.append(problem)
    except Failed as error:
        found.append((error.script, error.what))
        if error.log is not None:
            notes = [*notes, *(f"| {line}" for line in sandbox.tail(error.log, _SHOWN))]
    except Exception as error:  # anybody's files: the next rule has to be tried all the same
        if isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno in _NOT_ITS_OWN:
            raise
        reason = " ".join(f"{type(error).__name__} {error}".split())
        found.append((".", f"cannot be checked: {reason[:200]}"))
    if (more := len(found) - _MAX_FINDINGS) > 0:
        notes = [*notes, f"and {more} more"]
    return Verdict(rule, tuple(found[:_MAX_FINDINGS]), notes=tuple(notes))


def _record(verdict: Verdict) -> dict[str, Any]:
    return {
        "id": verdict.rule.id,
        "what": verdict.rule.what,
        "state": verdict.state,
        "findings": [{"file": file, "what": what} for file, what in verdict.findings],
        "fix": verdict.rule.fix if verdict.findings else None,
        "skipped": verdict.skipped or None,
        "notes": list(verdict.notes),
    }


def lines(verdict: Verdict) -> Iterator[str]:
    """A verdict for people; names and words of a submission cannot steer their terminal."""
    told = [verdict.skipped] * bool(verdict.skipped) + [f"{file}: {what}" for file, what in verdict.findings]
    told += [f"to mend it: {verdict.rule.fix}"] * bool(verdict.findings)
    yield printable(f"{verdict.state:8}{verdict.rule.id}  {verdict.rule.what}")
    yield from (printable(f"             {line}") for line in [*told, *verdict.notes])
