"""The tables of results, as Markdown, of evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from bench.metrics.contest import left_out
from bench.metrics.counts import NO_ANSWER
from bench.metrics.evaluation import Metric
from bench.results.compare import SAME
from edge.errors import EdgeError

from .evidence import Evidence, RunRecord, read_record
from .panel import Panel
from .protocol import Folder, load

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of `edge-infer --min-confidence`."""

_FIGURES = {
    "accuracy": "accuracy",
    "balanced accuracy": "balanced_accuracy",
    "fairness": "score.fairness",
    "total of 2/3": "score.total_of_two_thirds",
    "worst group": "fairness.worst_group",
}
_PARITY = {"U": "fairness.u_l1", "PQD": "fairness.pqd", "DPM": "fairness.dpm", "EOM": "fairness.eom"}
_RUN_COLUMNS = (
    "configuration", "seed", "folds", "made by", "steps", "images seen", "hours", "begun with", "taught by", "commit",
    "PyTorch", "machine",
)
_DIFFERENCES = _FIGURES | {"PQD": "fairness.pqd"}


def markdown(path: Path) -> str:
    """All tables of a folder of evidence.

    Raises:
      EdgeError: damaged evidence, or of other classes than the data has.
      DatasetError: no manifest that can be used.
      EdgeError: no such reference group.
    """
    folder = load(path)
    panel = Panel(folder)
    lines = [f"# Results on {path.resolve().name}", "", *_introduction(folder, panel)]
    sections = {"Figures": _figures(folder, panel)}
    if folder.protocol.differences:
        sections["Differences"] = _differences(folder, panel)
    if any(len(seeds) > 1 for seeds in folder.configurations.values()):
        sections["Seeds"] = _seeds(folder, panel)
    if folder.protocol.coverage:
        sections["Accuracy against coverage"] = _coverage(folder, panel)
    sections["Runs"] = _runs(folder)
    for title, section in sections.items():
        lines += ["", f"## {title}", "", *section]
    return "".join(f"{line}\n" for line in lines)


def cell(metric: Metric, *, sign: str = "") -> str:
    """Value and interval to three decimals; "-" for what is not defined."""
    if metric["value"] is None:
        return "-"
    ends = "" if metric["low"] is None else f" [{metric['low']:{sign}.3f}, {metric['high']:{sign}.3f}]"
    return f"{metric['value']:{sign}.3f}{ends}"


def difference_cell(metric: Metric) -> str:
    """As `cell`, signed, and with words where the interval includes 0."""
    is_same = metric["low"] is not None and metric["low"] <= 0 <= metric["high"]
    return cell(metric, sign="+") + (f" {SAME}" if is_same else "")


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield f"| {' | '.join(columns)} |"
    yield "| --- |" + " --- |" * (len(columns) - 1)
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _introduction(folder: Folder, panel: Panel) -> Iterator[str]:
    samples, protocol = folder.samples, folder.protocol
    yield "Made by `make results` from the files beside it, not to be edited. [What it shows](../../results.md)."
    yield ""
    groups = ", ".join(_groups(folder))
    num_clusters = len({sample.cluster for sample in samples})
    yield f"{len(samples)} images, {num_clusters} clusters, groups {groups}; the contest's fairness"
    excluded = _listed("; in no comparison of groups: ", left_out(_groups(folder), protocol.exclude))
    masked = _listed("; masked, as the data has none: ", protocol.mask)
    yield f"compares with {panel.reference}{excluded}{masked}."
    yield "Intervals: 95 %, bootstrap over clusters, of the mean over seeds; of recall and of rates against coverage"
    yield "Wilson's."


def _figures(folder: Folder, panel: Panel) -> Iterator[str]:
    groups = _groups(folder)
    contest, parity, by_group = [], [], []
    shown = {*_FIGURES.values(), *_PARITY.values(), "by_group.accuracy"}
    for name, seeds in folder.configurations.items():
        found, present = panel.measure(name, shown)
        figures = [cell(found.metric(metric)) for metric in _FIGURES.values()]
        contest.append([name, str(len(seeds[0].paths)), str(len(seeds)), *figures])
        parity.append([name, *(cell(found.metric(metric)) for metric in _PARITY.values())])
        by_group.append([name, *(
            cell(found.of_group("by_group.accuracy", present.index(group))) if group in present else "-"
            for group in groups
        )])
    yield from markdown_table(["configuration", "images", "seeds", *_FIGURES], contest)
    yield from _warnings(folder)
    yield ""
    yield from markdown_table(["configuration", *_PARITY], parity)
    yield ""
    yield from markdown_table(["accuracy", *groups], by_group)
    yield ""
    yield from _recalls(folder, panel)


def _recalls(folder: Folder, panel: Panel) -> Iterator[str]:
    classes = sorted({sample.label for sample in folder.samples})
    rows = []
    for name in folder.configurations:
        data, _ = panel.pooled(name)
        is_right = data.y_true == data.y_pred
        of_class = [data.y_true == data.classes.index(label) for label in classes]
        rows.append([name, *(cell(data.rate(is_right, chosen)) for chosen in of_class)])
    yield from markdown_table(["recall", *classes], rows)


def _warnings(folder: Folder) -> Iterator[str]:
    if len({len(seeds[0].paths) for seeds in folder.configurations.values()}) > 1:
        yield ""
        yield "Rows with other numbers of images are of other folds: the differences below compare the same images."


def _differences(folder: Folder, panel: Panel) -> Iterator[str]:
    rows = []
    for a, b in folder.protocol.differences:
        changes, num_images = panel.difference(a, b, _DIFFERENCES.values())
        cells = [difference_cell(change) for change in changes.values()]
        rows.append([f"{b} minus {a}", str(num_images), *cells])
    yield from markdown_table(["difference", "images", *_DIFFERENCES], rows)


def _seeds(folder: Folder, panel: Panel) -> Iterator[str]:
    seeds_of = {name: [evidence.seed for evidence in seeds] for name, seeds in folder.configurations.items()}
    rows = []
    for name, seeds in seeds_of.items():
        if len(seeds) > 1:
            num_images = str(len(folder.configurations[name][0].paths))
            for seed, values in panel.of_seeds(name).items():
                cells = (_value(values[metric]) for metric in _DIFFERENCES.values())
                rows.append([name, num_images, str(seed), *cells])
    for a, b in folder.protocol.differences:
        if max(len(seeds_of[a]), len(seeds_of[b])) > 1:
            paths = panel.common_paths(a, b)
            first, second = panel.of_seeds(a, paths), panel.of_seeds(b, paths)
            for seed in seeds_of[max(a, b, key=lambda name: len(seeds_of[name]))]:
                of_a, of_b = _of_seed(first, seed), _of_seed(second, seed)
                changes = (of_b[metric] - of_a[metric] for metric in _DIFFERENCES.values())
                cells = (_value(change, sign="+") for change in changes)
                rows.append([f"{b} minus {a}", str(len(paths)), str(seed), *cells])
    yield from markdown_table(["configuration", "images", "seed", *_DIFFERENCES], rows)
    yield ""
    yield "What each seed gave by itself, which the intervals above know nothing of. A side without that seed stands"
    yield "with the mean of those it has. Two recipes have nothing but the number of a seed in common."


def _of_seed(seeds: Mapping[int, Mapping[str, np.ndarray]], seed: int) -> Mapping[str, np.ndarray]:
    if seed in seeds:
        return seeds[seed]
    return {metric: np.mean([seeds[other][metric] for other in seeds]) for metric in _DIFFERENCES.values()}


def _value(value: np.ndarray, *, sign: str = "") -> str:
    return "-" if np.isnan(value) else f"{value:{sign}.3f}"


def _coverage(folder: Folder, panel: Panel) -> Iterator[str]:
    groups = _groups(folder)
    rows = []
    for name in folder.protocol.coverage:
        data, confidence = panel.pooled(name)
        is_right = data.y_true == data.y_pred
        for threshold in THRESHOLDS:
            answered = (confidence >= threshold) & (data.y_pred != NO_ANSWER)
            cells = [cell(data.rate(answered)), cell(data.rate(is_right, answered))]
            for group in groups:
                own = data.group == (data.groups.index(group) if group in data.groups else -1)
                rates = data.rate(is_right, own & answered), data.rate(answered, own)
                cells.append(" of ".join("-" if r["value"] is None else f"{r['value']:.3f}" for r in rates))
            rows.append([name, f"{threshold:g}", *cells])
    yield from markdown_table(["configuration", "`--min-confidence`", "coverage", "accuracy", *groups], rows)
    yield ""
    yield "Accuracy is of the images that got an answer; for each group it stands before their share. A threshold that"
    yield "silences one group more than another is unfair in its own way. Confidences are at the temperature fitted on"
    yield "the other folds; as trained where there is none."


def _runs(folder: Folder) -> Iterator[str]:
    known = _known_runs(folder.path)
    rows = [
        [name, str(evidence.seed), *_run_cells(evidence, known)]
        for name, seeds in folder.configurations.items()
        for evidence in seeds
    ]
    yield from markdown_table(_RUN_COLUMNS, rows)
    yield ""
    yield "Steps and images seen are of each run, hours of all folds together. \"-\": the run does not tell."


def _run_cells(evidence: Evidence, known: dict[str, str]) -> list[str]:
    def each(value: Callable[[RunRecord], object]) -> str:
        return ", ".join(dict.fromkeys(str(value(run)) for run in evidence.runs))

    def origin(sha256: str | None, otherwise: str) -> str:
        return otherwise if sha256 is None else known.get(sha256, sha256[:12])

    seconds = [run.seconds for run in evidence.runs if run.seconds is not None]
    return [
        each(lambda run: run.fold),
        f"`{evidence.command}`",
        each(lambda run: run.steps or "-"),
        each(lambda run: run.images_seen or "-"),
        f"{sum(seconds) / 3600:.1f}" if len(seconds) == len(evidence.runs) else "-",
        each(lambda run: origin(run.weights_sha256, "-" if evidence.config is None else "random weights")),
        each(lambda run: origin(run.teacher_sha256, "-")),
        each(lambda run: "-" if run.commit is None else run.commit[:7] + "+" * run.commit.endswith("+")),
        each(lambda run: run.pytorch or "-"),
        each(lambda run: run.machine or "-"),
    ]


def _known_runs(path: Path) -> dict[str, str]:
    """What runs began with or were taught by -> which run that is, of all evidence beside this folder."""
    known: dict[str, str] = {}
    for file in sorted(path.resolve().parent.glob("*/*_seed*.json")):
        with suppress(EdgeError, KeyError):  # what is damaged there is reported by its own tables
            record = read_record(file)
            for run in record["runs"]:
                text = f"{file.parent.name} {record['configuration']} seed {record['seed']} fold {run.fold}"
                for mark in {run.checkpoint_sha256, run.identity} - {None}:
                    known.setdefault(mark, text)  # a set before its parts, which are named SET-PART
    return known


def _groups(folder: Folder) -> list[str]:
    return sorted({sample.group for sample in folder.samples})


def _listed(text: str, names: Sequence[str]) -> str:
    return text + ", ".join(names) if names else ""
