import numpy as np
import pytest
from torch import nn

from train.after.last_layer import refit_last_layer


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
