from collections import Counter

import numpy as np
import pytest

from bench.dataset import DatasetError, Sample
from train.data.folds import encode_folds, make_folds, read_folds


def samples_of(num_clusters, *, seed=0):
    """Clusters of 1 to 12 images, skewed classes, groups correlated with them."""
    rng = np.random.default_rng(seed)
    samples = []
    for cluster in range(num_clusters):
        label = rng.choice(["NV", "MEL", "BCC"], p=[0.7, 0.2, 0.1])
        group = rng.choice(["g1", "g2"], p=[0.8, 0.2] if label == "NV" else [0.5, 0.5])
        for i in range(int(min(12, rng.geometric(0.6)))):
            samples.append(Sample(f"{cluster}/{i}.jpg", str(label), str(group), f"patient{cluster}"))
    return samples


SAMPLES = samples_of(800)


def write(path, text):
    path.write_text(text)
    return path


def test_no_cluster_is_cut_and_cells_are_even():
    fold_of = make_folds(SAMPLES, num_folds=5)
    assert set(fold_of) == {sample.path for sample in SAMPLES}
    folds_of_cluster = {}
    for sample in SAMPLES:
        folds_of_cluster.setdefault(sample.cluster, set()).add(fold_of[sample.path])
    assert all(len(folds) == 1 for folds in folds_of_cluster.values())
    cells = Counter((s.label, s.group) for s in SAMPLES)
    parts = Counter((s.label, s.group, fold_of[s.path]) for s in SAMPLES)
    assert sum(count >= 50 for count in cells.values()) >= 5
    for (label, group), count in cells.items():
        if count >= 50:
            assert all(abs(parts[label, group, fold] - count / 5) <= 0.1 * count / 5 for fold in range(5))


def test_seeded_and_independent_of_the_order_of_samples():
    fold_of = make_folds(SAMPLES, seed=3)
    assert make_folds(SAMPLES[::-1], seed=3) == fold_of
    assert make_folds(SAMPLES, seed=4) != fold_of


def test_round_trip(tmp_path):
    fold_of = make_folds(SAMPLES)
    path = write(tmp_path / "folds.csv", encode_folds(SAMPLES, fold_of))
    read, sha256 = read_folds(path, SAMPLES)
    assert read == fold_of
    assert len(sha256) == 64


def test_too_few_clusters():
    with pytest.raises(DatasetError, match="got 2 clusters for 5 folds"):
        make_folds([Sample(f"{i}", "x", "g", f"c{i % 2}") for i in range(9)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got columns none, expected path,cluster,fold"),
        ("path,fold\na,0\n", "got columns path,fold"),
        ("path,cluster,fold\na,p,0\nb,p,x\n", "row 3: got 'b,p,x'"),
        ("path,cluster,fold\na,p,0\nb,p,0\nc,p,0\n", "1 paths are not in the data set, e.g. c"),
        ("path,cluster,fold\na,p,0\n", "1 samples have no fold, e.g. b"),
    ],
)
def test_bad_folds_files(tmp_path, text, message):
    samples = [Sample("a", "x", "g", "p"), Sample("b", "x", "g", "p")]
    with pytest.raises(DatasetError) as caught:
        read_folds(write(tmp_path / "folds.csv", text), samples)
    assert message in str(caught.value)


def test_folds_file_that_is_absent(tmp_path):
    with pytest.raises(DatasetError, match="cannot be read"):
        read_folds(tmp_path / "folds.csv", SAMPLES)
