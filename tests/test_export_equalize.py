import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sample_networks import random_network
from test_export_to_onnx import CLASSES, logits_of, pictures

from edge.photo.preprocess import Preprocess
from export.int8.calibrate import collect, session_of
from export.int8.equalize import correct_biases, equalize
from export.int8.gptq import model_scales
from export.int8.qdq import insert, shortened
from export.int8.quantize import convolutions, quantize
from export.to_onnx import to_onnx

SIDE = 64


def float_model(variant="mobileone_s0", *, side=SIDE):
    return to_onnx(random_network(variant), preprocess=Preprocess(size_px=side), metadata=CLASSES)[0]


@pytest.fixture(scope="module")
def model():
    return float_model()


def spread(model, amount, *, seed=0):
    """The same function with channels of very different ranges, as long training leaves them."""
    spread_out = onnx.ModelProto()
    spread_out.CopyFrom(model)
    rng = np.random.default_rng(seed)
    entries = {entry.name: entry for entry in spread_out.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "Conv"][:-1]
    for first, second in zip(nodes, nodes[1:]):
        weight, bias, following = (numpy_helper.to_array(entries[n]) for n in (*first.input[1:], second.input[1]))
        s = np.exp(rng.normal(0, amount, len(weight))).astype(np.float32)
        shape = (-1, 1, 1, 1) if following.shape[1] == 1 else (1, -1, 1, 1)
        scaled = weight * s[:, None, None, None], bias * s, following / s.reshape(shape)
        for name, value in zip((*first.input[1:], second.input[1]), scaled):
            entries[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return spread_out


def error(model, other, num_images=4, *, side=SIDE):
    images = pictures(num_images, side, seed=5)
    expected, actual = (logits_of(m.SerializeToString(), images)(0, num_images) for m in (model, other))
    return np.abs(actual - expected).max() / np.abs(expected).max()


S4 = pytest.param("mobileone_s4", marks=pytest.mark.slow)


@pytest.mark.parametrize("variant", ["mobileone_s0", S4, "mobilenet_v3_small", "mobilenet_v2"])
def test_equalised_model_gives_the_same_bits(variant):
    model = float_model(variant, side=32)
    equalized = equalize(model, pictures(16, 32))
    changed = model.SerializeToString() != equalized.SerializeToString()
    assert changed == (variant != "mobilenet_v2")  # which has ReLU6 alone, and that one has a scale
    assert error(model, equalized, side=32) == 0


def test_activations_before_a_depthwise_layer_have_equal_ranges(model):
    images = pictures(16, SIDE)
    equalized = equalize(model, images)
    second = [node for node in equalized.graph.node if node.op_type == "Conv"][1]
    values = session_of(equalized, [second.input[0]]).run([second.input[0]], {"images": images})[0]
    largest = values.max(axis=(0, 2, 3))
    assert largest.max() / largest[largest > 0.02 * largest.max()].min() < 2.01


def to_nearest(model, images):
    """The int8 form without the steps before and after: ranges, and weights rounded to the nearest."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return shortened(insert(copied, collect(model, images), model_scales(model, convolutions(model)[:-1])))


def test_equalisation_saves_a_network_of_uneven_channels(model):
    images = pictures(32, SIDE)
    uneven = spread(model, 1.4)
    plain, equalized = (to_nearest(file, images) for file in (uneven, equalize(uneven, images)))
    assert error(model, equalized) < 0.5 * error(model, plain)


def test_corrected_biases_bring_the_means_back(model):
    images = pictures(32, SIDE)
    quantized = to_nearest(model, images)
    corrected = correct_biases(model, quantized, images)

    def bias_of(other):
        expected, actual = (logits_of(m.SerializeToString(), images)(0, 32).mean(axis=0) for m in (model, other))
        return np.abs(actual - expected).max()

    assert bias_of(corrected) < 0.5 * bias_of(quantized)
    assert len(corrected.SerializeToString()) == pytest.approx(len(quantized.SerializeToString()), rel=0.001)


@pytest.mark.slow
def test_a_range_of_zeros_and_a_dead_channel_are_harmless(model):
    dead = onnx.ModelProto()
    dead.CopyFrom(model)
    node = next(node for node in dead.graph.node if node.op_type == "Conv")
    for entry in dead.graph.initializer:
        if entry.name in node.input:
            value = numpy_helper.to_array(entry).copy()
            value[:3] = 0
            entry.CopyFrom(numpy_helper.from_array(value, entry.name))
    images = pictures(16, SIDE)
    assert error(dead, equalize(dead, images)) == 0
    assert all(h.low <= 0 <= h.high for h in collect(dead, images).values())
    assert np.isfinite(error(dead, quantize(dead, images)))
