"""Protocol of a folder of evidence, which says what its tables show, and the folder read whole."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from bench.dataset import MANIFEST, Sample, index
from edge.errors import EdgeError

from .evidence import RECORD, TABLE, Evidence, read, read_json

PROTOCOL = "protocol.json"


@dataclass(frozen=True)
class Protocol:
    """What the tables of a folder show: decided before the runs, not by them."""

    reference: str | None
    """Group that the contest's SPD compares against; None: the one with the fewest images."""
    exclude: tuple[str, ...]
    """Groups left out of what compares groups."""
    mask: tuple[str, ...]
    """Classes of the model that cannot be the answer, as the data set has none of them."""
    configurations: tuple[str, ...]
    """Rows, in their order: all that the folder holds, so that none is left out for its result."""
    differences: tuple[tuple[str, str], ...]
    """Pairs (a, b) of configurations, for b minus a."""
    coverage: tuple[str, ...]
    """Configurations whose accuracy is shown against their coverage."""


@dataclass(frozen=True)
class Folder:
    """A folder of evidence."""

    path: Path
    samples: list[Sample]
    protocol: Protocol
    configurations: dict[str, list[Evidence]]
    """Name -> its seeds in their order, of the same images and classes."""


def load(path: Path) -> Folder:
    """Reads a folder whole.

    Raises:
      EdgeError: a file is missing, damaged or of other data, or the protocol does not name what is there.
      DatasetError: no manifest that can be used.
    """
    samples = index(path, has_files=False)
    protocol = read_protocol(path)
    known = {sample.path for sample in samples}
    stems = sorted({file.name.removesuffix(end) for end in (TABLE, RECORD) for file in path.glob(f"*_seed*{end}")})
    found: dict[str, list[Evidence]] = {name: [] for name in protocol.configurations}
    for stem in stems:
        evidence = read(path, stem)
        if absent := {*evidence.paths} - known:
            raise EdgeError(f"{path / stem}{TABLE}: got {min(absent)}, which {MANIFEST} does not have")
        if unknown := {*protocol.mask} - {*evidence.classes}:
            raise EdgeError(f"{path / PROTOCOL}: mask: got {min(unknown)}, no class of {stem}")
        name = evidence.configuration
        if name not in found:
            raise EdgeError(f"{path / PROTOCOL}: does not name {name}, expected every configuration that is there")
        seeds = found[name]
        if seeds and (evidence.classes, evidence.paths) != (seeds[0].classes, seeds[0].paths):
            text = f"got other images or classes than {seeds[0].stem}, expected the same"
            raise EdgeError(f"{path / stem}{TABLE}: {text}")
        seeds.append(evidence)
    if missing := [name for name, seeds in found.items() if not seeds]:
        raise EdgeError(f"{path}: no predictions of {missing[0]}, which {PROTOCOL} names")
    if not found:
        raise EdgeError(f"{path / PROTOCOL}: names no configuration, expected at least one")
    return Folder(path, samples, protocol, {name: sorted(s, key=lambda one: one.seed) for name, s in found.items()})


def read_protocol(folder: Path) -> Protocol:
    """Reads the protocol of a folder.

    Raises:
      EdgeError: it is missing or damaged.
    """
    path = folder / PROTOCOL
    values = read_json(path)
    names = [field.name for field in fields(Protocol)]
    if sorted(values) != sorted(names):
        raise EdgeError(f"{path}: got {', '.join(values) or 'nothing'}, expected {', '.join(names)}")
    if not isinstance(values["reference"], str | None):
        raise EdgeError(f"{path}: reference: got {values['reference']!r}, expected a group or null")
    pairs = values["differences"]
    if not isinstance(pairs, list) or not all(_is_names(pair) and len(pair) == 2 for pair in pairs):
        raise EdgeError(f"{path}: differences: expected a list of pairs of names")
    for name in ("exclude", "mask", "configurations", "coverage"):
        if not _is_names(values[name]):
            raise EdgeError(f"{path}: {name}: expected a list of names")
    shown = [*values["coverage"], *(name for pair in pairs for name in pair)]
    if unknown := [name for name in shown if name not in values["configurations"]]:
        raise EdgeError(f"{path}: got {unknown[0]}, which is none of its configurations")
    lists = {name: tuple(values[name]) for name in ("exclude", "mask", "configurations", "coverage")}
    return Protocol(reference=values["reference"], differences=tuple((a, b) for a, b in pairs), **lists)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
