"""What makes a data set flatter a network: pictures and clusters in two parts, and classes that no lesion betrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.dataset import DatasetError, Sample
from edge.photo.decode import stored_size

from ..data.images import load_images
from .duplicates import LOOK, Fingerprints, Pair, find_pairs, fingerprint

_NUM_FOLDS = 5
_NUM_PERMUTATIONS = 99
_NUM_BINS = 8
_MIN_GAIN = 0.02
_MIN_BALANCED_GAIN = 0.05
_MAX_P_VALUE = 0.01
_BORDER_PX = 8
_NUM_EXAMPLES = 20
_WORDS = {"file": "pairs of one file", "pixels": "pairs of the same pixels", "near": "near-duplicate pairs"}
_CURES = {
    "group": "each group has another mix of classes: judge by recall and by the gap at equal mix, not by accuracy",
    "image size": "the classes differ in size: train with --recipe lite, where pictures lose pixels at random, "
    "and test on pictures of one source",
    "file size": "the classes differ in size, compression or detail: save all pictures alike, or train with --recipe "
    "lite, whose blur and JPEG hide that, and test on pictures of one source",
    "border colour": "the surroundings give the class away: train with --resize crop or --p-bars 0.3, or cut them off",
}
"""What to do where a feature gives the class away."""
_CURE_OF_LEAKS = (
    "give the pictures of a pair one name in the column cluster of a manifest.csv, or take one of them out; "
    "then make the folds again"
)


@dataclass(frozen=True)
class Finding:
    """One kind of leak, or of what may become one."""

    name: str
    count: int  # of pairs of pictures, or of clusters
    is_leak: bool
    examples: list[list[str]]  # up to 20, each the two paths, or the cluster and two paths

    @property
    def text(self) -> str:
        """The finding in words, with its first example."""
        return f"{self.count} {self.name}, e.g. {' = '.join(self.examples[0])}"


@dataclass(frozen=True)
class Probe:
    """How well the class can be guessed from something that is no lesion, on the first picture of each cluster."""

    feature: str
    accuracy: float  # on clusters not fitted on
    majority: float  # share of the commonest class: what a constant answer reaches
    p_value: float  # of as good an accuracy with permuted classes
    balanced_accuracy: float  # mean recall with all classes equally common: sees what a very common class hides
    balanced_p_value: float
    num_classes: int  # a constant answer has a balanced accuracy of 1 / this
    n: int  # clusters
    is_shortcut: bool  # one of the two accuracies is clearly above both the constant answer and chance


@dataclass(frozen=True)
class Pictures:
    """A data set with what the audit looks at."""

    name: str
    samples: list[Sample]
    prints: Fingerprints
    features: dict[str, np.ndarray]  # (N, F) float64 each


@dataclass(frozen=True)
class Audit:
    """What an audit found; as a dictionary it is JSON-ready."""

    images: int
    flat: int  # images too flat to compare by looks
    alike_by_hash_alone: int  # pairs whose hashes agree but whose slopes do not: different lesions mostly
    findings: list[Finding]
    probes: list[Probe]

    @property
    def lines(self) -> list[str]:
        """The audit for a person."""
        lines = [f"{'LEAK' if finding.is_leak else 'note'}: {finding.text}" for finding in self.findings]
        leaks = sum(finding.is_leak for finding in self.findings)
        lines += [f"LEAK: {_CURE_OF_LEAKS}"] if leaks else []
        for p in self.probes:
            plain = f"{p.accuracy:.3f}, constant answer {p.majority:.3f}, p {p.p_value:.2f}"
            constant = f"constant {1 / p.num_classes:.3f}, p {p.balanced_p_value:.2f}"
            mark = "SHORTCUT" if p.is_shortcut else "fine"
            lines.append(f"class from {p.feature:13s} {plain}; balanced {p.balanced_accuracy:.3f}, {constant}: {mark}")
        found = [p.feature for p in self.probes if p.is_shortcut]
        if found:
            lines.append("SHORTCUT: what is no lesion tells the class, so that a network may learn it instead")
        lines += [f"  {feature}: {_CURES[feature]}" for feature in found]
        seen = f"{self.images} images, {self.flat} too flat to compare by looks"
        alike = f"{self.alike_by_hash_alone} pairs of different pictures with alike hashes"
        return [*lines, f"{seen}, {alike}, {leaks} kinds of leak"]


def load(root: Path, samples: list[Sample], *, quiet: bool = False) -> Pictures:
    """Decodes a data set with the runtime's own preprocessing at 128 px.

    Raises:
      DatasetError: an image cannot be used.
    """
    images = load_images(root, samples, LOOK, quiet=quiet)
    for path, reason in images.unusable.items():
        raise DatasetError(f"{root / path}: {reason}; take it out of the data set to audit the rest")
    is_border = np.ones(images.pixels.shape[1:3], bool)
    is_border[_BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX] = False
    groups = sorted({sample.group for sample in samples})
    files = [root / sample.path for sample in samples]
    features = {
        "group": np.array([[float(sample.group == group) for group in groups] for sample in samples]),
        "image size": np.array([stored_size(file) for file in files], float),
        "file size": np.array([[float(file.stat().st_size)] for file in files]),
        "border colour": np.stack([image[is_border].mean(axis=0) for image in images.pixels]),
    }
    prints = fingerprint(root, [sample.path for sample in samples], images.pixels)
    return Pictures(root.resolve().name, samples, prints, features)


def audit(data: Pictures, part_of: Mapping[str, object] | None, external: Sequence[Pictures]) -> Audit:
    """Looks for pictures and clusters on both sides, and for shortcuts.

    Args:
      data: The data set.
      part_of: Path -> its fold or split; None where nothing is split yet: then a picture in two clusters is a leak,
        because no split by clusters would keep it on one side.
      external: Further data sets, as trained on by a teacher.
    """
    clusters = [sample.cluster for sample in data.samples]
    parts = clusters if part_of is None else [str(part_of[sample.path]) for sample in data.samples]
    findings = [] if part_of is None else cut_clusters(data.samples, parts)
    split, kept = [], []
    for pair in find_pairs(data.prints):
        if parts[pair.first] != parts[pair.second]:
            split.append(pair)
        elif clusters[pair.first] != clusters[pair.second]:
            kept.append(pair)
    where = "in two clusters" if part_of is None else "in two parts"
    findings += findings_of(split, data.prints, data.prints, where)
    findings += findings_of(kept, data.prints, data.prints, "in two clusters of one part", is_leak=False)
    num_alike = sum(pair.kind == "alike" for pair in split + kept)
    own = {sample.cluster: sample.path for sample in data.samples if sample.cluster != sample.path}
    for other in external:
        pairs, where = find_pairs(data.prints, other.prints), f"in {other.name} as well"
        findings += findings_of(pairs, data.prints, other.prints, where, prefix=f"{other.name}/")
        num_alike += sum(pair.kind == "alike" for pair in pairs)
        shared = {s.cluster: s.path for s in other.samples if s.cluster in own and s.cluster != s.path}
        if shared:
            examples = [[name, own[name], f"{other.name}/{shared[name]}"] for name in sorted(shared)]
            findings.append(Finding(f"clusters {where}", len(shared), True, examples[:_NUM_EXAMPLES]))
    num_flat = int(data.prints.is_flat.sum())
    return Audit(len(data.samples), num_flat, num_alike, findings, probe(data.samples, data.features))


def findings_of(
    pairs: Sequence[Pair], a: Fingerprints, b: Fingerprints, where: str, *, prefix: str = "", is_leak: bool = True
) -> list[Finding]:
    """Pairs of A's and B's pictures as findings, one a kind; the prefix is for B's paths."""
    findings = []
    for kind, words in _WORDS.items():
        paths = [[a.paths[pair.first], prefix + b.paths[pair.second]] for pair in pairs if pair.kind == kind]
        if paths:
            findings.append(Finding(f"{words} {where}", len(paths), is_leak, paths[:_NUM_EXAMPLES]))
    return findings


def cut_clusters(samples: Sequence[Sample], parts: Sequence[object]) -> list[Finding]:
    """Clusters with pictures in two parts: one finding or none."""
    first: dict[str, int] = {}
    cut: dict[str, list[str]] = {}
    for i, sample in enumerate(samples):
        j = first.setdefault(sample.cluster, i)
        if parts[i] != parts[j]:
            cut.setdefault(sample.cluster, [sample.cluster, samples[j].path, sample.path])
    return [Finding("clusters in two parts", len(cut), True, list(cut.values())[:_NUM_EXAMPLES])] if cut else []


def probe(samples: Sequence[Sample], features: Mapping[str, np.ndarray]) -> list[Probe]:
    """Guesses the class from each feature: least squares on indicators of its octiles, cross-validated.

    One picture per cluster, so that neither the folds nor the permutations cut one.
    """
    chosen = np.array(sorted({sample.cluster: i for i, sample in reversed(list(enumerate(samples)))}.values()))
    names = sorted({sample.label for sample in samples})
    labels = np.array([names.index(samples[i].label) for i in chosen])
    if len(chosen) < 2 * _NUM_FOLDS:
        return []
    rng = np.random.default_rng(0)
    fold = rng.permutation(len(chosen)) % _NUM_FOLDS
    orders = [np.arange(len(chosen)), *(rng.permutation(len(chosen)) for _ in range(_NUM_PERMUTATIONS))]
    counts = np.bincount(labels, minlength=len(names))
    share = counts / len(labels)
    majority, constant = float(share.max()), 1 / len(names)
    probes = []
    for feature, values in features.items():
        x = _indicators(values[chosen])
        hits, balanced = np.zeros((2, len(orders)))
        for k in range(_NUM_FOLDS):
            fitted, kept = x[fold != k], x[fold == k]
            solve = np.linalg.solve(fitted.T @ fitted + 1e-3 * np.eye(x.shape[1]), fitted.T)  # (F, N)
            for r, order in enumerate(orders):
                targets = np.eye(len(names))[labels[order]]
                scores, truth = kept @ (solve @ targets[fold != k]), labels[order][fold == k]  # of P(class | feature)
                hits[r] += (scores.argmax(axis=1) == truth).sum()
                is_right = (scores / share).argmax(axis=1) == truth
                balanced[r] += (is_right / counts[truth]).sum() / len(names)
        p, balanced_p = (float((values >= values[0] - 1e-9).sum() / len(orders)) for values in (hits, balanced))
        accuracy, balanced_accuracy = float(hits[0] / len(labels)), float(balanced[0])
        is_shortcut = (p <= _MAX_P_VALUE and accuracy - majority >= _MIN_GAIN) or (
            balanced_p <= _MAX_P_VALUE and balanced_accuracy - constant >= _MIN_BALANCED_GAIN
        )
        figures = (accuracy, majority, p, balanced_accuracy, balanced_p)
        probes.append(Probe(feature, *figures, len(names), len(labels), is_shortcut))
    return probes


def _indicators(values: np.ndarray) -> np.ndarray:
    """(N, F) -> (N, B) of 0 and 1: each column's octiles, and a constant. No shape of dependence is assumed."""
    columns = [np.ones(len(values))]
    for column in values.T:
        edges = np.unique(np.quantile(column, np.linspace(0, 1, _NUM_BINS + 1)[1:], method="lower"))
        bins = np.searchsorted(edges, column)
        columns += [(bins == b).astype(float) for b in range(len(edges))]
    return np.stack(columns, axis=1)
