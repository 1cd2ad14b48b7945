"""What makes a data set flatter a network: pictures and clusters in two parts, and classes told by no lesion."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.dataset import DatasetError, Sample
from edge.device import usable_cores
from edge.errors import DecodeError
from edge.photo.preprocess import Preprocess
from edge.progress import Progress

from .duplicates import Fingerprints, find_pairs, fingerprint

LOOK = Preprocess(size_px=128, resize="stretch")
"""How pictures are compared: no letterbox bars, so that the border is the picture's own."""

_NUM_FOLDS = 5
_NUM_PERMUTATIONS = 99
_NUM_BINS = 8
_MIN_GAIN = 0.02
_MIN_BALANCED_GAIN = 0.05
_BORDER_PX = 8


@dataclass(frozen=True)
class Finding:
    """One kind of leak, or of what may become one."""

    name: str
    count: int
    """Pairs of pictures, or clusters."""
    is_leak: bool
    examples: list[list[str]]
    """Up to 20, each the two paths, or the cluster and two paths."""

    @property
    def line(self) -> str:
        """The finding in words, with its first example."""
        return f"{'LEAK' if self.is_leak else 'note'}: {self.count} {self.name}, e.g. {' = '.join(self.examples[0])}"


@dataclass(frozen=True)
class Probe:
    """How well a class is told from something that is no lesion."""

    feature: str
    accuracy: float
    """On clusters not fitted on."""
    majority: float
    """Share of the commonest class: what a constant answer reaches."""
    p_value: float
    """Of as good an accuracy with permuted classes."""
    balanced_accuracy: float
    """Mean recall when every class is taken as equally common: sees what a very common class hides."""
    balanced_p_value: float
    """The same for it."""
    num_classes: int
    """A constant answer has a balanced accuracy of 1 / this."""
    n: int
    """Clusters; the first picture of each counts."""

    @property
    def is_shortcut(self) -> bool:
        """Whether one of the two accuracies is clearly above both the constant answer and chance."""
        plain = self.p_value <= 0.01 and self.accuracy - self.majority >= _MIN_GAIN
        gain = self.balanced_accuracy - 1 / self.num_classes
        return plain or (self.balanced_p_value <= 0.01 and gain >= _MIN_BALANCED_GAIN)


@dataclass(frozen=True)
class Pictures:
    """A data set with what the audit looks at."""

    name: str
    samples: list[Sample]
    prints: Fingerprints
    features: dict[str, np.ndarray]
    """Feature -> (N, F) float64."""


def load(root: Path, samples: list[Sample], *, quiet: bool = False) -> Pictures:
    """Decodes a data set with the runtime's own preprocessing at 128 px.

    Raises:
      DatasetError: an image cannot be used.
    """
    preprocess = LOOK
    images = np.empty((len(samples), 128, 128, 3), np.uint8)
    sizes = np.empty((len(samples), 2))
    progress = Progress(len(samples), quiet=quiet)

    def read(i: int) -> None:
        loaded = preprocess.load(root / samples[i].path, out=images[i])
        sizes[i] = loaded.width, loaded.height

    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for done, _ in enumerate(pool.map(read, range(len(samples))), start=1):
                progress.update(done)
    except DecodeError as error:
        raise DatasetError(f"{error}; take it out of the data set to audit the rest") from error
    finally:
        progress.close()
    is_border = np.ones((128, 128), bool)
    is_border[_BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX] = False
    groups = sorted({sample.group for sample in samples})
    features = {
        "group": np.array([[float(sample.group == group) for group in groups] for sample in samples]),
        "image size": sizes,
        "file size": np.array([[float((root / sample.path).stat().st_size)] for sample in samples]),
        "border colour": np.stack([image[is_border].mean(axis=0) for image in images]),
    }
    return Pictures(root.resolve().name, samples, fingerprint(root, [s.path for s in samples], images), features)


def find_leaks(
    data: Pictures, part_of: Mapping[str, object] | None, external: Sequence[Pictures]
) -> tuple[list[Finding], int]:
    """Looks for pictures and clusters on both sides.

    Args:
      data: The data set.
      part_of: Path -> its fold or split; None where nothing is split yet: then a picture in two clusters is a leak,
        because no split by clusters would keep it on one side.
      external: Further data sets, as trained on by a teacher.

    Returns:
      The findings, and the number of pairs whose hashes agree but whose slopes do not: different lesions mostly.
    """
    samples = data.samples
    clusters = np.array([sample.cluster for sample in samples])
    parts = clusters if part_of is None else np.array([str(part_of[sample.path]) for sample in samples])

    def is_apart(i: int, others: np.ndarray) -> np.ndarray:
        return np.asarray((clusters[others] != clusters[i]) | (parts[others] != parts[i]))

    findings = []
    if part_of is not None:
        findings += cut_clusters(samples, parts)
    pairs, num_alike = _pairs(data, data, "", lambda i, j: bool(parts[i] != parts[j]), is_apart)
    where = "in two clusters" if part_of is None else "in two parts"
    findings += [Finding(f"{f.name} {where if f.is_leak else 'in two clusters of one part'}", *_rest(f)) for f in pairs]
    own = {sample.cluster: sample.path for sample in samples if sample.cluster != sample.path}
    for other in external:
        found, more = _pairs(data, other, f"{other.name}/", lambda i, j: True, None)
        num_alike += more
        findings += [Finding(f"{f.name} in {other.name} as well", *_rest(f)) for f in found]
        shared = {s.cluster: s.path for s in other.samples if s.cluster in own and s.cluster != s.path}
        if shared:
            examples = [[name, own[name], f"{other.name}/{shared[name]}"] for name in sorted(shared)]
            findings.append(Finding(f"clusters in {other.name} as well", len(shared), True, examples[:20]))
    return findings, num_alike


def uncut(samples: Sequence[Sample]) -> list[Sample]:
    """The samples without clusters, so that a folds file that cuts one is read, and its leak counted."""
    return [dataclasses.replace(sample, cluster=sample.path) for sample in samples]


def cut_clusters(samples: Sequence[Sample], parts: np.ndarray) -> list[Finding]:
    """Clusters with pictures in two parts: one finding or none."""
    first: dict[str, int] = {}
    cut: dict[str, list[str]] = {}
    for i, sample in enumerate(samples):
        j = first.setdefault(sample.cluster, i)
        if parts[i] != parts[j]:
            cut.setdefault(sample.cluster, [sample.cluster, samples[j].path, sample.path])
    return [Finding("clusters in two parts", len(cut), True, list(cut.values())[:20])] if cut else []


def find_fit_leaks(
    root: Path, seen: Sequence[Sample], seen_images: np.ndarray, held_out: Sequence[Sample], held_images: np.ndarray
) -> list[Finding]:
    """What a training part shares with one held out, both with their (N, 128, 128, 3) pictures by `LOOK`."""
    parts = np.array([0] * len(seen) + [1] * len(held_out))
    findings = cut_clusters([*seen, *held_out], parts)
    prints = [
        fingerprint(root, [sample.path for sample in part], images)
        for part, images in ((seen, seen_images), (held_out, held_images))
    ]
    a, b = (Pictures("", list(part), mark, {}) for part, mark in zip((seen, held_out), prints, strict=True))
    pairs, _ = _pairs(a, b, "", lambda i, j: True, None)
    return findings + [Finding(f"{f.name} in both parts", *_rest(f)) for f in pairs if f.is_leak]


def probe(samples: Sequence[Sample], features: Mapping[str, np.ndarray], *, seed: int = 0) -> list[Probe]:
    """Tells the class from each feature alone: least squares on indicators of its octiles, cross-validated.

    One picture per cluster, so that neither the folds nor the permutations cut one.
    """
    chosen = np.array(sorted({sample.cluster: i for i, sample in reversed(list(enumerate(samples)))}.values()))
    names = sorted({sample.label for sample in samples})
    labels = np.array([names.index(samples[i].label) for i in chosen])
    if len(chosen) < 2 * _NUM_FOLDS:
        return []
    rng = np.random.default_rng(seed)
    fold = rng.permutation(len(chosen)) % _NUM_FOLDS
    orders = [np.arange(len(chosen)), *(rng.permutation(len(chosen)) for _ in range(_NUM_PERMUTATIONS))]
    counts = np.bincount(labels, minlength=len(names))
    share = counts / len(labels)
    probes = []
    for feature, values in features.items():
        x = _indicators(values[chosen])
        hits, balanced = np.zeros(len(orders)), np.zeros(len(orders))
        for k in range(_NUM_FOLDS):
            fitted, kept = x[fold != k], x[fold == k]
            solve = np.linalg.solve(fitted.T @ fitted + 1e-3 * np.eye(x.shape[1]), fitted.T)  # (F, N)
            for r, order in enumerate(orders):
                targets = np.eye(len(names))[labels[order]]
                scores, truth = kept @ (solve @ targets[fold != k]), labels[order][fold == k]  # of P(class | feature)
                hits[r] += (scores.argmax(axis=1) == truth).sum()
                is_right = (scores / share).argmax(axis=1) == truth
                balanced[r] += (is_right / counts[truth]).sum() / len(names)
        p_values = [float((values >= values[0] - 1e-9).sum() / len(orders)) for values in (hits, balanced)]
        accuracy, majority = float(hits[0] / len(labels)), float(share.max())
        probes.append(
            Probe(feature, accuracy, majority, p_values[0], float(balanced[0]), p_values[1], len(names), len(labels))
        )
    return probes


def table(data: Pictures, findings: Sequence[Finding], num_alike: int, probes: Sequence[Probe]) -> list[str]:
    """The audit in lines for a person."""
    lines = [finding.line for finding in findings]
    for p in probes:
        mark = "SHORTCUT" if p.is_shortcut else "fine"
        told = f"class from {p.feature:13s} {p.accuracy:.3f}"
        plain = f"constant answer {p.majority:.3f}, p {p.p_value:.2f}"
        balanced = f"balanced {p.balanced_accuracy:.3f}, constant {1 / p.num_classes:.3f}, p {p.balanced_p_value:.2f}"
        lines.append(f"{told}, {plain}; {balanced}: {mark}")
    flat, leaks = int(data.prints.is_flat.sum()), sum(finding.is_leak for finding in findings)
    seen = f"{len(data.samples)} images, {flat} too flat to compare by looks, {num_alike} pairs alike by hash alone"
    return [*lines, f"{seen}, {leaks} kinds of leak"]


def to_json(
    data: Pictures, findings: Sequence[Finding], num_alike: int, probes: Sequence[Probe]
) -> dict[str, Any]:
    """The audit for a program, JSON-ready."""
    return {
        "images": len(data.samples),
        "flat": int(data.prints.is_flat.sum()),
        "alike_by_hash_alone": num_alike,
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "probes": [{**dataclasses.asdict(p), "is_shortcut": p.is_shortcut} for p in probes],
    }


def _indicators(values: np.ndarray) -> np.ndarray:
    """(N, F) -> (N, B) of 0 and 1: each column's octiles, and a constant. No shape of dependence is assumed."""
    columns = [np.ones(len(values))]
    for column in values.T:
        edges = np.unique(np.quantile(column, np.linspace(0, 1, _NUM_BINS + 1)[1:], method="lower"))
        bins = np.searchsorted(edges, column)
        columns += [(bins == b).astype(float) for b in range(len(edges))]
    return np.stack(columns, axis=1)


def _pairs(
    a: Pictures,
    b: Pictures,
    prefix: str,
    is_leak: Callable[[int, int], bool],
    is_wanted: Callable[[int, np.ndarray], np.ndarray] | None,
) -> tuple[list[Finding], int]:
    found, num_alike = find_pairs(a.prints, None if a is b else b.prints, is_wanted=is_wanted)
    words = {"file": "pairs of one file", "pixels": "pairs of the same pixels", "near": "near-duplicate pairs"}
    gathered: dict[tuple[str, bool], list[list[str]]] = defaultdict(list)
    for pair in found:
        paths = [a.samples[pair.first].path, prefix + b.samples[pair.second].path]
        gathered[pair.kind, is_leak(pair.first, pair.second)].append(paths)
    order = sorted(gathered, key=lambda key: (not key[1], list(words).index(key[0])))
    findings = [Finding(words[key[0]], len(gathered[key]), key[1], gathered[key][:20]) for key in order]
    return findings, num_alike


def _rest(finding: Finding) -> tuple[int, bool, list[list[str]]]:
    return finding.count, finding.is_leak, finding.examples
