import sys

import onnx
from sample_images import TINY_MODEL

from export.simplify import simplify


def test_simplified_or_left_alone_with_a_reason(monkeypatch):
    model = onnx.load(TINY_MODEL)
    simplified, remark = simplify(model)
    assert remark is None and len(simplified.graph.node) == len(model.graph.node)
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    assert simplify(model) == (model, "onnxsim is not installed: graph left as exported")


def test_a_failure_is_a_remark(monkeypatch):
    import onnxsim

    def fail(model):
        raise RuntimeError("no\nway")

    model = onnx.load(TINY_MODEL)
    monkeypatch.setattr(onnxsim, "simplify", fail)
    assert simplify(model) == (model, "onnxsim failed (no): graph left as exported")
    monkeypatch.setattr(onnxsim, "simplify", lambda model: (onnx.ModelProto(), False))
    assert simplify(model) == (model, "onnxsim changed the outputs: graph left as exported")
