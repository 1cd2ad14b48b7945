import numpy as np
import pytest

from edge.errors import EdgeError
from train.config import SampleConfig
from train.data.sampler import epoch_batches, num_steps_per_epoch

CLASSES = ("ash", "birch", "Cedar")
LABELS = np.array([0] * 60 + [1] * 30 + [2] * 10)
GROUPS = np.array((["a"] * 3 + ["b"]) * 25)
BALANCE = {"sampler": "balance", "targets": ("ash:20", "birch:15", "Cedar:12")}


def epoch(number=0, labels=LABELS, groups=GROUPS, *, batch_size=16, seed=0, classes=CLASSES, **options):
    config = SampleConfig(**options)
    found = epoch_batches(labels, groups, config, classes=classes, batch_size=batch_size, epoch=number, seed=seed)
    num_steps = num_steps_per_epoch(labels, groups, config, classes=classes, batch_size=batch_size)
    assert found.indices.shape == found.is_repeat.shape and len(found.indices) == num_steps
    assert found.indices.dtype == np.int64 and found.is_repeat.dtype == bool
    return found


def test_as_it_is_every_picture_comes_once():
    found = epoch()
    assert found.indices.shape == (6, 16) and not found.is_repeat.any()
    assert len(np.unique(found.indices)) == 96
    twice = epoch(steps_per_epoch=12).indices.ravel()
    assert np.bincount(twice[:100]).tolist() == [1] * 100 and np.bincount(twice[100:]).max() == 1


@pytest.mark.parametrize("options", [{}, {"power": 0.5}, {"sampler": "pk"}, BALANCE])
def test_an_epoch_is_a_function_of_seed_and_number(options):
    first = epoch(2, **options)
    assert (first.indices == epoch(2, **options).indices).all()
    assert (first.indices != epoch(3, **options).indices).any()
    assert (first.indices != epoch(2, seed=1, **options).indices).any()


@pytest.mark.parametrize("power", [0.0, 0.5, 0.9])
def test_classes_come_by_their_counts_power(power):
    drawn = LABELS[epoch(power=power, steps_per_epoch=2000).indices.ravel()]
    weights = np.array([60, 30, 10.0]) ** power
    assert np.bincount(drawn) / len(drawn) == pytest.approx(weights / weights.sum(), abs=0.01)


def test_a_class_missing_in_a_group_makes_no_cell():
    groups = np.where(LABELS == 2, "a", GROUPS)
    drawn = epoch(groups=groups, **BALANCE, batch_size=82).indices.ravel()
    assert np.bincount(LABELS[drawn]).tolist() == [40, 30, 12]


def test_pk_has_each_class_in_every_batch():
    found = epoch(sampler="pk", pk_images=4, batch_size=99)
    assert found.indices.shape == (8, 12)
    assert all(np.bincount(LABELS[batch]).tolist() == [4, 4, 4] for batch in found.indices)
    assert len({tuple(LABELS[batch]) for batch in found.indices}) > 1  # a slice of a batch is not one class
    counts = np.bincount(found.indices.ravel(), minlength=100)
    assert counts[:60].max() == 1 and counts[60:90].max() > 1  # 32 of 60 without replacement, 32 of 30 with it


def test_balance_meets_the_targets():
    found = epoch(**BALANCE, batch_size=94)
    drawn, repeats = found.indices[0], found.is_repeat[0]
    for label, target in enumerate((20, 15, 12)):
        for group in "ab":
            of_cell = (LABELS == label) & (GROUPS == group)
            counts = np.bincount(drawn, minlength=100)[of_cell]
            assert counts.sum() == target
            assert counts.max() - counts.min() <= 1
    firsts = drawn[~repeats]
    assert len(np.unique(firsts)) == len(firsts) == len(np.unique(drawn))
    assert (drawn != np.sort(drawn)).any()


def test_balance_caps_the_repeats():
    found = epoch(**BALANCE, max_repeats=2, batch_size=1000)
    counts = np.bincount(found.indices.ravel(), minlength=100)
    assert counts.max() == 2
    assert np.bincount(LABELS[found.indices.ravel()]).tolist() == [40, 29, 18]  # in b: 7 birches and 3 Cedars


@pytest.mark.parametrize("sampler", ["shuffle", "pk", "balance"])
def test_one_picture_of_a_class(sampler):
    labels = np.array([0, 0, 0, 1])
    options = {"sampler": sampler, "power": 0.5 if sampler == "shuffle" else 1.0}
    if sampler == "balance":
        options["targets"] = ("ash:2", "birch:2")
    found = epoch(labels=labels, groups=np.array([0, 0, 0, 0]), classes=CLASSES[:2], steps_per_epoch=40, **options)
    assert set(found.indices.ravel().tolist()) == {0, 1, 2, 3}


def test_targets_of_other_classes_are_refused():
    with pytest.raises(EdgeError, match="targets: got numbers for MEL, .* Cedar, ash, birch"):
        epoch(sampler="balance", targets=("MEL:10",))
