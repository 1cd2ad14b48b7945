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
from typing import Any

from edge.errors import EdgeError
from edge.exit import printable

from . import rules, trial
from .archive import unpack
from .rules import CONTEST, Problems, Rule, Submission
from .trial import Failed, Trial

_MAX_FINDINGS = 20
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
    """What else is to be said, one line each."""

    @property
    def state(self) -> str:
        """As in the report: ok, FAILED or skipped."""
        return "FAILED" if self.findings else "skipped" if self.skipped else "ok"


def check(source: Path, heard: Callable[[Verdict], None], *, logs: Path | None, timeout_s: float) -> dict[str, Any]:
    """Tries a submission, a folder or a zip; returns the report, JSON-ready.

    `heard` takes each verdict as soon as it is there. The folder `logs` keeps the whole logs of the execution files,
    each of which may run for `timeout_s`.

    Raises:
      EdgeError: what is refused before it is unpacked, or is no submission to this contest.
    """
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="edge-submit-") as name:
        scratch = Path(name)
        folder = scratch / trial.FOLDER / "submission"
        unpack(source, folder)
        submission = Submission(folder)
        if (contest := submission.manifest["contest"]) != CONTEST.name:
            raise EdgeError(f"contest: got {contest[:40]!r}, expected {CONTEST.name!r}")
        for verdict in chain(look(submission), run(Trial(folder, scratch, logs or scratch, timeout_s))):
            heard(verdict)
            verdicts.append(verdict)
    return {
        "schema": "edge-check/1",
        "contest": CONTEST.name,
        "team": submission.manifest.get("team"),
        "commit": submission.manifest.get("commit"),
        "network": trial.CUT if trial.can_cut() else trial.NOT_CUT,
        "passed": not any(verdict.findings for verdict in verdicts),
        "rules": [_record(verdict) for verdict in verdicts],
    }


def look(submission: Submission) -> Iterator[Verdict]:
    """The rules that need no run."""
    for name, judge in rules.CHECKS.items():
        yield _verdict(CONTEST.rule(name), judge(submission))


def run(case: Trial) -> Iterator[Verdict]:
    """The rules that need a run; without an environment there is none."""
    missing = ""
    for name, judge in trial.CHECKS.items():
        rule = CONTEST.rule(name)
        if missing:
            yield Verdict(rule, skipped=missing)
            continue
        case.notes.clear()
        yield (verdict := _verdict(rule, judge(case), case.notes))
        if name == "environment" and verdict.findings:
            missing = "there is no environment"


def _verdict(rule: Rule, problems: Problems, notes: Sequence[str] = ()) -> Verdict:
    """What a rule says; what a submission's content makes its check stumble over is a finding as well."""
    found: list[tuple[str, str]] = []
    log: Sequence[str] = ()
    try:
        for problem in problems:
            found.append(problem)  # what came before an error stays
    except Failed as error:
        found.append((error.script, error.what))
        log = error.log
    except Exception as error:  # anybody's files: the next rule has to be tried all the same
        if isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno in _NOT_ITS_OWN:
            raise
        reason = " ".join(f"{type(error).__name__} {error}".split())
        found.append((".", f"cannot be checked: {reason[:200]}"))
    notes = [*notes, *(f"| {line}" for line in log)]
    if (more := len(found) - _MAX_FINDINGS) > 0:
        notes.append(f"and {more} more")
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
    said = [verdict.skipped] * bool(verdict.skipped) + [f"{file}: {what}" for file, what in verdict.findings]
    said += [f"to mend it: {verdict.rule.fix}"] * bool(verdict.findings)
    yield printable(f"{verdict.state:8}{verdict.rule.id}  {verdict.rule.what}")
    yield from (printable(f"             {line}") for line in [*said, *verdict.notes])
