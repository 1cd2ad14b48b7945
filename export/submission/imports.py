"""What a source file imports, and what a wheel declares: the first must lie inside the second."""

from __future__ import annotations

import ast
import configparser
import email
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Metadata:
    """What a wheel says of itself, names in canonical form."""

    base: frozenset[str] = frozenset()
    """Packages that it always needs."""
    extras: frozenset[str] = frozenset()
    """Packages that one of its extras brings."""
    commands: frozenset[str] = frozenset()
    """Its console scripts."""
    packages: frozenset[str] = field(default_factory=frozenset)
    """Its own packages at the top."""


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
        required_names(requirements, extras=True),
        frozenset(points["console_scripts"] if points.has_section("console_scripts") else ()),
        frozenset(path.split("/")[0] for path in wheel if path.endswith(".py")),
    )


def undeclared(
    source: str, metadata: Metadata, *, modules_of: Mapping[str, str], optional: Collection[str]
) -> Iterator[str]:
    """One line for each import that nothing declares.

    Args:
      source: Of one file.
      metadata: Of the wheel.
      modules_of: Package of a module, where the names differ.
      optional: Modules that the code does without.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deeply
        where = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
        yield f"{where}is no Python: {error}"
        return
    for module, line in _imported(tree):
        package = canonical(modules_of.get(module, module))
        if module in sys.stdlib_module_names or module in metadata.packages or module in optional:
            continue
        if package not in metadata.base | metadata.extras:
            yield f"line {line} imports {module}, which no package that is declared has"


def _imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(module at the top, line) of every import, wherever it stands; imports inside a package are none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0], node.lineno
