import numpy as np
import pytest
import torch
from sample_networks import labelled_images, random_network

from bench.dataset import Sample
from edge.photo.preprocess import Preprocess
from edge.predictions import read
from train.after.held_out import embed, encode_predictions, measure, to_predictions
from train.data.feeder import scale_tensor


def test_measure_by_hand():
    #   label  a a a a b b c     group  1 1 2 2 1 1 2
    #   found  a a b a b a c     hits   1 1 0 1 1 0 1
    groups = "1122112"
    samples = [Sample(str(i), label, f"g{groups[i]}", str(i)) for i, label in enumerate("aaaabbc")]
    predictions = to_predictions(samples, np.eye(4, dtype=np.float32)[["abcd".index(c) for c in "aababac"]], "abcd")
    metrics = measure(samples, predictions, list("abcd"))
    assert metrics["accuracy"]["value"] == pytest.approx(5 / 7, abs=1e-4)
    assert {name: (rate["value"], rate["n"]) for name, rate in metrics["by_class"].items()} == {
        "a": (0.75, 4),
        "b": (0.5, 2),
        "c": (1.0, 1),
    }
    assert metrics["balanced_accuracy"]["value"] == 0.75
    assert metrics["by_group"]["g1"]["value"] == 0.75
    assert metrics["by_group"]["g2"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    # Wilson for 3 of 4 at z = 1.96: (0.75 + 0.4802 +- 1.96 * sqrt(0.046875 + 0.060025)) / 1.9604
    found = metrics["by_class"]["a"]
    assert (found["low"], found["high"]) == pytest.approx((0.3006, 0.9544), abs=2e-4)


@pytest.mark.parametrize(("groups", "shown"), [(["f", "", "f"], {"f": 1.0, "not stated": 0.0}),
                                               (["", "", ""], {"not stated": pytest.approx(2 / 3, abs=1e-4)})])
def test_a_group_that_is_not_stated_is_measured(groups, shown):
    samples = [Sample(str(i), "a", group or "not stated", str(i)) for i, group in enumerate(groups)]
    predictions = to_predictions(samples, np.eye(2, dtype=np.float32)[[0, 1, 0]], "ab")
    by_group = measure(samples, predictions, list("ab"))["by_group"]
    assert {name: rate["value"] for name, rate in by_group.items()} == shown


def test_predictions_do_not_depend_on_the_batch(tmp_path):
    model = random_network(num_conv_branches=1).train()
    images, labels = labelled_images(5)
    scale = scale_tensor(Preprocess())
    with torch.no_grad():
        whole, pairs = (model.head(embed(model, images, scale=scale, batch_size=size)) for size in (64, 2))
        alone = model(torch.from_numpy(images[:1]).permute(0, 3, 1, 2) / 255)
    assert whole.shape == (5, 3) and not model.training
    assert (pairs - whole).abs().max() < 1e-5 and (alone - whole[:1]).abs().max() < 1e-5
    probabilities = whole.softmax(dim=1).numpy()
    samples = [Sample(f"{i}.png", "abc"[label], "g", f"c{i}") for i, label in enumerate(labels)]
    (tmp_path / "p.csv").write_bytes(encode_predictions(to_predictions(samples, probabilities, "abc"), "abc"))
    rows = read(tmp_path / "p.csv").rows
    assert [row.path for row in rows] == [sample.path for sample in samples]
    assert [row.label_index for row in rows] == probabilities.argmax(axis=1).tolist()
    assert np.abs(np.stack([row.probabilities for row in rows]) - probabilities).max() < 1e-6
