"""What a wheel says of itself: the packages that it needs, and its commands."""

from __future__ import annotations

import configparser
import email
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Metadata:
    """What a wheel says of itself, names in canonical form."""

    base: frozenset[str] = frozenset()
    """Packages that it always needs."""
    commands: frozenset[str] = frozenset()
    """Its console scripts."""


def canonical(name: str) -> str:
    """The one spelling of a package's name. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required_names(requirements: Collection[str], *, extras: bool) -> frozenset[str]:
    """Canonical names of requirements, those of extras or those of none."""
    found = (_NAME.match(line.strip()) for line in requirements if ("extra ==" in line) == extras)
    return frozenset(canonical(match[0]) for match in found if match)


def read_metadata(wheel: Mapping[str, bytes]) -> Metadata:
    """Reads METADATA and entry_points.txt out of a wheel's files."""

    def text(name: str) -> str:
        found = (data for path, data in wheel.items() if path.endswith(f".dist-info/{name}"))
        return next(found, b"").decode("utf-8", "replace")

    requirements = email.message_from_string(text("METADATA")).get_all("Requires-Dist") or []
    points = configparser.ConfigParser()
    with suppress(configparser.Error):  # of anybody's wheel: then it has no commands
        points.read_string(text("entry_points.txt"))
    return Metadata(
        required_names(requirements, extras=False),
        frozenset(points["console_scripts"] if points.has_section("console_scripts") else ()),
    )
