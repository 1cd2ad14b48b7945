"""A submission unpacked and tried as the organisers would: every rule of its contest, each finding with its fix.

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

from bench import dataset
from edge.command import printable

from . import emulation, manifest, rules, static, trial
from .archive import unpack
from .environment import TIMEOUT_S, find_isolation, tail
from .rules import Contest, Finding, Rule
from .stage import Failed, Problems, Skipped, Trial

T = TypeVar("T")
_NEEDED = ("run_accuracy.sh", "run_latency.sh", "code/environment.sh")
_MAX_FINDINGS = 20
_SHOWN = 10
"""Lines of a log that are shown where an execution file failed."""
_NOT_ITS_OWN = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOMEM)
"""Errors of this machine, which say nothing of a submission."""


@dataclass(frozen=True)
class Verdict:
    """What came of one rule."""

    rule: Rule
    findings: tuple[Finding, ...] = ()
    skipped: str = ""
    """Why it was not tried; "" where it was."""
    notes: tuple[str, ...] = ()
    """What else is to be told, one line each."""

    @property
    def state(self) -> str:
        """As in the report: ok, FAILED or skipped."""
        return "FAILED" if self.findings else "skipped" if self.skipped else "ok"


@dataclass(frozen=True)
class Order:
    """What is to be checked, and how."""

    source: Path
    """A folder or a zip."""
    logs: Path
    """A folder for the logs of the execution files; it exists."""
    data: Path | None = None
    """A labelled data set to take sample images of; None: they are drawn."""
    is_emulated: bool = False
    """Whether the Pi's execution file is run as on its processor."""
    timeout_s: float = TIMEOUT_S
    """Of one run of an execution file."""


def check(order: Order, heard: Callable[[Verdict], None]) -> dict[str, Any]:
    """Tries a submission.

    Args:
      order: What, and how.
      heard: Takes each verdict as soon as it is there.

    Returns:
      The report, JSON-ready.

    Raises:
      ArchiveError: what is refused before it is unpacked.
      ManifestError: no submission.
      RulesError: of a contest that is not known.
      DatasetError: `data` is no labelled data set.
    """
    if order.data is not None:
        dataset.index(order.data)  # said now, not after minutes
    with tempfile.TemporaryDirectory(prefix="edge-submit-") as name:
        scratch = Path(name)
        folder = scratch / "submission"
        unpack(order.source, folder)
        said = manifest.read(folder)
        contest = rules.load(said["contest"])
        isolation = find_isolation()
        verdicts = []
        bench = Trial(folder, scratch, order.logs, contest, isolation, order.data, order.timeout_s)
        for verdict in chain(look(folder, contest), _tries(bench, is_emulated=order.is_emulated)):
            heard(verdict)
            verdicts.append(verdict)
    return {
        "schema": "edge-check/1",
        "contest": contest.name,
        "team": said.get("team"),
        "commit": said.get("commit"),
        "network": isolation.how,
        "passed": not any(verdict.findings for verdict in verdicts),
        "rules": [_record(verdict) for verdict in verdicts],
    }


def look(folder: Path, contest: Contest) -> Iterator[Verdict]:
    """The rules that need no run, for a folder as it lies there.

    Raises:
      ManifestError: no submission.
    """
    pack = static.Pack(folder, contest, manifest.read(folder))
    for rule in contest.rules:
        if rule.check in static.CHECKS:
            yield _shortened(rule, list(_findings(rule, static.CHECKS[rule.check], pack, lambda: ".")))


def _tries(bench: Trial, *, is_emulated: bool) -> Iterator[Verdict]:
    contest = bench.contest
    missing = [name for name in _NEEDED if not (bench.folder / name).is_file()]
    reason = f"{missing[0]} is missing" if missing else ""
    for name, run in trial.TRIALS.items():
        if (rule := contest.rule(name)) is None:
            continue
        verdict = Verdict(rule, skipped=reason) if reason else _tried(rule, bench, run)
        yield verdict
        if name == "environment" and verdict.findings:
            reason = "there is no environment"
    if (rule := contest.rule("aarch64")) is not None:
        if not is_emulated:
            yield Verdict(rule, skipped="not asked for (--arch aarch64)")
        elif missing:
            yield Verdict(rule, skipped=f"{missing[0]} is missing")
        else:
            yield _tried(rule, bench, emulation.aarch64)


def _tried(rule: Rule, bench: Trial, run: Callable[[Trial], Problems]) -> Verdict:
    bench.begin()
    try:
        findings = list(_findings(rule, run, bench, lambda: bench.latest[0] if bench.latest else "."))
    except Failed as error:
        lines = [f"| {line}" for line in tail(bench.log(error.name), _SHOWN)]
        notes = (f"log: {bench.log(error.name)}", *lines)
        return Verdict(rule, (Finding(rule, error.script, error.what),), notes=notes)
    except Skipped as error:
        return Verdict(rule, skipped=str(error))
    logs = [f"log: {bench.log(bench.latest[1])}"] if findings and bench.latest else []
    return _shortened(rule, findings, [*bench.notes.get(rule.check, ()), *logs])


def _findings(rule: Rule, run: Callable[[T], Problems], what_of: T, where: Callable[[], str]) -> Iterator[Finding]:
    """The findings of a rule; what a submission's content makes its check stumble over is one as well."""
    try:
        for file, what in run(what_of):
            yield Finding(rule, file, what)
    except (Failed, Skipped):
        raise
    except Exception as error:  # anybody's files: the next rule has to be tried all the same
        if isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno in _NOT_ITS_OWN:
            raise
        reason = " ".join(f"{type(error).__name__} {error}".split())
        yield Finding(rule, where(), f"cannot be checked: {reason[:200]}")


def _shortened(rule: Rule, findings: Sequence[Finding], notes: Sequence[str] = ()) -> Verdict:
    """A verdict of the first findings, and how many more there are."""
    if (more := len(findings) - _MAX_FINDINGS) > 0:
        notes = [*notes, f"and {more} more"]
    return Verdict(rule, tuple(findings[:_MAX_FINDINGS]), notes=tuple(notes))


def _record(verdict: Verdict) -> dict[str, Any]:
    return {
        "id": verdict.rule.id,
        "what": verdict.rule.what,
        "state": verdict.state,
        "findings": [{"file": finding.file, "what": finding.what} for finding in verdict.findings],
        "fix": verdict.rule.fix if verdict.findings else None,
        "skipped": verdict.skipped or None,
        "notes": list(verdict.notes),
    }


def lines(verdict: Verdict) -> Iterator[str]:
    """A verdict for people; names and words of a submission cannot steer their terminal."""
    yield from (printable(line) for line in _lines(verdict))


def _lines(verdict: Verdict) -> Iterator[str]:
    yield f"{verdict.state:8}{verdict.rule.id}  {verdict.rule.what}"
    if verdict.skipped:
        yield f"             {verdict.skipped}"
    for finding in verdict.findings:
        yield f"             {finding.file}: {finding.what}"
    if verdict.findings:
        yield f"             to mend it: {verdict.rule.fix}"
    for note in verdict.notes:
        yield f"             {note}"
