from functools import cache

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sample_networks import random_network, small_lite
from test_export_to_onnx import CLASSES, logits_of, pictures

from edge.photo.preprocess import Preprocess
from export.graph import session_of
from export.int8.calibrate import activation_ranges
from export.int8.quantize import correct_biases, insert, quantize, shortened
from export.int8.weights import equalize, model_scales
from export.to_onnx import to_onnx

SIDE = 64


@cache
def float_model(variant):
    """Made once, to be read only."""
    model = small_lite() if variant == "lite" else random_network(variant)
    return to_onnx(model, preprocess=Preprocess(size_px=SIDE), metadata=CLASSES)[0]


@pytest.fixture(scope="module")
def model():
    return float_model("mobileone_s0")


def copied(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def spread(model, amount, *, seed=0):
    """The same function with channels of very different ranges, as long training leaves them."""
    spread_out = copied(model)
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


def error(model, other, num_images=4):
    images = pictures(num_images, SIDE, seed=5)
    expected, actual = (logits_of(m.SerializeToString(), images)(0, num_images) for m in (model, other))
    return np.abs(actual - expected).max() / np.abs(expected).max()


S4 = pytest.param("mobileone_s4", marks=pytest.mark.slow)


@pytest.mark.parametrize("variant", ["mobileone_s0", S4, "mobilenet_v3_small", "lite"])
def test_equalised_model_gives_the_same_bits(variant):
    model = float_model(variant)
    equalized = equalize(model, pictures(16, SIDE))
    changed = model.SerializeToString() != equalized.SerializeToString()
    assert changed == (variant != "lite")  # which has ReLU6 alone, and that one has a scale
    assert error(model, equalized) == 0


def test_activations_before_a_depthwise_layer_have_equal_ranges(model):
    images = pictures(16, SIDE)
    equalized = equalize(model, images)
    second = [node for node in equalized.graph.node if node.op_type == "Conv"][1]
    values = session_of(equalized, [second.input[0]]).run([second.input[0]], {"images": images})[0]
    largest = values.max(axis=(0, 2, 3))
    assert largest.max() / largest[largest > 0.02 * largest.max()].min() < 2.01


def to_nearest(model, images):
    """The int8 form without the steps before and after: ranges, and weights rounded to the nearest."""
    return shortened(insert(copied(model), activation_ranges(model, images), model_scales(model)))


def test_equalisation_saves_a_network_of_uneven_channels(model):
    images = pictures(32, SIDE)
    uneven = spread(model, 1.4)
    plain, equalized = (to_nearest(file, images) for file in (uneven, equalize(uneven, images)))
    assert error(model, equalized) < 0.5 * error(model, plain)


def test_corrected_biases_bring_the_means_back(model):
    images = pictures(32, SIDE)
    quantized = to_nearest(model, images)
    corrected = correct_biases(model, copied(quantized), images)

    def bias_of(other):
        expected, actual = (logits_of(m.SerializeToString(), images)(0, 32).mean(axis=0) for m in (model, other))
        return np.abs(actual - expected).max()

    assert bias_of(corrected) < 0.5 * bias_of(quantized)
    assert len(corrected.SerializeToString()) == pytest.approx(len(quantized.SerializeToString()), rel=0.001)


@pytest.mark.slow
def test_a_range_of_zeros_and_a_dead_channel_are_harmless(model):
    dead = copied(model)
    node = next(node for node in dead.graph.node if node.op_type == "Conv")
    for entry in dead.graph.initializer:
        if entry.name in node.input:
            value = numpy_helper.to_array(entry).copy()
            value[:3] = 0
            entry.CopyFrom(numpy_helper.from_array(value, entry.name))
    images = pictures(16, SIDE)
    assert error(dead, equalize(dead, images)) == 0
    assert all(low <= 0 <= high for low, high in activation_ranges(dead, images).values())
    assert np.isfinite(error(dead, quantize(dead, images)))
