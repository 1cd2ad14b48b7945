"""What a model file tells of the clusters it was trained on."""

import json
from pathlib import Path

import pytest

from bench import provenance
from bench.dataset import Sample


def samples(*clusters):
    return [Sample(f"{i}.jpg", "ash", "g1", cluster) for i, cluster in enumerate(clusters)]


def test_marks():
    found = provenance.cluster_marks(samples("p1", "p2", "p1", "\udcff"))
    assert len(found) == 3 and found == sorted(found) and "f64551fcd6f07823" in found  # printf p1 | sha256sum
    assert all(len(mark) == 16 and set(mark) <= set("0123456789abcdef") for mark in found)
    own = [provenance.cluster_mark("p2")]
    assert provenance.cluster_marks(samples("p2")) == provenance.cluster_marks(samples("p2", "p2")) == own


@pytest.mark.parametrize(
    ("training", "quantization", "known"),
    [
        ({"cluster_sha256": "a"}, None, "a"),
        ({"cluster_sha256": "a"}, {"scheme": "x"}, "a"),
        ({"cluster_sha256": "a"}, {"finetuning": {"cluster_sha256": "a"}}, "a"),
        ({"cluster_sha256": "a"}, {"finetuning": {"cluster_sha256": "b"}}, None),  # has seen more than its clusters
        ({"cluster_sha256": "a", "leaky": True}, None, None),
        ({"cluster_sha256": 7}, None, None),
        ([], None, None),
        (None, None, None),
    ],
)
def test_what_a_file_was_trained_on(training, quantization, known):
    values = {"training": training, "quantization": quantization}
    metadata = {key: json.dumps(value) for key, value in values.items() if value is not None}
    assert provenance.trained_on(metadata) == known
    assert provenance.trained_on({"training": "{", "quantization": "[" * 100_000}) is None


def test_a_hash_tells_whether_a_guess_is_right(tmp_path):
    everything = samples("p1", "p2", "p3")
    digest = provenance.marks_sha256(provenance.cluster_marks(everything[:2]))
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"picture %d" % i)
    guesses = list(provenance.guesses(tmp_path, everything, [{"0.jpg"}, {"2.jpg"}]))
    assert provenance.known_marks(digest, guesses) == {*provenance.cluster_marks(everything[:2])}
    assert provenance.known_marks(digest, guesses[:1]) is None
    # A student passes on what its teacher was trained on: clusters, and pictures by their bytes.
    taught = {*provenance.cluster_marks(everything[:2]), *provenance.picture_marks(tmp_path, everything[:2])}
    assert len(taught) == 4 and provenance.known_marks(provenance.marks_sha256(taught), guesses) == taught
    (tmp_path / "1.jpg").unlink()  # what cannot be read is not guessed about
    assert list(provenance.guesses(tmp_path, everything, [{"0.jpg"}])) == guesses[:1]
    assert provenance.marks_sha256(["b", "a"]) == provenance.marks_sha256(["a", "b"])


def test_commit_is_a_hash_or_unknown(tmp_path):
    commit = provenance.source_commit(Path(__file__).parent)
    assert commit == "unknown" or len(commit.rstrip("+")) == 40
    assert provenance.source_commit(tmp_path) == "unknown"
