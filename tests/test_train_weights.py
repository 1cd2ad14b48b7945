import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sample_networks import relative_error
from torch import nn

from bench.provenance import SEALED, marks_sha256, seal
from edge.classifier import Classifier
from edge.errors import ModelError
from edge.photo.preprocess import Preprocess
from train import checkpoint
from train.config import ModelConfig
from train.networks import mobileone
from train.networks.network import build
from train.networks.tensor_names import names_of
from train.networks.weights import IMAGENET_MEAN, IMAGENET_STD, load_weights

SCALE = 1 / 255
ALL_STAGES = mobileone._STAGES


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """Eight blocks in place of 21: they have every kind of name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mobileone, "_STAGES", ((64, 2, 0), (128, 2, 0), (256, 3, 2), (512, 1, 1)))
        yield


def network(name="mobileone_s1", num_classes=3, **options):
    torch.manual_seed(0)
    return build(ModelConfig(network=name, **options), num_classes)


@pytest.fixture(scope="module")
def unchanged():
    """For files that are refused."""
    return network()


def random_state(model, naming, num_classes=1000):
    """What a publisher's file holds: random tensors by their names, with a classifier of theirs."""
    generator = torch.Generator().manual_seed(1)
    state, tensors = {}, model.state_dict()
    for own, name in names_of(model, naming).items():
        shape = tensors[own].shape
        shape = (num_classes, *shape[1:]) if own.startswith("head.fc") else shape
        is_counter = name.endswith("num_batches_tracked")
        state[name] = torch.tensor(7) if is_counter else torch.rand(shape, generator=generator) + 0.5
    return state


def written(tmp_path, state, name="weights.safetensors"):
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def settle(model, images):
    """BatchNorm statistics of these images, as in a module that was trained on them; evaluation mode."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
            norm.momentum = 1.0
        model.train()(images)
    return model.eval()


@pytest.mark.parametrize("variant", ["s0", "s4"])  # all kinds of names: several branches, and the attention's
def test_apple_to_ours_to_timm_and_back(tmp_path, monkeypatch, variant):
    monkeypatch.setattr(mobileone, "_STAGES", ALL_STAGES)
    first, second = network(f"mobileone_{variant}"), network(f"mobileone_{variant}")
    as_it_is = {"scale": 1.0, "mean": (0.0, 0.0, 0.0), "std": (SCALE,) * 3}  # an input that needs no matching
    apple = random_state(first, "apple", num_classes=3)
    report = load_weights(first, written(tmp_path, apple), **as_it_is)
    assert (report.naming, report.loaded, report.missing) == ("apple", len(apple), [])
    ours = first.state_dict()
    timm = {name: ours[own] for own, name in names_of(first, "timm").items()}
    assert load_weights(second, written(tmp_path, timm), **as_it_is).naming == "timm"
    again = second.state_dict()
    assert all(torch.equal(again[own], apple[name]) for own, name in names_of(second, "apple").items())
    assert len(set(timm)) == len(apple)


def test_names_are_the_published():
    s0, s4 = network("mobileone_s0"), network("mobileone_s4")
    apple, timm = names_of(s0, "apple"), names_of(s0, "timm")
    assert apple["body.stem.conv_branches.0.conv.weight"] == "stage0.rbr_conv.0.conv.weight"
    assert timm["body.stem.scale.bn.running_var"] == "stem.conv_scale.bn.running_var"
    assert apple["body.stages.2.5.conv_branches.3.bn.bias"] == "stage3.5.rbr_conv.3.bn.bias"
    assert timm["body.stages.2.5.identity.weight"] == "stages.2.5.identity.weight"
    assert apple["body.stages.2.5.identity.weight"] == "stage3.5.rbr_skip.weight"
    assert (apple["head.fc.weight"], timm["head.fc.weight"]) == ("linear.weight", "head.fc.weight")
    assert names_of(s4, "timm")["body.stages.3.1.se.reduce.bias"] == "stages.3.1.attn.fc1.bias"
    assert names_of(s4, "apple")["body.stages.3.1.se.expand.bias"] == "stage4.1.se.expand.bias"
    v2 = names_of(network("mobilenet_v2"), "torchvision")
    assert v2["body.stem.bn.weight"] == "features.0.1.weight"
    assert v2["body.blocks.0.layers.1.conv.weight"] == "features.1.conv.1.weight"
    assert v2["body.blocks.0.layers.1.bn.weight"] == "features.1.conv.2.weight"
    assert v2["body.blocks.16.layers.1.bn.weight"] == "features.17.conv.1.1.weight"
    assert (v2["body.last.conv.weight"], v2["head.fc.bias"]) == ("features.18.0.weight", "classifier.1.bias")
    v3 = names_of(network("mobilenet_v3_small"), "torchvision")
    assert v3["body.blocks.0.layers.1.reduce.bias"] == "features.1.block.1.fc1.bias"
    assert v3["body.blocks.10.layers.3.bn.bias"] == "features.11.block.3.1.bias"
    assert v3["body.last.bn.weight"] == "features.12.1.weight"


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_torchvision_names(tmp_path, name):
    model = network(name)
    state = random_state(model, "torchvision")
    if name == "mobilenet_v3_small":
        state = {name: x for name, x in state.items() if not name.startswith("head")}
        state |= {"classifier.0.weight": torch.rand(1024, 576), "classifier.3.weight": torch.rand(1000, 1024)}
    report = load_weights(model, written(tmp_path, state), scale=SCALE)
    body = [own for own in model.state_dict() if own.startswith("body.")]
    assert (report.naming, report.loaded, len(report.skipped_head)) == ("torchvision", len(body), 2)
    last = names_of(model, "torchvision")["body.last.conv.weight"]
    assert torch.equal(model.state_dict()["body.last.conv.weight"], state[last])


@pytest.mark.parametrize("name", ["mobileone_s1", "mobilenet_v2", "mobilenet_v3_small"])
def test_the_mean_is_folded_into_the_stem(tmp_path, name):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = torch.randint(256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    normalised = (pixels / 255 - mean) / std
    theirs, ours = network(name), network(name)
    settle(theirs.body.stem, normalised)
    naming = "torchvision" if "net_" in name else "timm"
    tensors = theirs.state_dict()
    state = {name: tensors[own] for own, name in names_of(theirs, naming).items()}
    for scale in (SCALE, (0.01, 0.004, 0.02)):
        load_weights(ours.eval(), written(tmp_path, state), scale=scale)
        with torch.no_grad():
            expected = theirs.body.stem(normalised)
            actual = ours.body.stem(pixels * torch.tensor(scale).expand(3).view(3, 1, 1))
        interior = (..., slice(1, -1), slice(1, -1))
        assert relative_error(actual[interior], expected[interior]) < 1e-5
        assert relative_error(actual, expected) > 1e-2  # the border: padding was the mean colour and is black


def test_training_statistics_do_not_see_the_mean(tmp_path):
    model = network("mobileone_s1")
    load_weights(model, written(tmp_path, random_state(model, "timm")), scale=SCALE)
    branch = model.body.stem.scale  # 1x1: has no border
    pixels = torch.rand(2, 3, 8, 8)
    normalised = (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    weight = random_state(model, "timm")["stem.conv_scale.conv.weight"]
    expected = functional_norm(nn.functional.conv2d(normalised, weight, stride=2), branch.bn)
    assert relative_error(branch.train()(pixels).detach(), expected.detach()) < 1e-4


def functional_norm(x, bn):
    return nn.functional.batch_norm(x, None, None, bn.weight, bn.bias, training=True)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{name}": x for name, x in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.model.{name}": x for name, x in state.items()}, "args": "..."},
    ],
)
def test_wrappers_and_prefixes(tmp_path, wrap):
    model = network()
    state = random_state(model, "apple")
    report = load_weights(model, written(tmp_path, wrap(state), "weights.pth.tar"), scale=SCALE)
    assert report.naming == "apple" and report.marks == frozenset()
    assert report.skipped_head == ["head.fc.bias", "head.fc.weight"] == sorted(report.missing)
    assert report.line.endswith("by apple names, the head begins anew (2 tensors of the file's classifier left out)")
    name = "body.stages.1.3.conv_branches.0.conv.weight"
    assert torch.equal(model.state_dict()[name], state[names_of(model, "apple")[name]])


@pytest.mark.parametrize("options", [{"head": "cosine"}, {"neck": True}])
def test_a_head_of_another_form_begins_anew(tmp_path, options):
    model = network(**options)
    before = model.head.fc.weight.clone()
    path = written(tmp_path, random_state(network(), "timm", num_classes=3))
    report = load_weights(model, path, scale=SCALE)
    assert report.missing == [name for name in model.state_dict() if name.startswith("head.")]
    assert report.marks is None  # three classes are not ImageNet's
    assert torch.equal(model.head.fc.weight, before)


def test_our_own_state_dict(tmp_path):
    model, other = network(neck=True), network(neck=True)
    nn.init.normal_(other.head.fc.weight)
    report = load_weights(model, written(tmp_path, other.state_dict()), scale=SCALE)
    assert (report.naming, report.missing, report.skipped_head) == ("ours", [], [])
    expected = other.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in model.state_dict().items())
    assert len(report.sha256) == 64 and report.marks is None


@pytest.mark.parametrize("classes,head_kept", [(["a", "b", "c"], True), (["b", "a", "c"], False)])
def test_a_checkpoint(tmp_path, monkeypatch, classes, head_kept):
    model, other = network(), network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    state = SimpleNamespace(
        config={"model": {"network": "mobileone_s1"}},
        weights=other.state_dict(),
        classes=["a", "b", "c"],
        preprocess=Preprocess(scale=(0.1, 0.2, 0.4)).to_json(),
        clusters=["0123456789abcdef"],
        pictures=[],
        leaky=not head_kept,
        data_name="moles",
        recipe="small",
        sources={checkpoint.IMAGENET: "cafe", checkpoint.ORIGIN: "of data ham10, recipe lite; licence CC BY-NC-SA 4.0"},
    )
    monkeypatch.setattr(checkpoint, "load", lambda path: state)
    written(tmp_path, {"schema": "any"}, checkpoint.NAME)
    report = load_weights(model, tmp_path, scale=(0.2, 0.2, 0.2), classes=classes)
    assert (report.missing == []) == head_kept == torch.equal(model.head.fc.bias, other.head.fc.bias)
    assert report.marks == ({"0123456789abcdef"} if head_kept else None)
    assert report.said.startswith("of data moles, recipe small; began with weights of data ham10, recipe lite; licence")
    assert report.imagenet_sha256 == "cafe"  # what the run began with is told of what begins with it
    gain = torch.tensor([0.5, 1, 2]).view(3, 1, 1)
    ours, theirs = (x.body.stem.scale for x in (model, other))
    assert torch.allclose(ours.conv.weight, theirs.conv.weight * gain)
    assert torch.equal(ours.bn.running_mean, theirs.bn.running_mean)


OURS = {
    "config": '{"model": {"network": "mobileone_s1"}}',
    "classes": '["a", "b", "c"]', "preprocess": Preprocess(scale=(0.1, 0.2, 0.4)).to_json(),
    "training": '{"data": "d", "recipe": "r"}', "clusters": '["0123456789abcdef"]', "pictures": '["f"]',
    "sources": '{"imagenet": "cafe"}', "license": "CC0",
}


@pytest.mark.parametrize("classes,head_kept", [("abc", True), ("bac", False), ("xyz", False), ("", False)])
def test_a_file_of_weights_of_ours(tmp_path, classes, head_kept):
    model, other = network(), network()
    nn.init.normal_(other.head.fc.bias)
    save_file(other.state_dict(), tmp_path / "w.safetensors", OURS)
    report = load_weights(model, tmp_path / "w.safetensors", scale=(0.2, 0.2, 0.2), classes=classes)
    assert (report.missing == []) == head_kept == torch.equal(model.head.fc.bias, other.head.fc.bias)
    assert report.marks == {"0123456789abcdef", "f"} and report.imagenet_sha256 == "cafe"
    assert report.line.endswith("; of data d, recipe r; licence CC0")
    assert head_kept or "the head begins anew, as the file's is of a, b, c (2 tensors" in report.line
    stem = model.body.stem.scale.conv.weight
    assert torch.allclose(stem, other.body.stem.scale.conv.weight * torch.tensor([0.5, 1, 2]).view(3, 1, 1))


@pytest.mark.parametrize("damage", [{"leaky": "true"}, {"clusters": None}, {"pictures": None}])
def test_what_a_file_of_weights_does_not_say_is_not_known(tmp_path, damage):
    said = {name: text for name, text in (OURS | damage).items() if text is not None}
    save_file(network().state_dict(), tmp_path / "w.safetensors", said)
    assert load_weights(network(), tmp_path / "w.safetensors", scale=SCALE).marks is None


@pytest.mark.parametrize("damage", [{"classes": "{"}, {"classes": "7"}, {"preprocess": "{}"}, {"config": "{}"}])
def test_damaged_metadata_is_refused(tmp_path, unchanged, damage):
    save_file(network().state_dict(), tmp_path / "w.safetensors", OURS | damage)
    with pytest.raises(ModelError, match="w.safetensors: unusable metadata: "):
        load_weights(unchanged, tmp_path / "w.safetensors", scale=SCALE)


def test_a_network_of_ours_is_named_where_another_was_expected(tmp_path):
    save_file(network().state_dict(), tmp_path / "w.safetensors", OURS)
    with pytest.raises(ModelError, match=r"weights of another network \(mobileone_s1, see --network and --recipe\): "):
        load_weights(network("mobilenet_v2"), tmp_path / "w.safetensors", scale=SCALE)


def test_a_head_of_nameless_classes_is_not_believed(tmp_path):
    path = written(tmp_path, random_state(network(), "timm", num_classes=3))
    assert load_weights(network(), path, scale=SCALE, classes="abc").missing == ["head.fc.weight", "head.fc.bias"]


def test_the_shipped_weights_are_of_the_bundled_model():
    path = Path(__file__).parents[1] / "models" / "efficientnet_lite0_ham10_128.safetensors"
    model, bundled = network("efficientnet_lite0", 6), Classifier.load()
    report = load_weights(model, path, scale=bundled.preprocess.scale, classes=bundled.classes)
    assert report.missing == [] and report.marks is not None and report.imagenet_sha256 is not None
    training = json.loads(bundled.metadata["training"])
    with safe_open(path, "pt") as file:
        clusters = json.loads(file.metadata()["clusters"])
    assert marks_sha256(clusters) == training["cluster_sha256"] and seal(clusters) == bundled.metadata[SEALED]
    assert report.line.endswith(f"; of data ham10, recipe lite; licence {bundled.metadata['license']}")
    assert len(bundled.metadata[SEALED]) < 100_000


def drop(state, part):
    return {name: x for name, x in state.items() if part not in name}


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda s: drop(s, "stages.1.3."), "unexpected, 0 of another shape, first body.stages.1.3.conv_branches.0"),
        (lambda s: {**s, "more.weight": torch.zeros(2)}, r"0 tensors missing, 1 unexpected, .*more.weight: got \(2,\)"),
        (lambda s: {**s, "stem.conv_scale.bn.bias": torch.zeros(2)}, r"1 of another shape, .* expected \(64,\)$"),
        (lambda s: {**s, "stages.0.0.conv_kxk.1.conv.weight": torch.zeros(2)}, r"\(num_conv_branches\)$"),
        (lambda s: {"stem.reparam_conv.weight": torch.zeros(2)}, "inference form"),
        (lambda s: {"something": torch.zeros(2)}, "weights of another network"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, unchanged, damage, message):
    model = unchanged
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(model, written(tmp_path, damage(random_state(model, "timm"))), scale=SCALE)
    assert caught.value.exit_status == 4 and "\n" not in str(caught.value)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_counters_may_be_absent(tmp_path):
    model = network()
    state = drop(random_state(model, "timm"), "num_batches_tracked")
    assert load_weights(model, written(tmp_path, state), scale=SCALE).loaded == len(state) - 2


@pytest.mark.parametrize(
    "content,name,message",
    [
        (None, "absent.pth", "no such file"),
        (None, "absent.safetensors", "no such file"),
        (b"junk", "junk.pth", "no readable weights"),
        (b"junk", "junk.safetensors", "no readable weights"),
        (nn.Linear(2, 2), "module.pth", "never a saved module"),
        (torch.zeros(2), "tensor.pth", "got Tensor, expected a state dict"),
    ],
)
def test_unreadable_files(tmp_path, unchanged, content, name, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(unchanged, tmp_path / name, scale=SCALE)
    assert "\n" not in str(caught.value)
