import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from sample_networks import COLOURS, dataset, random_network
from test_train_loop import CONFIG, blank

from bench.dataset import DatasetError, index
from bench.provenance import cluster_marks
from edge.errors import EdgeError, ModelError
from edge.photo.preprocess import Preprocess
from export.loaded_model import Pair, open_model
from export.to_onnx import to_onnx
from export.verify import table, verify
from train.checkpoint import CheckpointError, save

pytestmark = pytest.mark.usefixtures("small_networks")

NETWORK = {"variant": CONFIG.model.network}


def export(path, model):
    metadata = {"classes": json.dumps([*COLOURS])}
    onnx.save(to_onnx(model, preprocess=Preprocess(size_px=32), metadata=metadata)[0], path)


def with_metadata(source, path, **changed):
    """A copy of a model file with other metadata."""
    file = onnx.load(source)
    onnx.helper.set_model_props(file, {entry.key: entry.value for entry in file.metadata_props} | changed)
    onnx.save(file, path)
    return path


def trained_on(marks, **more):
    return json.dumps({"cluster_sha256": hashlib.sha256("\n".join(marks).encode()).hexdigest(), **more})


@pytest.fixture(scope="module")
def folder(small_networks, tmp_path_factory):
    """A data set, a run that was trained on its first 24 images, its export, and one with other weights."""
    root = tmp_path_factory.mktemp("verify")
    data = dataset(root / "data", 72)
    seen = cluster_marks(index(data)[:24])
    model = random_network(**NETWORK)
    (root / "run").mkdir()
    save(replace(blank(), ema=model.state_dict(), clusters=seen), root / "run" / "checkpoint.pt")
    export(root / "plain.onnx", model)
    with_metadata(root / "plain.onnx", root / "same.onnx", training=trained_on(seen))
    export(root / "other.onnx", random_network(seed=1, **NETWORK))
    return root


@pytest.fixture(scope="module")
def held_out(folder):
    return [sample.path for sample in index(folder / "data")[24:]]


def check(folder, *pairs, **options):
    return verify(folder / "data", [Pair(*pair) for pair in pairs], draws=200, **options)


def test_a_run_and_its_export_answer_alike(folder, held_out):
    result = check(folder, (folder / "run", folder / "same.onnx", held_out))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["schema"] == "edge-verify/1" and result["images"] == 48 and result["errors"] == []
    assert result["agreement"]["value"] == 1 and result["flips"] == [] and result["failures"] == []
    assert 0 < result["logits"]["max_change"] <= 1e-4 * result["logits"]["largest"]
    assert result["a"]["accuracy"] == result["b"]["accuracy"] and result["remarks"] == []  # both trained elsewhere
    assert [side["kind"] for side in (result["pairs"][0]["a"], result["pairs"][0]["b"])] == ["checkpoint", "onnx"]
    assert str(folder) not in json.dumps(result)


def test_other_weights_flip_images_and_are_named(folder, held_out):
    result = check(folder, (folder / "same.onnx", folder / "other.onnx", held_out))
    flips = result["flips"]
    assert len(flips) == round(48 * (1 - result["agreement"]["value"])) > 0
    assert all(flip["a"] != flip["b"] and 0 <= flip["a_margin"] <= 1 for flip in flips)
    by_path = {sample.path: sample for sample in index(folder / "data")}
    assert all(by_path[flip["path"]].label == flip["label"] for flip in flips)
    assert any("other.onnx: does not say what it was trained on" in line for line in result["remarks"])
    lines = list(table(result))
    assert lines[0] == "A same.onnx (onnx), B other.onnx (onnx)"
    assert sum(line.startswith("flip: ") for line in lines) == min(10, len(flips))
    assert any(line.startswith("total of two thirds") for line in lines)
    changed = result["comparison"]["changed"]
    assert changed["only_a_right"] + changed["only_b_right"] + changed["both_wrong"] == len(flips)


def test_images_trained_on_are_refused(folder, held_out):
    pair = (folder / "run", folder / "same.onnx", None)
    with pytest.raises(EdgeError, match=r"run: was trained on 12 of the 36 clusters .*--held-out") as caught:
        check(folder, pair)
    assert caught.value.exit_status == 3
    with pytest.raises(EdgeError, match="same.onnx: was trained on"):  # told by its hash alone
        check(folder, (folder / "same.onnx", None, [sample.path for sample in index(folder / "data")[:24]]))
    result = check(folder, pair, allow_leak=True)
    assert result["images"] == 72 and any("the figures flatter it" in line for line in result["remarks"])


def test_a_leaky_run_is_not_believed(folder, tmp_path, held_out):
    save(replace(blank(), ema=random_network(**NETWORK).state_dict(), leaky=True), tmp_path / "checkpoint.pt")
    with_metadata(folder / "plain.onnx", tmp_path / "leaky.onnx", training=trained_on([], leaky=True))
    result = check(folder, (tmp_path, tmp_path / "leaky.onnx", held_out))
    assert sum("does not say" in line for line in result["remarks"]) == 2


def test_images_of_no_stated_group_are_told(folder, tmp_path, held_out):
    for name in ("data/g1", "data/g2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(folder / name)
    rows = (folder / "data" / "manifest.csv").read_text().splitlines()
    lines = [row.replace(",g2,", ",,") for row in rows]
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(lines) + "\n")
    result = check(tmp_path, (folder / "run", folder / "same.onnx", held_out))
    assert result["a"]["by_group"]["not stated"]["accuracy"]["n"] == 24 and result["failures"] == []
    assert result["comparison"]["excluded_groups"] == ["not stated"]
    assert "the group of 24 images is not stated: they are compared with no other" in result["remarks"]


def test_folds_are_pooled(folder, held_out):
    pairs = [(folder / "run", folder / "same.onnx", held_out[:24]), (folder / "same.onnx", None, held_out[24:])]
    result = check(folder, *pairs)
    assert [pair["images"] for pair in result["pairs"]] == [24, 24] and result["images"] == 48
    whole = check(folder, (folder / "run", folder / "same.onnx", held_out))
    assert result["b"]["accuracy"] == whole["b"]["accuracy"]
    with pytest.raises(EdgeError, match="1 images are in two subsets"):
        check(folder, pairs[0], (folder / "run", None, held_out[23:]))


def test_a_checkpoint_takes_the_temperature_of_the_model_file(folder, tmp_path, held_out):
    with_metadata(folder / "plain.onnx", tmp_path / "warm.onnx", temperature="3.5")
    result = check(folder, (folder / "run", tmp_path / "warm.onnx", held_out))
    assert result["a"]["ece"]["value"] == pytest.approx(result["b"]["ece"]["value"], abs=1e-4)
    assert open_model(tmp_path / "warm.onnx").temperature == 3.5


def test_classes_in_another_order_are_brought_to_one(folder, tmp_path, held_out):
    names = ["Cedar", "ash", "birch"]
    with_metadata(folder / "plain.onnx", tmp_path / "turned.onnx", classes=json.dumps(names))
    file = onnx.load(tmp_path / "turned.onnx")
    for tensor in [tensor for tensor in file.graph.initializer if tensor.name.startswith("classifier.")]:
        rows = onnx.numpy_helper.to_array(tensor)[[[*COLOURS].index(name) for name in names]]
        tensor.CopyFrom(onnx.numpy_helper.from_array(rows, tensor.name))
    onnx.save(file, tmp_path / "turned.onnx")
    result = check(folder, (folder / "run", tmp_path / "turned.onnx", held_out))
    assert result["agreement"]["value"] == 1 and result["logits"]["relative"] < 1e-4
    with_metadata(folder / "plain.onnx", tmp_path / "oak.onnx", classes=json.dumps(["ash", "birch", "oak"]))
    with pytest.raises(EdgeError, match="oak.onnx: got the classes ash, birch, oak, expected"):
        check(folder, (folder / "run", tmp_path / "oak.onnx", held_out))


def test_a_full_decode_differs_where_photos_are_large(folder, tmp_path):
    from sample_images import encoded, photo

    for i in range(12):
        path = tmp_path / "data" / "g1" / [*COLOURS][i % 3] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(320, 240, seed=i)))
    (tmp_path / "data" / "g1" / "ash" / "broken.jpg").write_bytes(b"no picture")
    result = check(tmp_path, (folder / "plain.onnx", None, None))
    assert result["pairs"][0]["b"]["kind"] == "full decode"
    assert result["logits"]["max_change"] > 0
    assert result["errors"] == ["g1/ash/broken.jpg"] and result["images"] == 13 and result["agreement"]["n"] == 12
    assert "1 images cannot be decoded: wrong in both" in result["remarks"]
    assert any("gate judges the groups alone" in line for line in result["remarks"])  # one group: no fairness
    with pytest.raises(EdgeError, match="none of 1 images can be used"):
        check(tmp_path, (folder / "plain.onnx", None, ["g1/ash/broken.jpg"]))


def test_bad_input(folder, tmp_path, held_out):
    with pytest.raises(DatasetError, match="names 1 paths that are no image of the data, first x.png"):
        check(folder, (folder / "run", None, [*held_out, "x.png"]))
    with pytest.raises(DatasetError, match="names no image"):
        check(folder, (folder / "run", None, []))
    with pytest.raises(CheckpointError):
        check(folder, (tmp_path / "absent", None, held_out))
    with pytest.raises(ModelError):
        check(folder, (tmp_path / "absent.onnx", None, held_out))
    with pytest.raises(DatasetError):
        verify(tmp_path / "absent", [Pair(folder / "run", None, None)])
    broken = onnx.load(folder / "same.onnx")
    weight = next(tensor for tensor in broken.graph.initializer if tensor.name == "classifier.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(list(weight.dims), np.nan, np.float32), weight.name))
    onnx.save(broken, tmp_path / "nan.onnx")
    with pytest.raises(ModelError, match="nan.onnx: gives logits that are not finite"):
        check(folder, (folder / "run", tmp_path / "nan.onnx", held_out))
