import json

import numpy as np
import pytest

from bench.dataset import DatasetError, Sample
from train.after.temperature import cross_fit, describe_fit, fit_temperature

CLASSES = ["ash", "birch", "Cedar"]


def calibrated(n, *, seed=0, num_classes=3):
    """Logits whose softmax is the truth, and labels drawn from it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, num_classes))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((n, 1)) > p.cumsum(1)).sum(1)
    return logits, labels.clip(max=num_classes - 1)


def samples_of(labels, *, per_cluster=1):
    return [
        Sample(f"{i}.png", CLASSES[label], f"g{i % 2}", f"c{i // per_cluster}") for i, label in enumerate(labels)
    ]


def nll(logits, labels, temperature):
    z = logits / temperature
    return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]))


@pytest.mark.parametrize("factor", [0.01, 1.0, 3.0, 500.0])
def test_finds_the_scale_that_was_lost(factor):
    logits, labels = calibrated(20_000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)


def test_is_the_minimum_of_a_plain_search():
    logits, labels = calibrated(300, seed=1)
    grid = np.geomspace(0.2, 5, 2001)
    expected = min(grid, key=lambda t: nll(logits, labels, t))
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=2e-3)


def test_a_constant_per_image_does_not_count():
    logits, labels = calibrated(200)
    shifted = logits + np.random.default_rng(2).normal(0, 100, (200, 1))
    assert fit_temperature(shifted, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-9)


def test_all_right_all_wrong_and_nothing_known_are_bounded():
    logits = np.eye(3)[[0, 1, 2, 0]]
    spread = np.sqrt(2) / 3
    assert fit_temperature(logits, np.array([0, 1, 2, 0])) == pytest.approx(spread / 50)
    assert fit_temperature(logits, np.array([1, 2, 0, 1])) == pytest.approx(spread * 50)
    assert fit_temperature(np.ones((4, 3)), np.array([0, 1, 2, 0])) == 1.0


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "N at least 1"),
        (np.zeros((2, 3)), np.zeros(3, int), "expected"),
        (np.array([[0, np.nan]]), np.zeros(1, int), "not finite"),
        (np.zeros((1, 3)), np.array([3]), "from 0 to 2"),
        (np.zeros((1, 3)), np.array([0.0]), "float64"),
    ],
)
def test_what_is_no_logits_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)


def test_cross_fit_never_looks_at_an_images_own_cluster():
    logits, labels = calibrated(60)
    samples = samples_of(labels, per_cluster=3)
    temperatures = cross_fit(logits, samples, labels)
    other = logits.copy()
    other[:3] *= 40  # one cluster
    changed = cross_fit(other, samples, labels)
    assert (changed[:3] == temperatures[:3]).all()
    assert (changed != temperatures).any()
    assert all(len(set(temperatures[i : i + 3])) == 1 for i in range(0, 60, 3))
    with pytest.raises(DatasetError, match="4 clusters for 5 folds"):
        cross_fit(logits[:12], samples[:12], labels[:12])


def test_describe_fit():
    logits, labels = calibrated(4000)
    found = describe_fit((4 * logits).astype(np.float32), samples_of(labels), CLASSES)
    assert json.loads(json.dumps(found)) == found
    assert found["temperature"] == pytest.approx(4, rel=0.1)
    assert found["ece"]["before"] > 0.1 > 0.03 > found["ece"]["after"]
    assert found["nll"]["before"] > found["nll"]["after"]
    assert found["n"] == 4000 and [g["n"] for g in found["ece_by_group"].values()] == [2000, 2000]
    with pytest.raises(ValueError, match="'oak', expected one of"):
        describe_fit(logits[:1], [Sample("a", "oak", "g", "c")], CLASSES)
