"""Accuracy metrics against loops over the samples, against a worked example, and at their edges."""

import math

import numpy as np
import pytest

from bench.metrics.counts import balanced_accuracy, macro_f1
from bench.metrics.evaluation import Observations
from bench.metrics.interval import wilson

NUM_CLASSES = 4


def random_labels(seed: int, count: int, dtype: type = np.int64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, NUM_CLASSES, count).astype(dtype)
    y_pred = np.where(rng.random(count) < 0.6, y_true, rng.integers(-1, NUM_CLASSES, count)).astype(dtype)
    return y_true, y_pred


def table_of(y_true: np.ndarray, y_pred: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C + 1) counts of one group."""
    classes, group = [str(c) for c in range(num_classes)], np.zeros(len(y_true), np.int64)
    return Observations(classes, ["all"], y_true, y_pred, group, group).counts[0]


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8])
@pytest.mark.parametrize(("seed", "count"), [(0, 200), (1, 7), (2, 1), (3, 0)])
def test_every_metric_equals_its_loop(seed: int, count: int, dtype: type) -> None:
    y_true, y_pred = random_labels(seed, count, dtype)
    table = [[0] * (NUM_CLASSES + 1) for _ in range(NUM_CLASSES)]
    for truth, guess in zip(y_true, y_pred, strict=True):
        table[truth][guess] += 1  # -1, no answer, is the last column
    recalls, f1s = [], []
    for c in range(NUM_CLASSES):
        support = sum(1 for truth in y_true if truth == c)
        guesses = sum(1 for guess in y_pred if guess == c)
        hits = table[c][c]
        if support:
            recalls.append(hits / support)
        if support and guesses and hits:
            r, p = hits / support, hits / guesses
            f1s.append(2 * r * p / (r + p))
        elif support or guesses:
            f1s.append(0.0)
    cells = table_of(y_true, y_pred, NUM_CLASSES)
    assert cells.tolist() == table
    assert (cells.dtype, cells.shape) == (np.int64, (NUM_CLASSES, NUM_CLASSES + 1))
    expected = sum(recalls) / len(recalls) if recalls else math.nan
    assert float(balanced_accuracy(cells)) == pytest.approx(expected, nan_ok=True)
    expected = sum(f1s) / len(f1s) if f1s else math.nan
    assert float(macro_f1(cells)) == pytest.approx(expected, nan_ok=True)


def test_worked_example() -> None:
    # truth 0 0 0 1 1 2, answers 0 0 1 1 none 1, class 3 nowhere
    y_true, y_pred = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, -1, 1])
    cells = table_of(y_true, y_pred, 4)
    assert cells.tolist() == [
        [2, 1, 0, 0, 0],
        [0, 1, 0, 0, 1],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    # (2/3 + 1/2 + 0) / 3
    assert float(balanced_accuracy(cells)) == pytest.approx(7 / 18)
    # F1: 4 / 5, 2 / 5, 0 / 1; class 3 has neither samples nor predictions
    assert float(macro_f1(cells)) == pytest.approx(0.4)


def test_nothing_gives_nan_never_0() -> None:
    nothing = np.array([], np.int64)
    cells = table_of(nothing, nothing, 2)
    assert cells.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert np.isnan(balanced_accuracy(cells)) and np.isnan(macro_f1(cells))


def test_wilson_by_hand() -> None:
    # 8 of 10, z = 1.96: centre (0.8 + 0.19207) / 1.38415 = 0.71674, half 1.96 / 1.38415 * sqrt(0.016 + 0.009604)
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-4)
    assert wilson(0, 0) is None


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (3, 7), (50, 100), (9999, 10000)])
def test_wilson_ends_are_where_the_observation_is_z_deviations_away(successes: int, n: int) -> None:
    interval = wilson(successes, n)
    assert interval is not None
    low, high = interval
    observed = successes / n
    assert 0 <= low <= observed <= high <= 1
    tails = []
    for end in (low, high):
        if 0 < end < 1:
            z = abs(observed - end) / math.sqrt(end * (1 - end) / n)
            tails.append(math.erf(z / math.sqrt(2)))
    assert tails and tails == pytest.approx([0.95] * len(tails), abs=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(2, 1), (-1, 3)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="got"):
        wilson(successes, n)
