"""The tables say what a naive computation says, of the images they say it of."""

import re
from dataclasses import replace

import numpy as np
import pytest
from sample_evidence import CLASSES, evidence_of, folder_of, samples_of

from bench.metrics import contest
from bench.metrics.evaluation import Setting
from bench.results import build, compare, document
from edge.errors import EdgeError
from edge.predictions import Prediction
from research.__main__ import main
from research.evidence import RunRecord, write
from research.panel import Panel
from research.protocol import load
from research.tables import cell, difference_cell, markdown

SAMPLES = samples_of()
LABELS = np.array([CLASSES.index(sample.label) for sample in SAMPLES])
GROUPS = np.array([sample.group for sample in SAMPLES])


def panel_of(path, several, **protocol):
    return Panel(load(folder_of(path, SAMPLES, several, **protocol)))


def result_of(found):
    """What `edge-bench score` says of the same predictions."""
    pairs = []
    for path, row in zip(found.paths, found.probabilities):
        sample = next(sample for sample in SAMPLES if sample.path == path)
        best = int(row.argmax())
        pairs.append((sample, Prediction(path, CLASSES[best], best, float(row[best]))))
    setting = Setting(contest.PROFILES["esfair2023"], "g1")
    return {"schema": document.SCHEMA, **build.metrics(pairs, CLASSES, setting)}


def accuracy(found, chosen=slice(None)):
    return (found.ppm.argmax(1) == LABELS)[chosen].mean()


def test_one_seed_is_what_score_and_compare_say(tmp_path):
    a, b = evidence_of(SAMPLES, "a"), evidence_of(SAMPLES, "b", skill=2.0)
    panel = panel_of(tmp_path, [a, b], reference="g1")
    first, second = result_of(a), result_of(b)
    parities = ("u_l1", "pqd", "dpm", "eom", "worst_group")
    shown = ["balanced_accuracy", "score.fairness", *(f"fairness.{name}" for name in parities)]
    found, groups = panel.measure("a", shown)
    assert groups == ["g1", "g2", "g3"]
    assert found.metric("balanced_accuracy") == first["balanced_accuracy"]
    assert found.metric("score.fairness") == first["score"]["fairness"]
    for name in parities:
        metric = found.metric(f"fairness.{name}")
        assert metric == {key: first["fairness"][name][key] for key in metric}
    changes, n = panel.difference("a", "b", ["accuracy", "score.total_of_two_thirds", "fairness.pqd"])
    assert n == len(SAMPLES)
    expected = compare.compare(first, second)["metrics"]
    for name, change in changes.items():
        assert change == pytest.approx(expected[name]["difference"] | {"n": n})


def test_several_seeds_count_by_the_mean_of_the_metric_and_share_the_images(tmp_path):
    seeds = [evidence_of(SAMPLES, "a", seed=seed) for seed in range(3)]
    panel = panel_of(tmp_path, seeds, reference="g1")
    found, _ = panel.measure("a", ["accuracy", "score.fairness"])
    assert found.metric("accuracy")["value"] == pytest.approx(np.mean([accuracy(one) for one in seeds]))
    fairness = [result_of(one)["score"]["fairness"]["value"] for one in seeds]
    assert found.metric("score.fairness")["value"] == pytest.approx(np.mean(fairness))
    # Three times the same answers are no more certain than one.
    same = [evidence_of(SAMPLES, "a", seed=7), replace(evidence_of(SAMPLES, "a", seed=7), seed=8)]
    alone, _ = panel_of(tmp_path / "one", same[:1], reference="g1").measure("a", ["accuracy"])
    twice, _ = panel_of(tmp_path / "two", same, reference="g1").measure("a", ["accuracy"])
    widths = [m["high"] - m["low"] for m in (alone.metric("accuracy"), twice.metric("accuracy"))]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_each_seed_is_told_where_there_are_several(tmp_path):
    a = [evidence_of(SAMPLES, "a", seed=seed) for seed in range(2)]
    b = [evidence_of(SAMPLES, "b", seed=seed, skill=2.0) for seed in range(2)]
    c = first_folds(evidence_of(SAMPLES, "c", seed=1), 1)
    several, pairs = [*a, *b, c], [["a", "b"], ["a", "c"]]
    folder = folder_of(tmp_path / "three", SAMPLES, several, reference="g1", differences=pairs)
    section = markdown(folder).split("## Seeds")[1].split("## Runs")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    expected = [("a", accuracy(one)) for one in a] + [("b", accuracy(one)) for one in b]
    expected += [("b minus a", accuracy(other) - accuracy(one)) for one, other in zip(a, b)]
    kept = np.flatnonzero(np.isin([sample.path for sample in SAMPLES], c.paths))
    only = (c.ppm.argmax(1) == LABELS[kept]).mean()  # of the one seed it has, on the images it has
    expected += [("c minus a", only - accuracy(one, kept)) for one in a]
    num_images = [len(SAMPLES)] * 6 + [len(kept)] * 2
    assert [tuple(row[:3]) for row in rows] == [
        (name, str(n), str(i % 2)) for i, ((name, _), n) in enumerate(zip(expected, num_images))
    ]
    assert [float(row[3]) for row in rows] == pytest.approx([value for _, value in expected], abs=5.1e-4)
    assert all(row[3].startswith(("+", "-")) for row in rows[-4:])
    assert "## Seeds" not in markdown(folder_of(tmp_path / "one", SAMPLES, a[:1], reference="g1"))


def first_folds(found, num_folds, **changes):
    rows = np.flatnonzero(found.folds < num_folds)
    return replace(
        found,
        runs=[RunRecord(fold, int((found.folds == fold).sum())) for fold in range(num_folds)],
        paths=[found.paths[row] for row in rows], folds=found.folds[rows], ppm=found.ppm[rows], **changes,
    )


def test_a_difference_is_of_the_images_both_have(tmp_path):
    two = evidence_of(SAMPLES, "a", skill=1.0)
    five = evidence_of(SAMPLES, "b", num_folds=5, skill=2.0)
    rows = np.flatnonzero(five.folds < 2)
    ladder = first_folds(five, 2, configuration="ladder")
    panel = panel_of(tmp_path, [two, ladder])
    changes, n = panel.difference("a", "ladder", ["accuracy"])
    assert n == len(rows) < len(SAMPLES)
    assert changes["accuracy"]["value"] == pytest.approx(accuracy(five, rows) - accuracy(two, rows))
    text = markdown(tmp_path)
    assert "Rows with other numbers of images are of other folds" in text
    assert f"| ladder | {n} | 1 |" in text


def test_a_masked_class_is_never_the_answer_and_an_excluded_group_is_in_no_comparison(tmp_path):
    samples = [sample for sample in SAMPLES if sample.label != "Cedar"]
    whole = evidence_of(SAMPLES)
    rows = [i for i, sample in enumerate(SAMPLES) if sample.label != "Cedar"]
    folds = whole.folds[rows]
    kept = replace(
        whole, paths=[whole.paths[i] for i in rows], folds=folds, ppm=whole.ppm[rows],
        runs=[RunRecord(fold, int((folds == fold).sum())) for fold in range(2)],
    )
    folder = folder_of(tmp_path, samples, [kept], mask=["Cedar"], exclude=["g3"])
    panel = Panel(load(folder))
    right = kept.ppm[:, :2].argmax(1) == LABELS[rows]
    found, groups = panel.measure("plain", ["accuracy", "fairness.worst_group", "by_group.accuracy"])
    assert found.metric("accuracy")["value"] == pytest.approx(right.mean())
    by_group = [right[GROUPS[rows] == group].mean() for group in ("g1", "g2")]
    assert found.metric("fairness.worst_group")["value"] == pytest.approx(min(by_group))
    assert found.of_group("by_group.accuracy", groups.index("g3"))["n"] == (GROUPS[rows] == "g3").sum()
    text = markdown(folder)
    assert "in no comparison of groups: g3; masked, as the data has none: Cedar." in text
    with pytest.raises(EdgeError, match="the data has the class 'Cedar'"):
        panel_of(tmp_path / "wrong", [whole], mask=["Cedar"]).measure("plain", ["accuracy"])


def test_coverage_is_counted_at_the_temperature_of_the_other_folds(tmp_path):
    found = evidence_of(SAMPLES, skill=1.5)
    found = replace(found, runs=[RunRecord(0, 120, temperature=2.0), RunRecord(1, 120, temperature=0.5)])
    folder = folder_of(tmp_path, SAMPLES, [found], coverage=["plain"])
    data, confidence = Panel(load(folder)).pooled("plain")
    for fold, temperature in ((0, 0.5), (1, 2.0)):
        p = found.probabilities[found.folds == fold] ** (1 / temperature)
        np.testing.assert_allclose(confidence[found.folds == fold], p.max(1) / p.sum(1))
    row = next(line for line in markdown(folder).splitlines() if line.startswith("| plain | 0.7 |"))
    cells = [text.strip() for text in row.split("|")[3:-1]]
    answered, right = confidence >= 0.7, found.ppm.argmax(1) == LABELS
    assert 0.1 < answered.mean() < 0.9
    assert cells[0].startswith(f"{answered.mean():.3f} [") and cells[1].startswith(f"{right[answered].mean():.3f} [")
    own = GROUPS == "g2"
    assert cells[3] == f"{right[own & answered].mean():.3f} of {answered[own].mean():.3f}"
    assert (data.y_pred == found.ppm.argmax(1)).all()


def test_runs_are_told_by_their_records_and_origins_by_their_hashes(tmp_path):
    figures = {"steps": 10, "images_seen": 640, "seconds": 3600.0, "commit": "0123456789+"}
    first = RunRecord(0, 120, checkpoint_sha256="c" * 64, **figures)
    base = evidence_of(SAMPLES, "base", config={"any": 1}, runs=[first, replace(first, fold=1, machine="a, 2 cores")])
    folder_of(tmp_path / "old", SAMPLES, [base])
    folder_of(tmp_path / "old-part", SAMPLES, [replace(base, configuration="part")])  # the set itself is named
    later = RunRecord(0, 120, weights_sha256="c" * 64, teacher_sha256="d" * 64)
    tuned = evidence_of(SAMPLES, "tuned", config={"any": 1}, runs=[later, replace(later, fold=1)])
    folder_of(tmp_path / "new", SAMPLES, [tuned])
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "x_seed0.json").write_text("{")  # its own tables tell
    text = markdown(tmp_path / "old")
    row = "| base | 0 | 0, 1 | `nothing was run` | 10 | 640 | 2.0 | random weights | - | 0123456+ | - | -, a, 2 cores |"
    assert row in text
    assert f"| - | - | - | old base seed 0 fold 0 | {'d' * 12} | - | - | - |" in markdown(tmp_path / "new")


def test_the_command_writes_what_it_prints_and_nothing_where_it_may_not(tmp_path, capsys):
    a, b = evidence_of(SAMPLES, "a"), evidence_of(SAMPLES, "b")
    folder = folder_of(tmp_path, SAMPLES, [a, b], differences=[["a", "b"]], coverage=["b"])
    assert main(["tables", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert re.findall("^## .*", printed, re.MULTILINE) == [
        "## Figures", "## Differences", "## Accuracy against coverage", "## Runs",
    ]
    assert "| b minus a | 240 | +0.000 [+0.000, +0.000] no difference shown |" in printed
    assert main(["tables", str(folder), "-o", str(folder / "tables.md")]) == 0
    assert (folder / "tables.md").read_text() == printed
    assert main(["tables", str(folder), "-o", str(folder / "tables.md")]) == 2
    assert main(["tables", str(folder), "-o", str(folder / "tables.md"), "--force"]) == 0
    assert main(["tables", str(folder), "-o", str(folder / "a_seed0.csv.gz"), "--force"]) == 2
    assert main(["tables", str(folder), "-o", str(folder / "manifest.csv"), "--force"]) == 2
    assert main(["tables", str(tmp_path / "absent")]) == 3


def test_cells():
    assert cell({"value": 0.5, "low": 0.25, "high": 0.75}) == "0.500 [0.250, 0.750]"
    assert cell({"value": 0.5, "low": None, "high": None}) == "0.500"
    assert cell({"value": None, "low": None, "high": None}) == "-"
    assert difference_cell({"value": 0.1, "low": 0.05, "high": 0.2}) == "+0.100 [+0.050, +0.200]"
    assert difference_cell({"value": 0.1, "low": -0.05, "high": 0.2}).endswith("no difference shown")


def test_configurations_without_an_image_or_class_in_common_are_not_compared(tmp_path):
    a = evidence_of(SAMPLES[:120], "a")
    b = evidence_of(SAMPLES[120:], "b")
    panel = panel_of(tmp_path, [a, b])
    with pytest.raises(EdgeError, match="no image in common"):
        panel.difference("a", "b", ["accuracy"])
    four = replace(a, configuration="c", classes=[*CLASSES, "oak"], ppm=np.pad(a.ppm, ((0, 0), (0, 1))))
    write(tmp_path / "four", SAMPLES, four, force=False)
    with pytest.raises(EdgeError, match="have other classes"):
        panel_of(tmp_path / "four", [a], configurations=["a", "c"]).difference("a", "c", ["accuracy"])
