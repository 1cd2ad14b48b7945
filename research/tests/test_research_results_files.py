import json

import pytest
from sample_evidence import evidence_of, folder_of, samples_of

from bench.cli import main as bench
from research import protocol
from research.__main__ import main
from research.panel import Panel


def test_results_are_the_figures_of_the_tables(tmp_path):
    samples = samples_of(300)
    folder = folder_of(tmp_path / "set", samples, [evidence_of(samples, num_folds=3)], configurations=["plain"])
    loaded = protocol.load(folder)
    (stem, result), = Panel(loaded).results()
    figures = {
        "accuracy": result["accuracy"],
        "balanced_accuracy": result["balanced_accuracy"],
        "fairness.pqd": result["fairness"]["pqd"],
        "score.total_of_two_thirds": result["score"]["total_of_two_thirds"],
    }
    found, _ = Panel(loaded).measure("plain", figures)
    assert stem == "1-plain_seed0" and result["data"]["samples"] == 300 and result["data"]["left_out"] == 0
    for name, measured in figures.items():
        assert measured["value"] == pytest.approx(found.metric(name)["value"], abs=1e-12)


def test_files_sorted_by_name_are_in_the_order_of_the_protocol(tmp_path, monkeypatch):
    samples, names = samples_of(60), [*"jihgfedcba"]
    folder = folder_of(tmp_path / "set", samples, [evidence_of(samples, name) for name in names])
    monkeypatch.setattr("research.panel.Panel._result", lambda *_: {})
    stems = sorted(stem for stem, _ in Panel(protocol.load(folder)).results())
    assert [stem.split("-")[1] for stem in stems] == [f"{name}_seed0" for name in names]


def test_a_masked_class_is_no_answer(tmp_path):
    samples = [sample for sample in samples_of(300) if sample.label != "ash"]
    folder = folder_of(
        tmp_path / "set", samples, [evidence_of(samples, num_folds=3)], configurations=["plain"], mask=["ash"]
    )
    (_, result), = Panel(protocol.load(folder)).results()
    assert "ash" not in result["classes"] and len(result["classes"]) == 2
    assert sum(map(sum, result["confusion_matrix"])) == len(samples)


def test_the_page_takes_them(tmp_path, capsys):
    pytest.importorskip("jinja2")
    samples = samples_of(300)
    folder = folder_of(tmp_path / "set", samples, [evidence_of(samples, num_folds=3)], configurations=["plain"])
    out = tmp_path / "results"
    assert main(["tables", str(folder), "--results", str(out)]) == 0
    assert main(["tables", str(folder), "--results", str(out)]) == 2
    assert "1-plain_seed0.json" in capsys.readouterr().err
    assert bench(["report", str(out / "1-plain_seed0.json"), "-o", str(tmp_path / "page"), "-q"]) == 0
    accuracy = json.loads((out / "1-plain_seed0.json").read_text())["accuracy"]["value"]
    assert f"{accuracy:.3f}" in (tmp_path / "page" / "index.html").read_text()
