"""What run_accuracy.sh runs on the server: every image gets a row; where there are labels, they are scored.

The test set may have labels (`ROOT/<group>/<class>/file`, or a manifest.csv), groups alone (`ROOT/<group>/file`), or
neither. The commands that score are the project's own: edge-infer and edge-bench score.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import cli as bench_cli
from bench import dataset
from edge import cli as edge_cli
from edge.classifier import Classifier
from edge.errors import InputError
from edge.exit import DONE, SOME_FAILED
from edge.output_files import refuse_input, write_output
from edge.predictions import Prediction, read

PREDICTIONS = "predictions.csv"
RESULTS = "results.json"
_LABELLED = "predictions-labelled.csv"


def run(data: Path, model: Path, output: Path, *, profile: str, reference: str, tell: Callable[[str], None]) -> int:
    """Classifies a folder of images and scores it; returns the exit status.

    The folder `output` gets predictions.csv and, with labels, results.json, scored by a `profile` of
    `bench.metrics.contest`; both are replaced. `tell` takes each line for people.

    Raises:
      InputError: no such folder, or a class that the model does not know beside some that it knows.
    """
    if not data.is_dir():
        raise InputError(f"{data}: no such folder, expected DATA_DIR/<group>/<class>/*.jpg")
    output.mkdir(parents=True, exist_ok=True)
    predictions, results = output / PREDICTIONS, output / RESULTS
    for path in (predictions, results, output / _LABELLED):
        refuse_input(path)
    results.unlink(missing_ok=True)  # of another data set, if this one has no labels
    options = ["-m", str(model), "-r", "--probs", "--no-timing", "-q", "-o", str(predictions), "--force"]
    status = edge_cli.main([*options, "--", str(data)])
    if status not in (DONE, SOME_FAILED):
        return status
    rows = read(predictions).rows
    failed = [row for row in rows if row.status == "error"]
    tell(f"{len(rows)} images, {len(failed)} of them could not be used")
    for row in failed[:10]:
        tell(f"  {row.path}: {row.error}")
    classes = Classifier.load(model).classes
    if not (samples := _labelled(data, classes, rows)):
        for line in _unlabelled(rows):
            tell(line)
        return status
    names = {sample.path for sample in samples}
    if strange := sorted({sample.label for sample in samples} - {*classes}):
        raise InputError(
            f"{data}: got class {strange[0]!r}, expected those of the model: {', '.join(classes)}; the predictions are "
            f"in {predictions}"
        )
    if others := [row.path for row in rows if row.path not in names]:
        tell(f"{len(others)} images lie in no class folder and are not scored, as {others[0]}")
    if reference not in (groups := sorted({sample.group for sample in samples})):
        tell(f"no group {reference} among {', '.join(groups)}: compared against the one with the fewest images")
    source = ["--data", str(data), "--", str(predictions)]
    if others:
        source = ["--", str(_keep(samples, rows, classes, output / _LABELLED))]
    if done := bench_cli.main(["score", "--profile", profile, "-o", str(results), "--force", *source]):
        return done
    for line in summary(results):
        tell(line)
    if len(groups) == 1:
        tell(f"{groups[0]} is the only group: there is none to compare it with, so SPD and fairness say nothing")
    return status


def summary(results: Path) -> Iterator[str]:
    """The numbers that the contest asks for, unrounded, of a results file."""
    result = json.loads(results.read_text(encoding="utf-8"))
    contest = result["score"]
    for group, metrics in result["by_group"].items():
        yield f"accuracy {group} = {metrics['accuracy']['value']}"
    yield f"accuracy = {contest['accuracy']['value']}"
    yield f"SPD to {contest['reference_group']} = {contest['spd']['value']}"
    yield f"fairness = {contest['fairness']['value']}"
    yield f"(accuracy + fairness) / 3 = {contest['total_of_two_thirds']['value']}"


def _labelled(data: Path, classes: tuple[str, ...], rows: list[Prediction]) -> list[dataset.Sample]:
    """The samples of a data set with labels; none where no class is one that the model knows."""
    try:
        samples = [dataset.as_text(sample) for sample in dataset.index(data)]
    except dataset.DatasetError:
        if (data / dataset.MANIFEST).exists():
            raise
        # Images at several depths: those in the contest's layout have a label, the others are strays.
        parts = [(row.path, row.path.split("/")) for row in rows]
        samples = [dataset.Sample(path, names[1], names[0], path) for path, names in parts if len(names) == 3]
    return samples if {sample.label for sample in samples} & {*classes} else []


def _unlabelled(rows: list[Prediction]) -> Iterator[str]:
    """How often each class was answered in each group."""
    yield "no labels: predictions alone"
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row.path.split("/")[0] if "/" in row.path else "-"][row.label or "error"] += 1
    for group, answers in sorted(counts.items()):
        yield f"  {group}: " + ", ".join(f"{label} {n}" for label, n in sorted(answers.items()))


def _keep(samples: list[dataset.Sample], rows: list[Prediction], classes: tuple[str, ...], out: Path) -> Path:
    """Writes the answers to these samples with their true classes beside them, as `edge-bench score` takes them."""
    by_path, nothing = {row.path: row for row in rows}, [""] * len(classes)
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    shares_of = [f"prob_{name}" for name in classes]
    writer.writerow(["path", "y_true", "y_pred", dataset.GROUP_COLUMN, "cluster", *shares_of])
    for sample in samples:
        row = by_path.get(sample.path, Prediction(sample.path))
        shares = nothing if row.probabilities is None else row.probabilities.tolist()
        writer.writerow([sample.path, sample.label, row.label, sample.group, sample.cluster, *shares])
    write_output(out, file.getvalue())
    return out
