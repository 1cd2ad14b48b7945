import numpy as np
import pytest

from train.after.prior_correction import fit_prior

PRIOR = np.array([0.1, 0.12, 0.13, 0.5, 0.1, 0.05])


def posteriors(seed, n=3000, *, offset=0.0, spread=1.6):
    """Log-probabilities that are exact but for `offset`, with labels and five folds."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(6, n, p=PRIOR)
    x = rng.normal(size=(n, 6)) + spread * np.eye(6)[labels]
    logits = spread * x + np.log(PRIOR) + offset
    return logits - np.log(np.exp(logits).sum(1, keepdims=True)), labels, np.arange(n) // 2 % 5


def log_shares_of(labels):
    log_shares = np.log(np.bincount(labels))
    return log_shares - log_shares.mean()


def test_planted_expectation_is_found_with_one_number():
    tau = 0.5  # trained as if the classes were more alike than they are
    x, labels, folds = posteriors(20, n=6000, offset=-tau * np.log(PRIOR))
    found = fit_prior(x, labels, folds)
    np.testing.assert_allclose(found.offsets, found.tau * log_shares_of(labels))
    assert found.tau == pytest.approx(tau, abs=0.2)
    assert found.before == np.mean(x.argmax(1) == labels) and found.after > found.before + 0.01
    x, labels, _ = posteriors(22, n=20_000, offset=-tau * np.log(PRIOR))
    new_gain = np.mean((x + found.offsets).argmax(1) == labels) - np.mean(x.argmax(1) == labels)
    assert new_gain == pytest.approx(found.after - found.before, abs=0.02)


def test_one_number_is_the_best_of_its_grid_and_the_smallest_of_equals():
    x, labels, folds = posteriors(21, n=300)
    found = fit_prior(x, labels, folds, l2=0)
    accuracies = {i: np.mean((x + i / 16 * log_shares_of(labels)).argmax(1) == labels) for i in range(-16, 17)}
    best = [i for i, accuracy in accuracies.items() if accuracy == max(accuracies.values())]
    assert found.tau == min(best, key=abs) / 16
    sure = 50 * np.eye(6)[labels]  # no number of the grid moves an answer
    same = fit_prior(sure, labels, folds)
    assert (same.offsets == 0).all() and same.tau == 0 and same.before == same.after == 1


def test_after_is_of_numbers_fitted_on_the_other_folds():
    x, labels, folds = posteriors(23, n=400, offset=-0.7 * np.log(PRIOR))
    right = []
    for fold in range(5):
        fitted = fit_prior(x[folds != fold], labels[folds != fold], folds[folds != fold])
        right.extend((x[folds == fold] + fitted.offsets).argmax(1) == labels[folds == fold])
    assert fit_prior(x, labels, folds).after == np.mean(right)


def test_noise_gains_nothing_on_images_not_seen():
    gains = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = rng.integers(6, size=1500)
        x = 0.2 * rng.normal(size=(1500, 6)) + 2 * np.eye(6)[np.where(rng.random(1500) < 0.6, labels, rng.integers(6))]
        found = fit_prior(x, labels, np.arange(1500) % 5)
        gains.append(found.after - found.before)
    assert np.mean(gains) < 0.004


def test_l2_shrinks():
    case = posteriors(6, offset=-np.log(PRIOR))
    sizes = [abs(fit_prior(*case, l2=l2).tau) for l2 in (0.0, 0.01, 10.0)]
    assert sizes[0] >= sizes[1] > sizes[2] == 0


def test_an_absent_class_keeps_its_place():
    x, labels, folds = posteriors(9, n=600, offset=-np.log(PRIOR))
    kept = labels != 2
    found = fit_prior(x[kept], labels[kept], folds[kept])
    assert found.tau > 0 and np.isfinite(found.offsets).all() and found.offsets.sum() == pytest.approx(0, abs=1e-12)
    assert found.offsets.min() < found.offsets[2] < found.offsets.max()


def test_refused_arrays():
    x, labels, folds = posteriors(12, n=50)
    with pytest.raises(ValueError, match=r"got arrays \(50, 6\), \(49,\)"):
        fit_prior(x, labels[1:], folds)
    with pytest.raises(ValueError, match=r"folds: got \[0\], expected two at least"):
        fit_prior(x, labels, np.zeros(50, int))
    x[3, 2] = -np.inf
    with pytest.raises(ValueError, match="finite"):
        fit_prior(x, labels, folds)
