"""Paired comparison: against a naive paired bootstrap, on planted differences, and on what must not be compared."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli import main
from bench.dataset import Sample
from bench.metrics import contest
from bench.metrics.evaluation import Setting
from bench.metrics.meaning import DOWN, LEGEND
from bench.results import build, compare, document
from edge.errors import EdgeError
from edge.predictions import Prediction

CLASSES = ["BCC", "MEL", "NV"]
SIZES = {"G6": 400, "G7": 300, "G8": 300, "G10": 200}


def result_of(accuracies: dict[str, float], **changes: Any) -> dict[str, Any]:
    """A model that is right on the same images as others of the same data, but for a share of them, `noise`."""
    return copy.deepcopy(made(tuple(accuracies.values()), **changes))


@cache
def made(
    of_groups: tuple[float, ...], *, seed: int, noise: float = 0.1, profile: str = "esfair2023", draws: int = 50
) -> dict[str, Any]:
    ease, rng, accuracies = np.random.default_rng(0), np.random.default_rng(seed), dict(zip(SIZES, of_groups))
    pairs = []
    for group, size in SIZES.items():
        for i in range(size):
            label, easy, own = int(ease.integers(0, 3)), ease.random(), rng.random()
            draw = own if rng.random() < noise else easy
            guess = label if draw < accuracies[group] else (label + 1) % 3
            path = f"{group}/{CLASSES[label]}/{i}.jpg"
            prediction = Prediction(path, CLASSES[guess], guess, 0.9)
            pairs.append((Sample(path, CLASSES[label], group, path), prediction))
    setting = Setting(contest.PROFILES[profile], "G10", draws=draws)
    return {"schema": document.SCHEMA, "predictions": {}, **build.metrics(pairs, CLASSES, setting)}


def flat(accuracy: float) -> dict[str, float]:
    return dict.fromkeys(SIZES, accuracy)


def test_equal_models_differ_by_nothing() -> None:
    a = result_of(flat(0.8), seed=1)
    found = compare.compare(a, copy.deepcopy(a), draws=200)
    for entry in (*found["metrics"].values(), *found["by_group"].values()):
        assert entry["difference"]["value"] == 0 and entry["difference"]["low"] == entry["difference"]["high"] == 0
        assert entry["verdict"] == "no difference shown"
    assert found["changed"]["only_a_right"] == found["changed"]["only_b_right"] == 0
    assert found["levelling_down"] == {"flag": False, "groups": []}


def test_noise_is_no_difference_and_a_better_model_is_one() -> None:
    a, b, c = (result_of(flat(accuracy), seed=seed) for accuracy, seed in ((0.8, 1), (0.8, 4), (0.825, 3)))
    assert compare.compare(a, b)["metrics"]["accuracy"]["verdict"] == "no difference shown"
    better = compare.compare(a, c)
    assert better["metrics"]["accuracy"]["verdict"] == "B better"
    assert compare.compare(c, a)["metrics"]["accuracy"]["verdict"] == "B worse"
    # Unpaired, the two intervals overlap: what they share is what makes the comparison sharp.
    assert a["accuracy"]["high"] > c["accuracy"]["low"]


def test_the_paired_interval_is_that_of_a_naive_bootstrap() -> None:
    a, b = result_of(flat(0.8), seed=1), result_of({**flat(0.8), "G10": 0.7}, seed=2)
    found = compare.compare(a, b)["metrics"]
    right = [np.array([s == p for s, p in zip(r["samples"]["label"], r["samples"]["prediction"])]) for r in (a, b)]
    group = np.array(a["samples"]["group"])
    members = {name: np.flatnonzero(group == name) for name in SIZES}
    rng = np.random.default_rng(0)

    def spd(hits: np.ndarray) -> float:
        start, acc = 0, []
        for size in SIZES.values():
            acc.append(hits[start : start + size].mean())
            start += size
        return float(np.abs(np.array(acc) - acc[-1]).mean())

    accuracy, gaps = [], []
    for _ in range(2000):
        drawn = np.concatenate([own[rng.integers(0, len(own), len(own))] for own in members.values()])
        accuracy.append(right[1][drawn].mean() - right[0][drawn].mean())
        gaps.append(spd(right[1][drawn]) - spd(right[0][drawn]))
    for name, draws, value in (
        ("accuracy", accuracy, right[1].mean() - right[0].mean()),
        ("fairness.spd_accuracy", gaps, spd(right[1]) - spd(right[0])),
    ):
        difference = found[name]["difference"]
        assert difference["value"] == pytest.approx(value)
        low, high = np.quantile(draws, (0.025, 0.975)) - (np.mean(draws) - value)
        assert (difference["low"], difference["high"]) == pytest.approx((low, high), abs=0.003)


def test_values_are_those_of_the_results() -> None:
    for profile in contest.PROFILES:
        a, b = (result_of(flat(0.8), seed=seed, profile=profile) for seed in (1, 2))
        found = compare.compare(a, b, draws=50)["metrics"]
        for name in ("fairness", "total_of_two_thirds", "accuracy"):
            ends = found[f"score.{name}"]
            assert (ends["a"], ends["b"]) == (a["score"][name]["value"], b["score"][name]["value"])
        assert found["fairness.eom"]["b"] == b["fairness"]["eom"]["value"]


def test_order_of_the_samples_does_not_matter() -> None:
    a, b = result_of(flat(0.8), seed=1), result_of(flat(0.85), seed=2)
    turned = copy.deepcopy(b)
    for column in turned["samples"].values():
        column.reverse()
    assert compare.compare(a, turned, draws=200) == compare.compare(a, b, draws=200)


def test_levelling_down_is_flagged() -> None:
    a = result_of({**flat(0.9), "G10": 0.75}, seed=1)
    b = result_of(flat(0.75), seed=2)  # as bad for everyone
    found = compare.compare(a, b)
    assert found["metrics"]["score.fairness"]["verdict"] == "B better"
    assert found["levelling_down"]["flag"] and found["levelling_down"]["groups"] == ["G6", "G7", "G8"]
    assert any("levelling down: B is fairer, and worse for G6, G7, G8" in line for line in compare.remarks(found))
    up = compare.compare(a, result_of(flat(0.9), seed=3))
    assert up["metrics"]["score.fairness"]["verdict"] == "B better" and not up["levelling_down"]["flag"]


def test_latencies_make_a_total() -> None:
    a, b = result_of(flat(0.8), seed=1), result_of(flat(0.8), seed=1)
    for result, value in ((a, 0.9), (b, 0.96)):
        result["score"]["latency"] = {"value": value, "low": None, "high": None, "n": 100}
    total = compare.compare(a, b, draws=200)["metrics"]["score.total"]
    assert total["difference"]["value"] == pytest.approx(0.02)
    assert total["a"] == pytest.approx(a["score"]["total_of_two_thirds"]["value"] + 0.3)
    assert total["verdict"] == "B better"


def test_a_tiny_group_leaves_parity_open() -> None:
    a, b = (result_of(flat(0.8), seed=seed) for seed in (1, 2))
    for result in (a, b):
        keep = [i for i, group in enumerate(result["samples"]["group"]) if group != "G7" or i % 60 == 0]
        result["samples"] = {name: [column[i] for i in keep] for name, column in result["samples"].items()}
    found = compare.compare(a, b)
    assert found["metrics"]["score.fairness"]["verdict"] == "not known: too few images"
    assert found["by_group"]["G7"]["verdict"] == "not known: too few images"
    assert found["metrics"]["accuracy"]["verdict"] == "no difference shown"


# What is refused


def change(result: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(result)
    part = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("samples", "path", 0), "x.jpg", "1 of 1200 images are in the first result alone, first G6/"),
        (("samples", "path", 0), "G6/again", "expected the same images in both"),
        (("samples", "label", 3), "MEL2", "got label '[A-Z]+' in the first result and 'MEL2' in the second"),
        (("samples", "group", 3), "G8", "got group 'G6' in the first result and 'G8' in the second"),
        (("samples", "cluster", 3), "p", "got cluster"),
        (("samples", "prediction", 3), "DF", "got the class 'DF', expected one of BCC, MEL, NV"),
        (("score", "profile"), "esfair2023-page", "got profile 'esfair2023' in the first result and 'esfair2023-page'"),
        (("score", "reference_group"), "G6", "got reference group 'G10' in the first result and 'G6'"),
        (("score", "excluded_groups"), ["G6"], "got excluded groups"),
    ],
)
def test_what_is_not_of_the_same_images_is_refused(path: tuple[Any, ...], value: Any, message: str) -> None:
    a = result_of(flat(0.8), seed=1)
    with pytest.raises(EdgeError, match=message):
        compare.compare(a, change(a, *path, value=value))


def test_a_path_twice_is_refused() -> None:
    a = result_of(flat(0.8), seed=1)
    twice = change(a, "samples", "path", 0, value=a["samples"]["path"][1])
    with pytest.raises(EdgeError, match="the first result has a path twice"):
        compare.compare(twice, a)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("path,label\n", "r.json: not JSON .*, expected the JSON of `edge-bench score -o`"),
        ("[]", "got schema 'list', expected 'edge-bench/1'"),
        ('{"schema": "edge-predictions/1"}', "got schema 'edge-predictions/1'"),
        ('{"schema": "edge-bench/1", "latency": {}}', "has no samples, expected the JSON of `edge-bench score -o`"),
        ('{"schema": "edge-bench/1", "samples": {"path": []}, "score": {}, "classes": []}', "samples.group: expected"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_load_refuses(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    with pytest.raises(EdgeError, match=message):
        document.load(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("samples", "status"), [], "expected equally many of each, at least one"),
        (("samples", "path", 0), ["a"], "samples.path: expected a list of texts"),
        (("samples", "label"), "NV", "samples.label: expected a list of texts"),
        (("score", "profile"), ["esfair2023"], r"got profile \['esfair2023'\], expected one of"),
        (("score", "reference_group"), None, r"got reference_group \[None\], expected names"),
        (("score", "excluded_groups"), None, "got excluded_groups None, expected names"),
        (("score", "excluded_groups"), ["G10"], "'G10' is both the reference and excluded"),
        (("classes",), 5, "got classes 5, expected names"),
    ],
)
def test_load_refuses_what_was_edited(path: tuple[Any, ...], value: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(change(result_of(flat(0.8), seed=1), *path, value=value)))
    with pytest.raises(EdgeError, match=message):
        document.load(tmp_path / "r.json")


def test_a_damaged_part_is_one_line() -> None:
    a = change(result_of(flat(0.8), seed=1), "score", "latency", value={"value": "x"})
    with pytest.raises(EdgeError, match="not as `edge-bench score` writes them: TypeError"):
        compare.compare(a, a)


def test_load_refuses_a_profile_of_another_version(tmp_path: Path) -> None:
    a = change(result_of(flat(0.8), seed=1), "score", "profile", value="esfair2031")
    (tmp_path / "r.json").write_text(json.dumps(a))
    with pytest.raises(EdgeError, match="got profile 'esfair2031', expected one of esfair2023, "):
        document.load(tmp_path / "r.json")


# The command


def test_compare_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, accuracy in (("a", 0.8), ("b", 0.86)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result_of(flat(accuracy), seed=ord(name))))
    arguments = ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "-o", str(tmp_path / "c.json")]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[:2] == ["A = a.json, B = b.json", LEGEND]
    assert lines[2].split() == ["A", "B", "B", "-", "A", "95", "%", "interval"]
    assert lines[3].startswith("accuracy") and lines[3].endswith("B better")
    assert any(line.startswith("fairness") and line.endswith("no difference shown") for line in lines)
    assert "right in A alone:" in captured.err
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["schema"], found["a"], found["b"]) == ("edge-bench/1", "a.json", "b.json")
    assert main(["show", str(tmp_path / "c.json")]) == 0
    assert capsys.readouterr().out == captured.out
    assert main([*arguments[:3], "-o", str(tmp_path / "b.json"), "--force"]) == 2
    assert "b.json: is an input, expected another output" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "exists already (--force replaces it)" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "c.json")]) == 3
    assert "has no samples" in capsys.readouterr().err


def test_one_sentence_says_whether_b_may_replace_a(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    a, c = result_of(flat(0.8), seed=1), result_of(flat(0.95), seed=3)
    b = copy.deepcopy(a)
    same, better, worse = compare.compare(a, b), compare.compare(a, c), compare.compare(c, a)
    assert compare.conclusion(same).startswith("no difference is shown in any of 19 figures; by the gate, B may ")
    assert "; by the gate, B may replace A (it refuses a total" in compare.conclusion(same)
    assert compare.conclusion(better).startswith("B is shown better in accuracy, ")
    assert "; by the gate, B may replace A" in compare.conclusion(better)
    assert compare.conclusion(worse).startswith("B is shown worse in accuracy, ")
    assert "; by the gate, B may not replace A (total of two thirds: -" in compare.conclusion(worse)
    few = {name: part[:9] for name, part in a["samples"].items()}
    tiny = compare.compare({**a, "samples": few}, {**a, "samples": few})
    assert "too few images for the gate to say whether B may replace A" in compare.conclusion(tiny)
    (tmp_path / "c.json").write_text(json.dumps({**same, "a": "a.json", "b": "b.json"}))
    assert main(["show", str(tmp_path / "c.json")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "A = a.json, B = b.json" and shown[-1] == compare.conclusion(same)
    assert any(line.startswith("gap  ") and f" {DOWN} " in line for line in shown)


def judged(total: tuple[Any, ...], **groups: tuple[Any, ...]) -> dict[str, Any]:
    def entry(value: Any, low: Any, high: Any, n: int = 1000) -> dict[str, Any]:
        return {"difference": {"value": value, "low": low, "high": high, "n": n}}

    by_group = {name: entry(*values) for name, values in groups.items()}
    return {"metrics": {"score.total_of_two_thirds": entry(*total)}, "by_group": by_group}


@pytest.mark.parametrize(
    ("result", "num_failures"),
    [
        (judged((-0.02, -0.04, -0.0031)), 1),
        (judged((-0.02, -0.04, -0.0029)), 0),
        (judged((None, None, None)), 0),
        (judged((0.0, 0.0, 0.0), g=(-0.02, -0.03, -0.011, 100)), 1),
        (judged((0.0, 0.0, 0.0), g=(-0.02, -0.03, -0.011, 99)), 0),
        (judged((0.0, 0.0, 0.0), g=(-0.02, -0.05, 0.001, 500)), 0),
        (judged((0.0, 0.0, 0.0), g=(-0.0099, -0.012, -0.007, 500)), 0),
        (judged((0.0, 0.0, 0.0), g=(-0.02, -0.05, -1e-5, 100)), 0),  # an end at 0, moved by the bootstrap's own error
        (judged((0.0, 0.0, 0.0), **{"not stated": (-0.3, -0.5, -0.2, 500)}), 0),
        (judged((-0.1, -0.2, -0.05), g=(-0.3, -0.5, -0.2), h=(-0.1, -0.2, -0.05)), 3),
    ],
)
def test_gate(result: dict[str, Any], num_failures: int) -> None:
    failures = compare.reasons_against(result)
    assert len(failures) == num_failures and all("\n" not in line for line in failures)


@pytest.mark.slow
def test_models_without_a_difference_are_told_apart_one_time_in_twenty() -> None:
    told = {"accuracy": 0, "score.fairness": 0, "fairness.spd_accuracy": 0}
    for seed in range(200):
        a, b = (result_of(flat(0.85), seed=2 * seed + k, noise=1.0, draws=2) for k in (1, 2))
        found = compare.compare(a, b, draws=500, seed=seed)["metrics"]
        for name in told:
            told[name] += found[name]["verdict"] != "no difference shown"
    assert all(times <= 20 for times in told.values()), told  # 10 of 200 expected, sd 3
