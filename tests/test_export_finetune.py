import numpy as np
import onnx
import pytest
import torch
from test_export_equalize import SIDE, float_model
from test_export_to_onnx import logits_of, pictures

from edge.classifier import DEFAULT_MODEL
from export import finetune as module
from export.calibrate import RANGES, collect, session_of
from export.finetune import TrainableGraph, UntrainableError, _limit, finetune
from export.quantize import Quantizer, Scheme, UnfitModelError, convolutions
from export.rounding import model_scales
from export.sensitivity import logits_of as run
from export.sensitivity import sqnr_db

IMAGES = pictures(32, SIDE)
needs_bundled = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason="the bundled model is absent")


@pytest.mark.parametrize("variant", ["mobileone_s0", "mobileone_s4", "mobilenet_v2", "mobilenet_v3_small"])
def test_without_rounding_it_is_the_float_network(variant):
    model = float_model(variant)
    expected = logits_of(model.SerializeToString(), IMAGES)(0, 4)
    with torch.no_grad():
        logits = TrainableGraph(model, {}, {})(torch.from_numpy(IMAGES[:4])).numpy()
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


@needs_bundled
def test_with_rounding_it_is_the_int8_file():
    model, images = onnx.load(DEFAULT_MODEL), pictures(16, 128)
    scheme = Scheme("nothing", "minmax", round_jointly=False, correct_biases=False)
    expected = run(session_of(Quantizer(model, images)(scheme), optimize=False), images)
    names = convolutions(model)
    ranges = {name: RANGES["minmax"](histogram) for name, histogram in collect(model, images).items()}
    graph = TrainableGraph(model, model_scales(model, names[-1:], per_channel=True), ranges)
    with torch.no_grad():
        logits = graph(torch.from_numpy(images)).numpy()
    # What is left are halves, which one rounds up and the other down.
    assert sqnr_db(expected, logits) > sqnr_db(run(session_of(model), images), expected) + 3


def test_neighbours_are_drawn_back_to_what_cannot_saturate():
    rng = np.random.default_rng(0)
    levels = torch.from_numpy(rng.integers(-127, 128, (64, 7, 1, 1)).astype(np.float32))
    limited = _limit(levels)
    assert limited.shape == levels.shape
    pairs, before = limited[:, :6].reshape(-1, 2), levels[:, :6].reshape(-1, 2)
    is_over = (before.prod(dim=1) > 0) & (before.sum(dim=1).abs() > 128)
    assert is_over.any() and not is_over.all()
    assert torch.equal(pairs[~is_over], before[~is_over]) and torch.equal(limited[:, 6], levels[:, 6])
    assert set(pairs[is_over].sum(dim=1).abs().tolist()) <= {127.0, 128.0}


@pytest.mark.slow
@needs_bundled
def test_it_learns_to_answer_as_the_float_network():
    model, images = onnx.load(DEFAULT_MODEL), pictures(64, 128)
    steps = model_scales(model, convolutions(model)[-1:], per_channel=False)
    ranges = {name: RANGES["minmax"](histogram) for name, histogram in collect(model, images).items()}
    reference = run(session_of(model), images)

    def fidelity(weights):
        with torch.no_grad():
            return sqnr_db(reference, TrainableGraph(weights, steps, ranges)(torch.from_numpy(images)).numpy())

    assert fidelity(finetune(model, model, images, steps, ranges, epochs=8)) > fidelity(model) + 0.5


def test_dense_kernels_keep_their_weights_and_others_move():
    model = float_model("mobilenet_v3_small")
    steps = model_scales(model, convolutions(model)[-1:], per_channel=True)
    ranges = {name: RANGES["minmax"](histogram) for name, histogram in collect(model, IMAGES).items()}
    nearest = TrainableGraph(model, steps, ranges).weights()
    tuned = finetune(model, model, IMAGES, steps, ranges, epochs=3)
    values = {entry.name: onnx.numpy_helper.to_array(entry) for entry in tuned.graph.initializer}
    stem, *_, last, _ = (node for node in model.graph.node if node.op_type == "Conv")
    assert np.array_equal(values[stem.input[1]], nearest[stem.input[1]])
    assert not np.array_equal(values[last.input[1]], nearest[last.input[1]])
    levels = values[last.input[1]] / steps[last.name].reshape(-1, 1, 1, 1)
    assert np.abs(levels - np.round(levels)).max() < 1e-3


def test_what_cannot_be_trained_is_refused(monkeypatch):
    model = float_model()
    model.graph.node[3].op_type = "Erf"
    with pytest.raises(UntrainableError, match="got the operator Erf"):
        TrainableGraph(model, {}, {})
    with pytest.raises(UnfitModelError, match="the model cannot be fine-tuned: got the operator Relu"):
        monkeypatch.delitem(module._OPERATORS, "Relu")
        Quantizer(float_model(), IMAGES)(Scheme(correct_biases=False, epochs=1))
    with pytest.raises(ValueError, match="epochs: got 1, expected 0 without round_jointly"):
        Scheme(round_jointly=False, epochs=1)
