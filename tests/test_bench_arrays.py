"""The Python interface to the score: the figures of `edge-bench score`, from arrays, lists and columns."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bench import dataset
from bench.arrays import ContestScore, compare, contest_score, evaluate
from bench.metrics.contest import PROFILES
from bench.metrics.evaluation import Setting
from bench.results import build, join
from edge.errors import EdgeError
from edge.predictions import Prediction

CLASSES = ["BCC", "MEL", "NV"]


def columns(n=600, right=0.8, seed=0):
    rng = np.random.default_rng(seed)
    label, group = rng.choice(CLASSES, n), rng.choice(["dark", "light", "medium"], n)
    guess = np.where(rng.random(n) < right, label, rng.choice(CLASSES, n))
    return SimpleNamespace(label=label, guess=guess, group=group, cluster=rng.integers(n // 2, size=n))


def test_the_figures_are_those_of_the_command():
    data = columns()
    pairs = [
        (dataset.Sample(f"{i}.jpg", label, group, f"lesion {own}"), Prediction(f"{i}.jpg", guess, CLASSES.index(guess)))
        for i, (label, guess, group, own) in enumerate(
            zip(data.label, data.guess, data.group, data.cluster, strict=True)
        )
    ]
    assert join.class_order({"classes": CLASSES}, CLASSES, pairs) == CLASSES
    setting = Setting(PROFILES["esfair2023"], "dark", malignant=("BCC", "MEL"), draws=100)
    expected = build.metrics(pairs, CLASSES, setting)
    found = evaluate(
        data.label, data.guess, sensitive_features=data.group, cluster=data.cluster, reference="dark", draws=100
    )
    samples = {**expected.pop("samples"), "path": None, "cluster": None}
    assert {**found.to_dict()["samples"], "path": None, "cluster": None} == samples
    assert {name: found.to_dict()[name] for name in expected} == expected
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()


def test_accuracies_of_groups_are_fairlearns():
    fairlearn = pytest.importorskip("fairlearn.metrics")
    sklearn = pytest.importorskip("sklearn.metrics")
    pandas = pytest.importorskip("pandas")
    data = pandas.DataFrame(vars(columns()))
    metrics = {"accuracy": sklearn.accuracy_score, "balanced_accuracy": sklearn.balanced_accuracy_score}
    frame = fairlearn.MetricFrame(
        metrics=metrics, y_true=data["label"], y_pred=data["guess"], sensitive_features=data["group"]
    )
    found = evaluate(data["label"], data["guess"], sensitive_features=data["group"], draws=50)
    for name in metrics:
        assert found.overall[name] == pytest.approx(frame.overall[name])
        for group in ("dark", "light", "medium"):
            assert found.by_group[group][name] == pytest.approx(frame.by_group[name][group])
    assert found.overall["worst_group"] == pytest.approx(frame.group_min()["accuracy"])
    assert found.overall["gap"] == pytest.approx(frame.difference()["accuracy"])


def test_an_evaluation_reads_as_the_table_of_the_command_and_has_intervals():
    data = columns()
    found = evaluate(data.label, data.guess, sensitive_features=data.group, draws=50)
    assert "accuracy in medium" in repr(found) and "score: fairness" in repr(found)
    assert found._repr_html_().startswith("<pre>") and "accuracy in medium" in found._repr_html_()
    low, high = found.intervals["accuracy"]
    assert low < found.overall["accuracy"] < high
    assert found.overall.keys() == found.intervals.keys()
    assert found.warnings and found.to_dict()["predictions"]["classes"] == CLASSES


def test_the_contests_score_by_hand():
    label, group = ["a"] * 20, ["G10"] * 10 + ["dark"] * 10
    guess = ["a"] * 10 + ["a"] * 8 + ["b"] * 2
    # SPD: the mean over both groups of the distance to G10, (0 + .2) / 2; fairness (.2 - .1) / .2
    found = contest_score(label, guess, sensitive_features=group, seconds_per_100=10)
    assert found == pytest.approx((0.9, 0.5, 0.9, (0.9 + 0.5 + 0.9) / 3))
    assert contest_score(label, guess, sensitive_features=group) == ContestScore(0.9, pytest.approx(0.5), None, None)
    overall = evaluate(label, guess, sensitive_features=group, draws=50).overall
    assert (overall["accuracy"], overall["fairness"]) == pytest.approx(found[:2])
    assert contest_score(label, guess, sensitive_features=["one"] * 20).fairness is None


def test_two_evaluations_are_compared_in_pairs():
    data, better = columns(), columns(right=0.97)
    a = evaluate(data.label, data.guess, sensitive_features=data.group, draws=50)
    b = evaluate(better.label, better.guess, sensitive_features=better.group, draws=50)
    found = compare(a, b, draws=200)
    assert found.verdicts["accuracy"] == "B better" and found.intervals["accuracy"][0] > 0
    assert found.differences["accuracy"] == pytest.approx(b.overall["accuracy"] - a.overall["accuracy"])
    assert "accuracy in dark" in repr(found) and found._repr_html_().startswith("<pre>")
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_what_is_missing_is_no_answer_and_no_group(missing):
    found = evaluate([0, 1, 2, 1], [0, 1, missing, 2], sensitive_features=["a", "a", missing, "b"], draws=20)
    assert found.overall["accuracy"] == 0.5
    assert found.to_dict()["errors"] == {"policy": "wrong", "images": 1}
    assert set(found.by_group) == {"a", "b", "not stated"}
    assert found.to_dict()["classes"] == ["0", "1", "2"]


def test_integers_stay_in_their_order_and_pandas_makes_no_others_of_them():
    pandas = pytest.importorskip("pandas")
    labels = [2, 10, 2, 10]
    found = evaluate(labels, pandas.Series([2, None, 2, 10]), draws=20)  # floats by now
    assert found.to_dict()["classes"] == ["2", "10"] and found.overall["accuracy"] == 0.75
    whole = evaluate(labels, pandas.Series([2, None, 2, 10], dtype="Int64"), draws=20)
    assert whole.overall == found.overall


def test_probabilities_add_the_calibration():
    y_prob = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1], [0.3, 0.7]])
    answers = np.array(["a", "b"])[y_prob.argmax(1)]
    found = evaluate(["a", "b", "b", "b"], answers, y_prob=y_prob, draws=20).to_dict()
    assert found["calibration"]["ece"]["value"] is not None
    assert evaluate(["a", "b"], ["a", "b"], draws=20).to_dict()["calibration"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"y_true": []}, "y_true: got no image"),
        ({"y_true": ["a", None]}, "y_true: got no label at position 1"),
        ({"y_true": [["a"], ["b"]]}, r"y_true: got shape \(2, 1\), expected \(N,\)"),
        ({"y_pred": ["a"]}, "y_pred: got 1 entries, expected 2"),
        ({"sensitive_features": ["x"]}, "sensitive_features: got 1 entries, expected 2"),
        ({"cluster": ["x"] * 3}, "cluster: got 3 entries, expected 2"),
        ({"classes": ["a", "c"]}, "got the label 'b', expected one of classes: a, c"),
        ({"y_prob": [[1, 0]]}, r"y_prob: got shape \(1, 2\), expected \(2, 2\)"),
        ({"y_prob": [[1, 0], [2, 0]]}, "y_prob: got a value outside 0 to 1"),
        ({"profile": "mine"}, "profile: got 'mine', expected one of esfair2023"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(arguments, words):
    with pytest.raises(ValueError, match=words):
        evaluate(**{"y_true": ["a", "b"], "y_pred": ["a", "b"]} | arguments)


def test_a_reference_that_is_no_group_and_a_latency_that_is_no_number():
    with pytest.raises(EdgeError, match="no group 'z'"):
        evaluate(["a", "b"], ["a", "b"], sensitive_features=["x", "y"], reference="z")
    with pytest.raises(ValueError, match="seconds_per_100: got nan"):
        contest_score(["a", "b"], ["a", "b"], sensitive_features=["x", "y"], seconds_per_100=float("nan"))
