"""What a model file tells of the clusters it was trained on."""

import hashlib
import json
from pathlib import Path

import onnx
import pytest

from bench import provenance
from bench.dataset import Sample
from edge.classifier import DEFAULT_MODEL, Classifier
from edge.errors import EdgeError, ModelError


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


def model_file(path, **metadata):
    """A model file of nothing but metadata, as protobuf writes it."""
    model = onnx.ModelProto(ir_version=10, producer_name="x" * 300)
    onnx.helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path


def sealed_file(path, marks, **training):
    said = {"cluster_sha256": provenance.marks_sha256(marks), **training}
    return model_file(path, training=json.dumps(said), training_clusters=provenance.seal(marks))


def test_a_model_file_carries_marks_that_only_a_cluster_opens(tmp_path):
    everything = samples(*"abcdef")
    marks = provenance.cluster_marks(everything[:4])
    path = sealed_file(tmp_path / "m.onnx", marks)
    content, metadata = provenance.read_metadata(path)
    assert content == path.read_bytes() and len(metadata["training_clusters"]) == 4 * 8
    assert not any(mark.encode() in content for mark in marks)
    others = provenance.seal(marks[:3])
    assert not any(others[i : i + 8] in metadata["training_clusters"] for i in range(0, 24, 8))  # salted

    def seen(**changed):
        return provenance.seen_samples(path, metadata | changed, everything[2:], everything)

    assert seen() == everything[2:4]
    assert provenance.seen_samples(path, metadata, everything[4:], everything) == []
    leaky = {"training": json.dumps(json.loads(metadata["training"]) | {"leaky": True})}
    assert seen(**leaky) == everything[2:4]  # what it says it has seen it has
    assert provenance.seen_samples(path, metadata | leaky, everything[4:], everything) is None
    assert seen(training_clusters="AAA") == seen(training_clusters="?") == seen(training_clusters="") is None


def test_predictions_of_pictures_trained_on(tmp_path):
    everything = samples(*"abcdef")
    path = sealed_file(tmp_path / "m.onnx", provenance.cluster_marks(everything[:4]))
    meta = {"model_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def check(model, meta, names="345", *, strict=False):
        paths = {f"{name}.jpg" for name in names}
        return provenance.check_seen(model, meta, paths, everything, strict=strict)

    assert check(path, meta)[0] == check(path, {})[0] == 1
    assert "1 of 3 pictures were trained on by the model m.onnx" in check(path, meta).remark
    assert check(path, meta, "45", strict=True) == (0, "")
    assert check(None, {}) == (None, "") and "-m MODEL" in check(None, meta).remark
    unknown = model_file(tmp_path / "u.onnx", classes="[]")
    assert check(unknown, {}) == (None, "whether u.onnx was trained on these pictures is not known")
    for model, said in ((path, "1 of 3 pictures"), (unknown, "is not known"), (None, "-m MODEL")):
        with pytest.raises(EdgeError, match=said) as caught:
            check(model, {}, strict=True)
        assert caught.value.exit_status == 6
    with pytest.raises(EdgeError, match="got a model of SHA-256 .* which made the predictions"):
        check(unknown, meta)


@pytest.mark.parametrize("content", [b"no model", b"\x72\x7f", b"\x80" * 100, b"\x72\x02\x0b\x0a", b"\x72\x01\x0a"])
def test_no_model_file(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="is no ONNX model"):
        provenance.read_metadata(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="no regular file"):
        provenance.read_metadata(tmp_path)
    with pytest.raises(ModelError, match="No such file"):
        provenance.read_metadata(tmp_path / "absent.onnx")


def test_the_bundled_model_is_known_by_its_digest():
    meta = {"model_sha256": hashlib.sha256(DEFAULT_MODEL.read_bytes()).hexdigest()}
    everything = samples("p1")
    assert provenance.check_seen(None, meta, {"0.jpg"}, everything, strict=True) == (0, "")
    assert provenance.read_metadata(DEFAULT_MODEL)[1] == Classifier.load().metadata
