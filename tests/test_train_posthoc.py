import time

import numpy as np
import pytest
from torch import nn

from bench import fairness, score
from bench.dataset import DatasetError
from train.posthoc import _hits, _search, fit_class_bias, refit_last_layer

PRIOR = np.array([0.1, 0.12, 0.13, 0.5, 0.1, 0.05])
MIXED = np.array([[8, 1, 1, 1], [1, 8, 1, 1], [1, 1, 8, 1], [2, 2, 2, 2], [1, 1, 1, 8], [8, 1, 1, 1]]) / 11
"""Groups that differ by their mix of classes; rows are normalised below."""


def posteriors(seed, n=3000, *, offset=0.0, mix=None, spread=1.6):
    """Log-probabilities that are exact but for `offset`, with labels, groups, and clusters of two."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(6, n, p=PRIOR)
    mix = np.full((6, 4), 0.25) if mix is None else mix / mix.sum(1, keepdims=True)
    groups = (rng.random((n, 1)) > mix.cumsum(1)[labels]).sum(1)
    x = rng.normal(size=(n, 6)) + spread * np.eye(6)[labels]
    logits = spread * x + np.log(PRIOR) + offset
    return logits - np.log(np.exp(logits).sum(1, keepdims=True)), labels, groups, np.arange(n) // 2


def contest(predictions, labels, groups):
    """From the samples, the long way."""
    accuracies = [np.mean(predictions[groups == g] == labels[groups == g]) for g in range(4)]
    spd = np.mean([abs(a - accuracies[0]) for a in accuracies])
    return (np.mean(predictions == labels) + max(0, (0.2 - spd) / 0.2)) / 3


def balanced(predictions, labels):
    return np.mean([np.mean(predictions[labels == c] == c) for c in np.unique(labels)])


# Class bias


def test_planted_bias_is_found():
    planted = np.array([1.5, -1.5, 0, 0, 1, -1])
    x, labels, groups, clusters = posteriors(0, offset=planted)
    found = fit_class_bias(x, labels, groups, clusters, reference_group=0, objective="balanced")
    # What undoes the plant and the prior is best for balanced accuracy.
    best = -planted - np.log(PRIOR)
    np.testing.assert_allclose(found.bias, best - best.mean(), atol=0.75)
    assert found.bias.sum() == pytest.approx(0, abs=1e-12)
    assert found.gain > 0.08
    x, labels, groups, _ = posteriors(1, n=20_000, offset=planted)
    new_gain = balanced((x + found.bias).argmax(1), labels) - balanced(x.argmax(1), labels)
    assert new_gain == pytest.approx(found.gain, abs=0.03)


def test_contest_gains_on_images_not_seen():
    plant = np.array([2.0, -2.0, 0, 0, 2.0, -1.0])
    x, labels, groups, clusters = posteriors(2, offset=plant, mix=MIXED)
    found = fit_class_bias(x, labels, groups, clusters, reference_group=0)
    assert found.before == pytest.approx(contest(x.argmax(1), labels, groups), abs=1e-12)
    assert found.after == pytest.approx(contest(found.predictions, labels, groups), abs=1e-12)
    assert found.gain > 0.04
    x, labels, groups, _ = posteriors(3, n=20_000, offset=plant, mix=MIXED)
    assert contest((x + found.bias).argmax(1), labels, groups) > contest(x.argmax(1), labels, groups) + 0.04


def test_planted_expectation_is_found_with_one_number():
    tau = 0.5  # trained as if the classes were more alike than they are
    x, labels, groups, clusters = posteriors(20, n=6000, offset=-tau * np.log(PRIOR))
    found = fit_class_bias(x, labels, groups, clusters, reference_group=0, objective="accuracy", form="prior")
    log_prior = np.log(np.bincount(labels) / len(labels))
    by_one_number = found.bias / (log_prior - log_prior.mean())
    np.testing.assert_allclose(by_one_number, by_one_number[0])
    assert by_one_number[0] == pytest.approx(tau, abs=0.2) and found.form == "prior"
    assert found.before == np.mean(x.argmax(1) == labels) and found.after == np.mean(found.predictions == labels)
    assert found.gain > 0.02


def test_one_number_is_the_best_of_its_grid_and_the_smallest_of_equals():
    x, labels, groups, clusters = posteriors(21, n=300)
    found = fit_class_bias(x, labels, groups, clusters, reference_group=0, objective="accuracy", form="prior", l2=0)
    log_prior = np.log(np.bincount(labels)) - np.log(np.bincount(labels)).mean()
    accuracies = {i: np.mean((x + i / 16 * log_prior).argmax(1) == labels) for i in range(-16, 17)}
    best = [i for i, accuracy in accuracies.items() if accuracy == max(accuracies.values())]
    assert found.bias == pytest.approx(min(best, key=abs) / 16 * log_prior, abs=1e-12)
    sure = 50 * np.eye(6)[labels]  # no offset of the grid moves an answer
    same = fit_class_bias(sure, labels, groups, clusters, reference_group=0, objective="balanced", form="prior")
    assert (same.bias == 0).all() and same.gain == 0


@pytest.mark.parametrize("objective", ["contest", "balanced"])
def test_noise_gains_nothing_on_images_not_seen(objective):
    gains, fitted = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels, groups = rng.integers(6, size=1500), rng.integers(4, size=1500)
        x = 0.2 * rng.normal(size=(1500, 6)) + 2 * np.eye(6)[np.where(rng.random(1500) < 0.6, labels, rng.integers(6))]
        found = fit_class_bias(x, labels, groups, np.arange(1500), reference_group=0, objective=objective)
        gains.append(found.gain)
        metric = (lambda p: balanced(p, labels)) if objective == "balanced" else (lambda p: contest(p, labels, groups))
        fitted.append(metric((x + found.bias).argmax(1)) - found.before)
    assert np.mean(gains) < 0.004
    assert min(fitted) >= 0 and np.mean(fitted) >= np.mean(gains)


def test_line_search_counts_as_the_loop_does():
    x, labels, groups, _ = posteriors(4, n=300)
    offsets = np.linspace(-4, 4, 17)
    for c in (0, 3):
        hits = _hits(x, labels, groups, c, offsets, (4, 6))
        for offset, found in zip(offsets, hits, strict=True):
            right = (x + offset * np.eye(6)[c]).argmax(1) == labels
            assert all(found[g, k] == right[(groups == g) & (labels == k)].sum() for g in range(4) for k in range(6))


def test_no_single_move_improves_the_result():
    x, labels, groups, _ = posteriors(5, n=800, mix=MIXED)

    def value(bias, l2=1e-3):
        counts = fairness.counts(labels, (x + bias).argmax(1), sensitive_features=groups, num_classes=6, num_groups=4)
        hits, sizes = fairness.hits(counts).sum(-1), counts.sum((-2, -1))
        parts = score.parts(hits, sizes, reference=0, compared=range(4), profile=score.PROFILES["esfair2023"])
        return parts.two_thirds - l2 * ((bias - bias.mean()) ** 2).sum()

    def metric(hits, sizes):
        profile = score.PROFILES["esfair2023"]
        sums = hits.sum(-1), sizes.sum(-1)
        return score.parts(*sums, reference=0, compared=range(4), profile=profile).two_thirds

    bias = _search(x, labels, groups, num_groups=4, metric=metric, l2=1e-3)
    moves = [bias + step * np.eye(6)[c] for c in range(6) for step in np.arange(-8, 9) / 16]
    assert value(bias) >= max(map(value, moves)) - 1e-9
    assert value(bias) > value(np.zeros(6))


def test_l2_shrinks():
    case = posteriors(6, offset=np.array([2.0, -2, 0, 0, 1, -1]))
    sizes = [np.abs(fit_class_bias(*case, reference_group=0, l2=l2).bias).max() for l2 in (0.0, 0.01, 10.0)]
    assert sizes[0] >= sizes[1] > sizes[2] == 0


def test_deterministic_and_fast():
    case = posteriors(7, n=5000, mix=MIXED)
    begin = time.process_time()
    first = fit_class_bias(*case, reference_group=1)
    assert time.process_time() - begin < 5
    second = fit_class_bias(*case, reference_group=1)
    assert np.array_equal(first.bias, second.bias) and first.gain == second.gain


def test_no_cluster_is_fitted_on_and_measured():
    # Every image of a cluster is wrong or right together: a cut cluster would give itself away.
    x, labels, _, _ = posteriors(8, n=40)
    x, labels, groups = np.repeat(x, 25, 0), np.repeat(labels, 25), np.repeat(np.arange(40) % 4, 25)
    clusters = np.repeat(np.arange(40), 25), np.arange(1000)
    whole, cut = (fit_class_bias(x, labels, groups, c, reference_group=0, objective="balanced", l2=0) for c in clusters)
    assert cut.after > whole.after


def test_absent_class_and_lone_images():
    x, labels, groups, clusters = posteriors(9, n=600)
    kept = labels != 2
    labels, groups, x, clusters = labels[kept], groups[kept], x[kept], clusters[kept]
    groups[(labels == 5) & (groups == 3)] = 1
    groups[np.flatnonzero(labels == 5)[0]] = 3
    for objective in ("contest", "balanced"):
        found = fit_class_bias(x, labels, groups, clusters, reference_group=0, objective=objective)
        assert np.isfinite(found.bias).all() and np.isfinite([found.before, found.after]).all()
        assert found.bias.sum() == pytest.approx(0, abs=1e-12)


def test_reference_in_one_cluster():
    x, labels, groups, clusters = posteriors(10, n=400)
    clusters[groups == 0] = 1000
    found = fit_class_bias(x, labels, groups, clusters, reference_group=0)
    assert np.isfinite(found.after)  # the fold that holds all of the reference is fitted without it: not at all


def test_one_group():
    x, labels, groups, clusters = posteriors(11, n=400)
    zeros = np.zeros_like(groups)
    with pytest.raises(ValueError, match="contest metric is not defined: expected two groups, one of them 0"):
        fit_class_bias(x, labels, zeros, clusters, reference_group=0)
    with pytest.raises(ValueError, match="one of them 9"):
        fit_class_bias(x, labels, groups, clusters, reference_group=9)
    assert fit_class_bias(x, labels, zeros, clusters, reference_group=0, objective="balanced").gain > 0


def test_refused_arrays():
    x, labels, groups, clusters = posteriors(12, n=50)
    with pytest.raises(ValueError, match=r"got arrays \(50, 6\), \(49,\)"):
        fit_class_bias(x, labels[1:], groups, clusters, reference_group=0)
    x[3, 2] = -np.inf
    with pytest.raises(ValueError, match="finite"):
        fit_class_bias(x, labels, groups, clusters, reference_group=0)
    with pytest.raises(DatasetError, match="3 clusters for 5 folds"):
        fit_class_bias(np.nan_to_num(x), labels, groups, clusters % 3, reference_group=0)


# Last layer


def spurious(seed, n, *, bound):
    """Two classes; feature 0 tells them apart weakly, feature 1 tells the group, which goes along with the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    groups = np.where(rng.random(n) < bound, labels, 1 - labels)
    x = np.stack([rng.normal(2.0 * labels - 1, 1.0), rng.normal(6.0 * groups, 1.0), np.full(n, 7.0)], axis=1)
    return 10 * x + 3, labels, groups


def recalls(weight, bias, x, labels, groups):
    right = (x @ weight.T + bias).argmax(1) == labels
    return np.array([right[(labels == c) & (groups == g)].mean() for c in range(2) for g in range(2)])


def test_refit_forgets_the_group():
    weight, bias = refit_last_layer(*spurious(0, 2000, bound=0.95), num_classes=2)
    assert weight.shape == (2, 3) and bias.shape == (2,) and weight.dtype == bias.dtype == np.float64
    found = recalls(weight, bias, *spurious(1, 20_000, bound=0.5))
    assert found.min() > 0.78  # the best of feature 0 alone is .84; a plain fit on these images gets .6 or less
    x, labels, _ = spurious(0, 2000, bound=0.95)
    plain = refit_last_layer(x, labels, np.zeros_like(labels), num_classes=2)
    assert recalls(*plain, *spurious(1, 20_000, bound=0.5)).min() < found.min() - 0.15
    as_they_come = refit_last_layer(*spurious(0, 2000, bound=0.95), num_classes=2, balance=False)
    assert recalls(*as_they_come, *spurious(1, 20_000, bound=0.5)).min() < found.min() - 0.15


def test_refit_is_the_minimum():
    x, labels, _ = spurious(2, 400, bound=0.7)
    kept = np.concatenate([np.flatnonzero(labels == c)[:150] for c in range(2)])  # balanced already: drawn whole
    x, labels = x[kept], labels[kept]
    weight, bias = refit_last_layer(x, labels, np.zeros_like(labels), num_classes=2, l2=0.3, num_refits=2)
    logits = x @ weight.T + bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(2)[labels]
    mean, std = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1)
    np.testing.assert_allclose(p.T @ ((x - mean) / std) / len(x) + 0.3 * weight * std, 0, atol=2e-6)
    np.testing.assert_allclose(p.mean(0), 0, atol=2e-6)


def test_refit_leaves_out_what_hardly_varies():
    x, labels, groups = spurious(6, 400, bound=0.7)
    noise = 5.0 + 1e-7 * (2.0 * labels - 1)  # as float32 rounds a feature that is always 5; it would tell the label
    weight, bias = refit_last_layer(np.column_stack([x, noise]), labels, groups, num_classes=2)
    assert not weight[:, 3].any()
    plain = refit_last_layer(x, labels, groups, num_classes=2)
    np.testing.assert_allclose(weight[:, :3], plain[0])
    np.testing.assert_allclose(bias, plain[1])


def test_refit_is_seeded_and_loads_into_a_layer():
    case = spurious(3, 500, bound=0.9)
    first, again, other = (refit_last_layer(*case, num_classes=2, num_refits=3, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first[0], again[0]) and not np.array_equal(first[0], other[0])
    assert nn.Linear(3, 2).weight.shape == first[0].shape


def test_a_cell_of_one_image_does_not_set_the_size():
    x, labels, groups = spurious(4, 1000, bound=1.0)
    groups[np.flatnonzero(labels == 1)[0]] = 0
    weight, bias = refit_last_layer(x, labels, groups, num_classes=2)
    assert np.isfinite(weight).all()
    right = (x @ weight.T + bias).argmax(1) == labels
    assert right.mean() > 0.9


def test_what_refit_refuses():
    x, labels, groups = spurious(5, 50, bound=0.8)
    with pytest.raises(ValueError, match="no image of class 2, expected some of each of 3"):
        refit_last_layer(x, labels, groups, num_classes=3)
    with pytest.raises(ValueError, match=r"\(50, 3\), \(50,\), \(49,\)"):
        refit_last_layer(x, labels, groups[1:], num_classes=2)
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        refit_last_layer(x, labels, groups, num_classes=2)
