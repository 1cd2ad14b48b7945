"""Counts regions in a tree, and compares two counts of the same regions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bench
import edge
from edge.errors import EdgeError

from . import layers, programs
from .emulator import read_counts, run
from .pieces import Spec
from .programs import Pi4bError, Unavailable
from .rootfs import Tree
from .time_model import Counts, Formula

SCHEMA = "edge-pi4b/1"
TOLERANCE = 0.02
"""How much more than the baseline a region may cost. Two counts of one program differ by less than a thousandth."""
_L1_MATTERS = {"infer": 0.01, "decode": 0.3, "resize": 0.3, "winners": 0.3}
_L2_MATTERS, _MISSES_MATTER_MS = 0.01, 0.3
"""More misses count as worse from this part of the region's modelled time on, and from these milliseconds.

Where buffers happen to lie in memory moves the L1 misses of a decode: between trees in two folders by up to five times,
and its time by up to 17 %. Its L2 misses hardly move, nor do a network's of either."""

_START_S, _PHOTO_S, _IMAGE_S = 60, 60, 150
"""After so long counting is given up: seconds for the imports, each step of a photo, each image of a network.

Several times what the dearest take on one busy core: 24 megapixels decoded in full, MobileOne-S4 at 224 px."""


@dataclass(frozen=True)
class Cost:
    """One region, counted."""

    kind: str  # as `Region.kind`
    name: str  # of the photo or of the model file
    batch: int  # images per call of the network
    counted: Mapping[str, int]  # what the counter wrote, by name

    @property
    def label(self) -> str:
        """Unique within one count."""
        return f"{self.kind} {self.name}" + (f" batch {self.batch}" if self.kind == "infer" else "")

    @property
    def counts(self) -> Counts:
        """What the model of times takes."""
        return Counts.of(self.counted)

    def as_json(self) -> dict[str, Any]:
        """For a results file."""
        return {"kind": self.kind, "name": self.name, "batch": self.batch, **self.counted}


def count_regions(tree: Tree, spec: Spec) -> list[Cost]:
    """Counts the regions of a spec in a tree, once each, with the packages that run here.

    Raises:
      Pi4bError: a program is absent, or a region failed, or all took far longer than they should.
    """
    num_photos = len(spec.photos) * (3 if spec.winners else 2)
    timeout_s = _START_S + _PHOTO_S * num_photos + _IMAGE_S * len(spec.models) * sum(spec.batches)
    with TemporaryDirectory() as scratch:
        request, counted = Path(scratch) / "spec.json", Path(scratch) / "counts"
        request.write_text(json.dumps(asdict(spec)))
        here = {"PYTHONPATH": str(own_packages(tree.root.parent))}
        argv = ["-m", "bench.pi4b.pieces", str(request)]
        result = run(tree, argv, env=here, timeout_s=timeout_s, count=counted)
        if result.returncode:
            said = programs.last_line(result.stderr)
            raise Pi4bError(f"counting failed under emulation with {result.returncode}: {said}")
        counts = read_counts(counted)
    regions = map(json.loads, result.stdout.splitlines())
    return [Cost(kind, Path(path).name, batch, counts[tag]) for tag, (kind, path, batch) in enumerate(regions)]


def check(tree: Tree) -> None:
    """Says before the work that nothing can be counted on this machine.

    Raises:
      Unavailable: addresses cannot be fixed, or QEMU refuses the counter for its age.
      Pi4bError: it cannot load the counter, or run Python, for another reason.
    """
    programs.require_fixed_addresses()
    with TemporaryDirectory() as scratch:
        result = run(tree, ["-c", ""], timeout_s=120, count=Path(scratch) / "counts")
    if not result.returncode:
        return
    said, version = programs.last_line(result.stderr), programs.qemu_version()
    if "API version" in said:  # Source: QEMU, plugins/loader.c
        raise Unavailable(f"QEMU {version} refuses the counter, which was made for 7 to 10: {said}")
    raise Pi4bError(f"nothing can be counted with QEMU {version}, which gave {result.returncode}: {said}")


def own_packages(folder: Path) -> Path:
    """A folder in which the packages that run here, and nothing else, can be imported: others are not arm64's."""
    targets = {package.__name__: str(Path(package.__path__[0]).resolve()) for package in (edge, bench)}

    def link(part: Path) -> None:
        for name, target in targets.items():
            (part / name).symlink_to(target)

    return layers.layer(folder, "packages", targets, link)


@contextmanager
def reading(path: Path, what: str, damaged: str) -> Iterator[None]:
    """Turns what goes wrong while a JSON file is read and looked through into one line, an EdgeError."""
    try:
        yield
    except OSError as error:
        raise EdgeError(f"{path}: {what} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EdgeError(f"{path}: damaged {damaged}: {type(error).__name__} {error}") from error


def read_costs(path: Path) -> tuple[dict[str, Any], list[Cost]]:
    """A results file and the regions in it.

    Raises:
      EdgeError: no such file, or another kind of file.
    """
    with reading(path, "counts", "results of edge-bench pi4b"):
        result = json.loads(path.read_bytes())
        if not isinstance(result, dict) or result.get("schema") != SCHEMA:
            raise EdgeError(f"{path}: no results of edge-bench pi4b, expected JSON with the schema {SCHEMA}")
        costs = [_cost(dict(region)) for region in result["regions"]]
        for what in ("versions", "models", "photos"):
            if not isinstance(result[what], dict) or not all(isinstance(v, str) for v in result[what].values()):
                raise TypeError(f"{what}: expected names and values")
        if not costs:
            raise ValueError("there is no region")
        ((label, number),) = Counter(cost.label for cost in costs).most_common(1)
        if number > 1:
            raise ValueError(f"{label[:80]} is there twice")
    return result, costs


def compare(before: Sequence[Cost], after: Sequence[Cost], formula: Formula) -> Iterator[str]:
    """One line for everything that got worse: over 2 % more instructions, or misses of a cache where they matter.

    Also for a region that is gone, or new, so that nothing would watch it.
    """
    found, known = ({cost.label: cost for cost in costs} for costs in (after, before))
    yield from (f"{label}: not in the baseline, which has to be made anew" for label in found if label not in known)
    for label, old in known.items():
        if label not in found:
            yield f"{label}: not counted any more"
            continue
        then, now = old.counts, found[label].counts
        before_ms = formula.ms(then)
        # Of the new L1 misses only as many as go on to memory.
        l1_misses = then.l1_misses + max(0, min(now.l1_misses - then.l1_misses, now.l2_misses - then.l2_misses))
        waits_ms = formula.ms(replace(now, instructions=then.instructions, simd=then.simd)) - before_ms
        memory_ms = formula.ms(replace(then, l1_misses=l1_misses, l2_misses=now.l2_misses)) - before_ms
        looked_at = [("instructions", then.instructions, now.instructions)]
        if waits_ms > max(_MISSES_MATTER_MS, _L1_MATTERS[old.kind] * before_ms):
            looked_at.append(("L1 misses", then.l1_misses, now.l1_misses))
        if memory_ms > max(_MISSES_MATTER_MS, _L2_MATTERS * before_ms):
            looked_at.append(("L2 misses", then.l2_misses, now.l2_misses))
        for what, a, b in looked_at:
            if b > a * (1 + TOLERANCE):
                yield f"{label}: {what}, {b:,.0f} against {a:,.0f}, {b / max(a, 1) - 1:+.1%}"


def _cost(region: dict[str, Any]) -> Cost:
    kind, name, batch = region["kind"], region["name"], region["batch"]
    counted = {key: value for key, value in region.items() if type(value) is int and key != "batch"}
    if kind not in (*_L1_MATTERS,) or not isinstance(name, str) or type(batch) is not int:
        raise ValueError("a region of no known kind, or without a name or a batch size")
    cost = Cost(kind, name, batch, counted)
    terms = astuple(cost.counts)  # also: every count that the model takes is there
    if not (0 < terms[0] and all(0 <= term < 2**63 for term in terms)):
        raise ValueError(f"{cost.label[:80]}: a count is negative, or larger than any counter")
    return cost
