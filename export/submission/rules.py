"""The rules of a contest, read from its data file: `contests/<contest>.json`. Another contest is another file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import EdgeError

_FOLDER = Path(__file__).parent / "contests"
DEFAULT = "esfair2023"


class RulesError(EdgeError):
    """A contest that is not known."""


@dataclass(frozen=True)
class Rule:
    """One numbered rule."""

    id: str
    """As "E07"."""
    check: str
    """What checks it: a name of `static.CHECKS` or of a trial."""
    what: str
    """What has to hold, one line."""
    fix: str
    """What to do where it does not, one line."""


@dataclass(frozen=True)
class Finding:
    """A rule that is broken."""

    rule: Rule
    file: str
    """Relative to the submission."""
    what: str
    """What was found there."""


@dataclass(frozen=True)
class Contest:
    """What one contest asks for."""

    name: str
    title: str
    rules: tuple[Rule, ...]
    settings: Mapping[str, Any]
    """The other values of the file, by name; each is described there, under "about"."""

    def rule(self, check: str) -> Rule | None:
        """The rule that a check is for; None where the contest has none such."""
        return next((rule for rule in self.rules if rule.check == check), None)


def names() -> tuple[str, ...]:
    """The contests there are files of."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def load(name: str = DEFAULT) -> Contest:
    """Reads the rules of a contest.

    Raises:
      RulesError: there is no such file.
    """
    if name not in names():
        raise RulesError(f"contest: got {name[:40]!r}, expected one of {', '.join(names())}")
    values = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    rules = tuple(Rule(**rule) for rule in values.pop("rules"))
    return Contest(values.pop("name"), values.pop("title"), rules, values)
