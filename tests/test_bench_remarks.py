"""What no figure shows is said in a line: names that look like one, a model that always answers the same."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnx
import pytest
from make_tiny import PATH as TINY
from sample_networks import COLOURS, dataset

import bench.cli
import export.cli
import train.cli
from bench import evaluate
from bench.remarks import lookalikes, one_answer
from edge.classifier import Classifier
from edge.exit import remark, run
from edge.predictions import Layout, Prediction
from train.loop import run as training


def test_names_that_differ_in_case_blanks_or_accents():
    names = ["MEL", "mel", "Mel ", "NV", "B\tK L", "bkl", "caf\u00e9", "cafe\u0301", "\uff2d\uff25\uff2c", "unknown"]
    found = list(lookalikes("classes", [*names, "NV"]))
    assert [line.split(" look ")[0] for line in found] == [
        r"the classes 'B\tK L', 'bkl'",
        r"the classes 'MEL', 'Mel ', 'mel', '\uff2d\uff25\uff2c'",
        r"the classes 'cafe\u0301', 'caf\xe9'",
    ]
    assert found[1].endswith("look like one (case, blanks, accents), and count as 4")
    assert not [*lookalikes("groups", ["A", "B", "A1", "I-II", "III"])]


def test_one_answer_to_everything():
    assert one_answer(["NV"] * 12 + [None]) == "the model answers NV to every picture (12): it tells nothing apart"
    assert one_answer(["NV"] * 12 + ["MEL"]) is None and one_answer(["NV"] * 9) is None and one_answer([]) is None


def test_a_remark_is_said_once_and_only_for_a_command(capsys, monkeypatch):
    def twice():
        remark("odd")
        remark("odd")
        return 0

    remark("nobody asked")
    for quiet in (False, True):
        assert run("edge-x", twice, Namespace(quiet=quiet)) == 0
    monkeypatch.setenv("RANK", "1")
    run("edge-x", twice)
    assert capsys.readouterr().err == "edge-x: odd\n"


@pytest.fixture
def alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = zip(["MEL", "mel", "NV"] * 8, ["A", "A ", "B"] * 8, strict=True)
    rows = [f"{i}.png,{label},{group}" for i, (label, group) in enumerate(names)]
    (tmp_path / "data").mkdir()
    for i in range(len(rows)):
        (tmp_path / "data" / f"{i}.png").touch()
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(["path,class,group", *rows]) + "\n")
    layout = Layout(("MEL", "mel", "NV"), timing=False)
    answers = [Prediction(f"{i}.png", "NV", 2, 0.9) for i in range(len(rows))]
    (tmp_path / "p.csv").write_bytes(layout.header({}) + b"".join(map(layout.encode, answers)))


SAID = [
    "the classes 'MEL', 'mel' look like one (case, blanks, accents), and count as 2",
    "the groups 'A', 'A ' look like one (case, blanks, accents), and count as 2",
]


def test_commands_say_it_once(alike, capsys):
    assert train.cli.main(["folds", "data", "-o", "folds.csv", "--folds", "2"]) == 0
    assert capsys.readouterr().err.splitlines()[:2] == [f"edge-train: {line}" for line in SAID]
    assert train.cli.main(["folds", "data", "-o", "folds.csv", "--folds", "2", "--force", "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert bench.cli.main(["score", "p.csv", "--data", "data", "-o", "r.json"]) == 0
    said = capsys.readouterr().err
    for line in [*SAID, "the model answers NV to every picture (24): it tells nothing apart"]:
        assert said.count(line) == 1
        assert line in json.loads(Path("r.json").read_text())["warnings"]  # the report shows them


def test_columns_that_look_like_the_one_that_is_missing(tmp_path, capsys):
    (tmp_path / "manifest.csv").write_text("path, Class,group\n")
    assert train.cli.main(["folds", str(tmp_path), "-o", str(tmp_path / "f.csv")]) == 3
    assert "the columns ' Class', 'class' look like one" in capsys.readouterr().err


def test_arrays_are_held_to_the_same():
    warnings = evaluate(["a", "b"] * 8, ["a"] * 16, sensitive_features=["x", "X"] * 8).warnings
    assert any("the groups 'X', 'x' look like one" in line for line in warnings)
    assert any("answers a to every picture (16)" in line for line in warnings)
    assert not any("answers" in line for line in evaluate(["a"] * 16, ["a"] * 16, classes=["a", "b"]).warnings)


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
    """A model whose last layer sees nothing, and pictures of its classes."""
    root = tmp_path_factory.mktemp("constant")
    model = onnx.load(TINY)
    last = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul", "Conv")][-1]
    for tensor in model.graph.initializer:
        if tensor.name in last.input:
            values = np.zeros(tensor.dims, np.float32)
            values.flat[: 1 if values.ndim == 1 else 0] = 3  # of the bias
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    metadata = {entry.key: entry.value for entry in model.metadata_props} | {"classes": json.dumps([*COLOURS])}
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, root / "m.onnx")
    assert {*Classifier.load(root / "m.onnx").logits(np.zeros((2, 32, 32, 3), np.uint8)).argmax(1)} == {0}
    return root / "m.onnx", dataset(root / "data", 24)


def test_exports_of_a_constant_model_say_so(constant, tmp_path, capsys):
    model, data = map(str, constant)
    int8 = ["int8", model, "--calibrate", data, "-n", "16", "-o", str(tmp_path / "int8.onnx")]
    assert export.cli.main(int8) == 0
    assert "edge-export: the model answers ash to every picture tried (16): it tells" in capsys.readouterr().err
    assert export.cli.main(["verify", model, model, "--data", data]) == 0
    said = capsys.readouterr().err
    assert "A: the model answers ash to every picture (24)" in said and "B: the model answers ash" in said


@pytest.mark.parametrize(("quiet", "amp", "lines"), [(False, "fp16", 2), (False, "none", 1), (True, "fp16", 0)])
def test_a_training_says_what_came_of_it(quiet, amp, lines, alike, capsys, monkeypatch):
    def pretend(plan, ranks, *, say):
        plan.out.mkdir(exist_ok=True)
        (plan.out / training.PREDICTIONS).write_bytes(Path("p.csv").read_bytes())
        return training.Outcome({}, 0)

    monkeypatch.setattr(training, "run", pretend)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert train.cli.main(["fit", "data", "--out", "run", "--amp", amp, *["-q"] * quiet]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "next: " not in line]
    assert len(said) == lines
    assert quiet or said[-1] == "edge-train: the model answers NV to every picture (24): it tells nothing apart"
    text = "edge-train: --amp fp16 needs CUDA: on this processor the network is trained in float32"
    assert (text in said) == (lines == 2)
