import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from test_export_equalize import SIDE, float_model
from test_export_to_onnx import CLASSES, logits_of, pictures

from edge.preprocess import Preprocess
from export import finetune as module
from export.calibrate import RANGES, collect, session_of
from export.finetune import TrainableGraph, UntrainableError, _limit, finetune
from export.qdq import UnfitModelError, insert, stored_tensors
from export.quantize import Quantizer, Scheme, convolutions
from export.rounding import model_scales
from export.sensitivity import logits_of as run
from export.sensitivity import sqnr_db
from export.to_onnx import to_onnx
from train.head import Head
from train.network import Network

IMAGES = pictures(32, SIDE)
TRAINED = Path(__file__).parents[1] / "models" / "mobileone_s0_fitz16_coarse_128.onnx"


@pytest.mark.parametrize("variant", ["mobileone_s0", "mobileone_s4", "mobilenet_v2", "mobilenet_v3_small"])
def test_without_rounding_it_is_the_float_network(variant):
    model = float_model(variant)
    expected = logits_of(model.SerializeToString(), IMAGES)(0, 4)
    with torch.no_grad():
        logits = TrainableGraph(model, {}, {})(torch.from_numpy(IMAGES[:4])).numpy()
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def small_model():
    """Stem, depthwise, pointwise, grouped, dilated, pointwise; a ReLU after each."""
    torch.manual_seed(0)
    options = [
        (3, 8, 3, {"stride": 2, "padding": 1}), (8, 8, 3, {"groups": 8, "padding": 1}), (8, 16, 1, {}),
        (16, 16, 3, {"groups": 4, "padding": 1}), (16, 16, 3, {"dilation": 2, "padding": 2}), (16, 16, 1, {}),
    ]
    layers = [layer for i, o, k, more in options for layer in (nn.Conv2d(i, o, k, **more), nn.ReLU())]
    network = Network(nn.Sequential(*layers), Head(16, 3)).eval()
    nn.init.normal_(network.head.fc.weight)
    return to_onnx(network, preprocess=Preprocess(size_px=SIDE), metadata=CLASSES)[0]


@pytest.mark.parametrize("excluded", [[], [2], [0, 4, 5]])
def test_with_rounding_it_is_the_int8_file(excluded):
    model = small_model()
    names = convolutions(model)
    scheme = Scheme("nothing", "percentile-99.99", True, True, False, exclude=tuple(names[i] for i in excluded))
    steps = model_scales(model, [*scheme.exclude, names[-1]], per_channel=True)
    ranges = {name: RANGES[scheme.ranges](histogram) for name, histogram in collect(model, IMAGES).items()}
    rounded = TrainableGraph(model, steps, {}).weights()  # to the nearest
    start = with_weights(model, rounded)
    written = with_weights(model, rounded)
    file = insert(
        written, collect(model, IMAGES), steps, ranges=scheme.ranges, per_channel=scheme.per_channel
    )
    stored = {name: values for name, values in ranges.items() if name in stored_tensors(file)}
    expected = run(session_of(file, optimize=False), IMAGES)
    with torch.no_grad():
        logits = TrainableGraph(start, steps, stored)(torch.from_numpy(IMAGES)).numpy()
    assert sqnr_db(expected, logits) > max(60, sqnr_db(run(session_of(model), IMAGES), expected) + 10)


def with_weights(model, values):
    """A copy of a model with other initializers."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for entry in copied.graph.initializer:
        if entry.name in values:
            entry.CopyFrom(onnx.numpy_helper.from_array(values[entry.name], entry.name))
    return copied


@pytest.mark.slow
def test_layers_left_float_are_left_alone_and_the_better_file_is_kept():
    model = small_model()
    names = convolutions(model)
    quantizer = Quantizer(model, IMAGES)
    reference = run(session_of(model), IMAGES)
    for exclude in ((), tuple(names[:1])):
        plain, tuned = (quantizer(Scheme("nothing", exclude=exclude, epochs=epochs)) for epochs in (0, 12))
        before, after = (sqnr_db(reference, run(session_of(file), IMAGES)) for file in (plain, tuned))
        description = json.loads({entry.key: entry.value for entry in tuned.metadata_props}["quantization"])
        assert after >= before and ("finetuning" in description) == (after > before)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    tuned_weights = [onnx.numpy_helper.to_array(entry) for entry in tuned.graph.initializer]
    assert any(entry.shape == weight.shape and np.allclose(entry, weight, atol=0) for entry in tuned_weights)


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
def test_it_learns_to_answer_as_the_float_network():
    model, images = onnx.load(TRAINED), pictures(64, 128)
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
