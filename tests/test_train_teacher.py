import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from edge.errors import EdgeError, ModelError
from edge.photo.preprocess import Preprocess
from train import checkpoint
from train.config import ModelConfig, TrainConfig
from train.networks.network import build
from train.networks.teacher import Member, Teacher, load_teacher, soft_labels

CLASSES = ("ash", "birch", "Cedar")


class Quadrants(nn.Module):
    """Looks at one corner alone, so that a flip changes the answer. Counts its calls."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.dropout = nn.Dropout(0.5)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return self.factor * self.dropout(images[:, :, : images.shape[2] // 2, : images.shape[3] // 2].mean((2, 3)))


def member(factor=3.0, *, side=8, classes=CLASSES, marks=frozenset({"a"}), sha256="x"):
    return Member(Quadrants(factor), Preprocess(size_px=side), classes, sha256, marks)


def pictures(preprocess, num_images=5):
    small = np.random.default_rng(0).integers(256, size=(num_images, 4, 4, 3), dtype=np.uint8)
    return small.repeat(preprocess.size_px // 4, axis=1).repeat(preprocess.size_px // 4, axis=2)


def probabilities(module, images):
    """Naive: one picture, one softmax."""
    rows = []
    for image in images:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        rows.append(torch.softmax(module(pixels), dim=1)[0])
    return torch.stack(rows).detach()


def test_answers_are_averaged_as_probabilities_in_the_students_order():
    members = [member(3.0, side=8), member(-5.0, side=16, classes=("Cedar", "ash", "birch"), marks=frozenset({"b"}))]
    teacher = Teacher(members, classes=CLASSES)
    batches = [pictures(preprocess) for preprocess in teacher.preprocesses]
    assert [batch.shape[1] for batch in batches] == [8, 16]
    answer = teacher.log_probabilities(batches)
    first, second = (probabilities(m.network, batch) for m, batch in zip(members, batches))
    assert torch.allclose(answer.exp(), (first + second[:, [1, 2, 0]]) / 2, atol=1e-6)
    assert answer.dtype == torch.float32 and not answer.requires_grad
    assert teacher.marks == {"a", "b"}


def test_soft_labels_are_averaged_over_flips(monkeypatch):
    monkeypatch.setattr("train.networks.teacher._BATCH_SIZE", 2)
    teacher = Teacher([member(3.0), member(-2.0, side=16)], classes=CLASSES)
    expected = torch.zeros(5, 3)
    for number, preprocess in enumerate(teacher.preprocesses):
        images = pictures(preprocess)
        for flipped in (images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1]):
            expected += probabilities(teacher._networks[number], flipped) / 8
    labels = soft_labels(teacher, pictures, key="k", quiet=True)
    assert labels.shape == (5, 3) and labels.dtype == np.float32
    assert np.allclose(np.exp(labels), expected, atol=1e-6)


def test_a_sure_teacher_has_finite_logarithms():
    teacher = Teacher([member(1e4), member(-1e4)], classes=CLASSES)
    assert np.isfinite(soft_labels(teacher, pictures, key="k", quiet=True)).all()


def test_the_cache_knows_teacher_and_pictures(tmp_path):
    network = member().network
    teacher = Teacher([Member(network, Preprocess(size_px=8), CLASSES, "x", None)], classes=CLASSES)
    first = soft_labels(teacher, pictures, key="k", cache=tmp_path / "new", quiet=True)
    calls = network.calls
    again = soft_labels(teacher, lambda preprocess: pytest.fail("loaded"), key="k", cache=tmp_path / "new", quiet=True)
    assert network.calls == calls and np.array_equal(first, again)
    soft_labels(teacher, pictures, key="other", cache=tmp_path / "new", quiet=True)
    for kept in (tmp_path / "new").iterdir():
        kept.write_bytes(kept.read_bytes()[:-40])
    with pytest.raises(ModelError, match="damaged, delete it"):
        soft_labels(teacher, pictures, key="k", cache=tmp_path / "new", quiet=True)
    assert network.calls > calls
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert len(names) == 2 and all(name.endswith(".npz") for name in names)


def test_the_digest_covers_weights_preprocessing_and_order():
    teachers = [
        Teacher([member()], classes=CLASSES),
        Teacher([member(sha256="y")], classes=CLASSES),
        Teacher([member(side=16)], classes=CLASSES),
        Teacher([member()], classes=CLASSES[::-1]),
        Teacher([member(), member()], classes=CLASSES),
    ]
    assert len({teacher.sha256 for teacher in teachers}) == len(teachers)


def test_other_classes_are_refused():
    with pytest.raises(ModelError, match="got the classes ash, oak, expected the student's ash, birch") as caught:
        Teacher([member(classes=("ash", "oak"))], classes=("ash", "birch"))
    assert caught.value.exit_status == 4


def own_checkpoint(monkeypatch, **changes):
    config = TrainConfig(model=ModelConfig(network="mobilenet_v3_small", neck=True))
    torch.manual_seed(0)
    network = build(config.model, len(CLASSES))
    values = {
        "config": config.to_dict(),
        "classes": list(CLASSES),
        "preprocess": Preprocess(size_px=64, scale=(0.01, 0.02, 0.03)).to_json(),
        "weights": network.state_dict(),
        "clusters": ["0123456789abcdef"],
        "pictures": [],
        "leaky": False,
    }
    monkeypatch.setattr(checkpoint, "load", lambda path: SimpleNamespace(**{**values, **changes}))
    return network.eval()


def test_our_own_checkpoints(tmp_path, monkeypatch):
    network = own_checkpoint(monkeypatch)
    (tmp_path / checkpoint.NAME).write_bytes(b"weights")
    student = ("birch", "ash", "Cedar")
    teacher = load_teacher([tmp_path, tmp_path / checkpoint.NAME], classes=student)
    assert teacher.marks == {"0123456789abcdef"}
    images = pictures(teacher.preprocesses[0], 2)
    with torch.no_grad():
        scaled = torch.from_numpy(images).permute(0, 3, 1, 2) * torch.tensor([0.01, 0.02, 0.03]).view(3, 1, 1)
        expected = torch.log_softmax(network(scaled), dim=1)[:, [1, 0, 2]]
    assert torch.allclose(teacher.log_probabilities([images, images]), expected, atol=1e-5)


def test_a_leaky_or_foreign_checkpoint(tmp_path, monkeypatch):
    (tmp_path / checkpoint.NAME).write_bytes(b"weights")
    own_checkpoint(monkeypatch, leaky=True)
    assert load_teacher([tmp_path], classes=CLASSES).marks is None
    own_checkpoint(monkeypatch, weights={})
    with pytest.raises(ModelError, match="another version") as caught:
        load_teacher([tmp_path], classes=CLASSES)
    assert "\n" not in str(caught.value)


def test_one_member_that_does_not_tell_makes_the_teacher_silent():
    assert Teacher([member(), member(marks=None)], classes=CLASSES).marks is None


def saved_swin(folder, names=CLASSES):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Swinv2Config(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4,
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )
    model = transformers.Swinv2ForImageClassification(config).eval()
    model.save_pretrained(folder)
    return model


def test_swin(tmp_path):
    model = saved_swin(tmp_path)
    teacher = load_teacher([tmp_path], classes=("Cedar", "ash", "birch"))
    assert teacher.preprocesses[0].size_px == 64 and teacher.marks is None
    images = pictures(teacher.preprocesses[0], 2)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(((images / 255 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = torch.log_softmax(model(pixel_values=pixels).logits, dim=1)[:, [2, 0, 1]]
    assert torch.allclose(teacher.log_probabilities([images]), expected, atol=1e-5)


def test_damaged_swin(tmp_path):
    model = saved_swin(tmp_path)
    with pytest.raises(ModelError, match="expected the student's a, b"):
        load_teacher([tmp_path], classes=("a", "b"))
    from safetensors.torch import save_file

    state = {name: x for name, x in model.state_dict().items() if name != "classifier.weight"}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 tensors are missing or of another shape, e.g. classifier.weight"):
        load_teacher([tmp_path], classes=CLASSES)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(ModelError, match="no classifier of transformers") as caught:
        load_teacher([tmp_path], classes=CLASSES)
    assert "\n" not in str(caught.value)


def test_swin_without_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(EdgeError, match=r"needs transformers: pip install .* in the checkout") as caught:
        load_teacher([tmp_path], classes=CLASSES)
    assert caught.value.exit_status == 5
