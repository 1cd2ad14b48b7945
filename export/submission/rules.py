"""The rules of the contest, read from its data file: `contests/esfair2023.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "contests/esfair2023.json"

Problems = Iterator[tuple[str, str]]
"""(file, what is wrong)."""


@dataclass(frozen=True)
class Rule:
    """One numbered rule."""

    id: str
    """As "E07"."""
    check: str
    """What checks it: a name of `rules_static.CHECKS` or of `rules_run.CHECKS`."""
    what: str
    """What has to hold, one line."""
    fix: str
    """What to do where it does not, one line."""


@dataclass(frozen=True)
class Contest:
    """What the contest asks for."""

    name: str
    title: str
    rules: tuple[Rule, ...]
    settings: Mapping[str, Any]
    """The other values of the file, by name; each is described there, under "about"."""

    def rule(self, check: str) -> Rule:
        """The rule that a check is for."""
        return next(rule for rule in self.rules if rule.check == check)


def load() -> Contest:
    """Reads the rules."""
    values = json.loads(_FILE.read_text(encoding="utf-8"))
    rules = tuple(Rule(**rule) for rule in values.pop("rules"))
    return Contest(values.pop("name"), values.pop("title"), rules, values)
