"""Judgement of a folder of evidence: configurations by the mean over their seeds, on the images they have.

The images are drawn once for all seeds, and for both sides of a difference: an interval says what other images would
change. Of what other seeds would change it knows nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from bench.dataset import malignant_classes
from bench.metrics import contest, fairness
from bench.metrics.evaluation import Frame, Intervals, Metric, Observations, Setting
from bench.metrics.interval import bootstrap_interval, null_of
from bench.metrics.paired import joint_draws
from bench.results import build, document
from edge.errors import EdgeError
from edge.predictions import Prediction

from .evidence import Evidence
from .protocol import Folder


class Panel:
    """The configurations of a folder under its protocol."""

    def __init__(self, folder: Folder) -> None:
        """Settles which groups are compared.

        Raises:
          EdgeError: no such group.
        """
        protocol, profile = folder.protocol, contest.PROFILES[contest.DEFAULT]
        groups = (sample.group for sample in folder.samples)
        self._folder = folder
        self._sample_of = {sample.path: sample for sample in folder.samples}
        self.reference = contest.reference_group(
            groups, profile=profile, wanted=protocol.reference, excluded=protocol.exclude
        )
        """Group that the contest's SPD compares against."""
        self.setting = Setting(
            profile, self.reference, protocol.exclude, malignant=malignant_classes(folder.samples)
        )
        """What the figures are computed with."""

    def measure(self, name: str, metrics: Collection[str]) -> tuple[Intervals, list[str]]:
        """These metrics, named as in `Frame.statistics`, of a configuration; and the groups that its images are of."""
        data = self.observe(name)
        frame = Frame(data[0].counts, data[0].groups, self.setting)
        values = _mean([frame.statistics(one.counts) for one in data])
        draws = _mean(joint_draws(data, [frame] * len(data), names=metrics))
        # The null is of one network: for a mean over seeds it is wider than it need be.
        return Intervals(frame, values, draws, null_of(data[0], frame, values)), data[0].groups

    def of_seeds(self, name: str, paths: Sequence[str] | None = None) -> dict[int, dict[str, np.ndarray]]:
        """Seed -> its metrics, by their names, on these images; default: on all that the configuration has.

        Raises:
          EdgeError: as for `observe`.
        """
        data = self.observe(name, paths)
        frame = Frame(data[0].counts, data[0].groups, self.setting)
        seeds = (evidence.seed for evidence in self._folder.configurations[name])
        return {seed: frame.statistics(one.counts) for seed, one in zip(seeds, data, strict=True)}

    def common_paths(self, a: str, b: str) -> list[str]:
        """Of the images that both configurations have, in the order of a's.

        Raises:
          EdgeError: other classes, or no image in common.
        """
        first, second = (self._folder.configurations[name][0] for name in (a, b))
        if {*self.classes(first)} != {*self.classes(second)}:
            raise EdgeError(f"{self._folder.path}: {a} and {b} have other classes, expected the same")
        common = {*second.paths}
        paths = [path for path in first.paths if path in common]
        if not paths:
            raise EdgeError(f"{self._folder.path}: {a} and {b} have no image in common, expected some")
        return paths

    def difference(self, a: str, b: str, metrics: Collection[str]) -> tuple[dict[str, Metric], int]:
        """These metrics of b minus those of a, by their names, on the images both have; and how many these are.

        Raises:
          EdgeError: other classes, or no image in common.
        """
        paths = self.common_paths(a, b)
        sides = [self.observe(name, paths) for name in (a, b)]
        models = [*sides[0], *sides[1]]
        frame = Frame(models[0].counts, models[0].groups, self.setting)
        drawn = joint_draws(models, [frame] * len(models), names=metrics)
        draws = [_mean(drawn[: len(sides[0])]), _mean(drawn[len(sides[0]) :])]
        values = [_mean([frame.statistics(one.counts) for one in side]) for side in sides]
        is_known = frame.sizes[frame.compared].min() >= fairness.MIN_CELL

        def metric(name: str) -> Metric:
            value = float(values[1][name] - values[0][name])
            found = bootstrap_interval(value, draws[1][name] - draws[0][name]) if is_known else None
            low, high = found or (None, None)
            return {"value": None if np.isnan(value) else value, "low": low, "high": high, "n": len(paths)}

        return {name: metric(name) for name in metrics}, len(paths)

    def observe(self, name: str, paths: Sequence[str] | None = None) -> list[Observations]:
        """For each seed the answers to these images; default: to all that it has.

        Raises:
          EdgeError: the data has a class that the model does not know, or that is masked.
        """
        seeds = self._folder.configurations[name]
        paths = seeds[0].paths if paths is None else paths
        row_of = {path: row for row, path in enumerate(seeds[0].paths)}
        rows, samples = [row_of[path] for path in paths], [self._sample_of[path] for path in paths]
        classes, found = self.classes(seeds[0]), []
        if unknown := sorted({sample.label for sample in samples} - {*classes}):
            expected = f"expected one of {', '.join(classes)}, which {name} knows"
            raise EdgeError(f"{self._folder.path}: the data has the class {unknown[0]!r}, {expected}")
        for evidence in seeds:
            p = self.masked(evidence)[rows]
            best, has_any = p.argmax(1), p.max(1) > 0
            answers = [classes[index] if answered else None for index, answered in zip(best, has_any)]
            found.append(Observations.of(
                [s.label for s in samples], answers, [s.group for s in samples], [s.cluster for s in samples],
                classes=classes, reference=self.reference,
            ))
        return found

    def pooled(self, name: str) -> tuple[Observations, np.ndarray]:
        """All seeds as one, an image there once for each in the one cluster it has; and (N,) float64 confidences."""
        data, seeds = self.observe(name), self._folder.configurations[name]
        names = ("y_true", "y_pred", "group", "cluster")
        columns = (np.concatenate([getattr(one, column) for one in data]) for column in names)
        confidence = np.concatenate([self._confidence(evidence) for evidence in seeds])
        return Observations(data[0].classes, data[0].groups, *columns), confidence

    def _confidence(self, evidence: Evidence) -> np.ndarray:
        """(N,) float64: probability of the answer, at the temperature that the other folds were fitted with."""
        exponent = np.ones(len(evidence.folds))
        for run in evidence.runs:
            others = [other.temperature for other in evidence.runs if other.fold != run.fold and other.temperature]
            if others:
                exponent[evidence.folds == run.fold] = 1 / np.exp(np.log(others).mean())
        p = self.masked(evidence) ** exponent[:, None]
        return np.asarray(p.max(1) / np.maximum(p.sum(1), np.finfo(np.float64).tiny))

    def results(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The results of every configuration and seed as `edge-bench score` writes them, for `edge-bench report`.

        Probabilities are as collected: temperatures of the other folds are not applied, which moves no answer.

        Yields:
          A name, "2-NAME_seed0" ("02-" of ten and more) for the second in the protocol's order, so that files sorted
          by name, as a page has them, are in that order too; and its results.

        Raises:
          EdgeError: the data has a class that the model does not know, or that is masked.
        """
        width = len(str(len(self._folder.configurations)))
        for number, seeds in enumerate(self._folder.configurations.values(), start=1):
            for evidence in seeds:
                yield f"{number:0{width}}-{evidence.stem}", self._result(evidence)

    def _result(self, evidence: Evidence) -> dict[str, Any]:
        classes, p = self.classes(evidence), self.masked(evidence)
        p = p / np.maximum(p.sum(1, keepdims=True), np.finfo(np.float64).tiny)
        pairs = []
        for path, row in zip(evidence.paths, p, strict=True):
            answer = int(row.argmax())
            prediction = Prediction(path, classes[answer], answer, float(row[answer]), probabilities=row)
            pairs.append((self._sample_of[path], prediction))
        num_samples = len(self._folder.samples)
        return {
            "schema": document.SCHEMA,
            "data": {
                "name": evidence.data,
                "label_column": evidence.label_column,
                "group_column": evidence.group_column,
                "split": None,
                "samples": num_samples,
                "left_out": num_samples - len(pairs),
            },
            "predictions": {},
            "errors": {"policy": "wrong", "images": 0},
            **build.metrics(pairs, classes, self.setting),
            "gates": [],
        }

    def classes(self, evidence: Evidence) -> list[str]:
        """The model's classes that can be the answer."""
        return [name for name in evidence.classes if name not in self._folder.protocol.mask]

    def masked(self, evidence: Evidence) -> np.ndarray:
        """(N, classes left) float64 probabilities, which may add up to less than 1."""
        return evidence.probabilities[:, [name not in self._folder.protocol.mask for name in evidence.classes]]


def _mean(several: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.mean([one[name] for one in several], axis=0) for name in several[0]}
