"""The model file's contract, and the classifier's answers."""

import json

import numpy as np
import onnx
import pytest
from make_tiny import add_outputs
from onnx import TensorProto, helper
from PIL import Image
from sample_images import TINY_MODEL, encoded, folder_of_photos, photo

from edge import Classifier, ModelError, PixelLimits, Preprocess
from edge.classifier import _reason


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(TINY_MODEL)


def changed(tmp_path, change):
    """A copy of the tiny model after `change(model)`."""
    model = onnx.load(TINY_MODEL)
    change(model)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    return path


def with_metadata(**values):
    def change(model):
        metadata = {entry.key: entry.value for entry in model.metadata_props} | values
        del model.metadata_props[:]
        helper.set_model_props(model, {key: value for key, value in metadata.items() if value is not None})

    return change


def with_shape(which, *dims):
    def change(model):
        node = getattr(model.graph, which)[0]
        kind = TensorProto.UINT8 if which == "input" else TensorProto.FLOAT
        getattr(model.graph, which)[0].CopyFrom(helper.make_tensor_value_info(node.name, kind, dims))
        if which == "input":
            model.graph.node[0].input[0] = node.name

    return change


def without_logits(model):
    add_outputs(model)
    del model.graph.output[2]


def test_everything_needed_comes_from_the_file(classifier):
    assert classifier.classes == ("ash", "birch", "cedar")
    assert classifier.preprocess == Preprocess(size_px=32)
    assert classifier.temperature == 1
    assert len(classifier.sha256) == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_metadata(classes=None, preprocess=None), "no metadata classes, preprocess; export it with"),
        (with_metadata(**{"fairedge.schema": "edge-model/2"}), "got model schema 'edge-model/2'"),
        (with_metadata(classes='["a", "b"]'), r"got output logits .* expected logits \(float\) \['N', 2\]"),
        (without_logits, r"got output features \(float\) \['N', 8\], map .*, expected logits \(float\) \['N', 3\] for"),
        (with_metadata(classes='["a", "b", "b"]'), "each once"),
        (with_metadata(classes="a,b,c"), "unusable metadata"),
        (with_metadata(classes='{"a": 1}'), "expected a JSON list"),
        (with_metadata(preprocess="{}"), "unusable metadata: preprocess: got"),
        (with_metadata(preprocess=Preprocess(size_px=64).to_json()), r"got input images .* expected .* 64, 64, 3"),
        (with_metadata(temperature="0"), "temperature: got '0'"),
        (with_metadata(temperature="nan"), "temperature"),
        (with_metadata(classes='["a", "b", "uncertain"]'), "expected none with a line end or named 'uncertain'"),
        (with_metadata(classes=r'["a", "b", "\ud800"]'), "unusable metadata"),
        (with_metadata(classes="[" * 100_000), "unusable metadata"),
        (with_metadata(preprocess=Preprocess(size_px=32).to_json().replace("0.0039", "1" * 400 + ".0039")), "unusable"),
        (with_shape("input", 1, 32, 32, 3), r"got input images \(uint8\) \[1, 32, 32, 3\], expected"),
    ],
)
def test_a_model_that_breaks_the_contract_is_refused_in_one_line(tmp_path, change, message):
    path = changed(tmp_path, change)
    with pytest.raises(ModelError, match=message) as info:
        Classifier.load(path)
    assert str(info.value).startswith(str(path))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", [b"", b"not a model", TINY_MODEL.read_bytes()[:500], encoded(photo())])
def test_what_is_no_onnx_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as info:
        Classifier.load(path)
    assert "\n" not in str(info.value)


def test_missing_model_and_folder(tmp_path):
    with pytest.raises(ModelError, match="no such model file"):
        Classifier.load(tmp_path / "gone.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        Classifier.load(tmp_path)


def test_outputs_it_does_not_know_are_left_alone(tmp_path, classifier):
    other = Classifier.load(changed(tmp_path, add_outputs))
    batch = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert np.array_equal(other.logits(batch), classifier.logits(batch))


def test_logits_checks_its_batch(classifier):
    with pytest.raises(ValueError, match=r"got \(1, 3, 32, 32\) uint8, expected \(N, 32, 32, 3\) uint8"):
        classifier.logits(np.zeros((1, 3, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        classifier.logits(np.zeros((1, 32, 32, 3), np.float32))


def test_logits_do_not_depend_on_the_batch(classifier):
    batch = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    whole = classifier.logits(batch)
    assert whole.shape == (7, 3) and whole.dtype == np.float32
    assert np.array_equal(whole, np.concatenate([classifier.logits(batch[:3]), classifier.logits(batch[3:])]))
    assert np.array_equal(whole, np.concatenate([classifier.logits(batch[i : i + 1]) for i in range(7)]))


def test_probabilities_are_the_softmax_at_the_models_temperature(tmp_path, classifier):
    logits = np.array([[1, 2, 3], [1000, 0, -1000]], np.float32)
    expected = np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum()
    assert np.allclose(classifier.probabilities(logits)[0], expected)
    assert classifier.probabilities(logits)[1].tolist() == [1, 0, 0]
    warm = Classifier.load(changed(tmp_path, with_metadata(temperature="2")))
    assert np.allclose(warm.probabilities(2 * logits)[0], expected)


def test_predict_takes_paths_and_bytes_in_order(tmp_path, classifier):
    folder = folder_of_photos(tmp_path / "photos", 3)
    sources = [folder / "img2.jpg", (folder / "img0.jpg").read_bytes(), str(folder / "img1.jpg"), folder]
    predictions = list(classifier.predict(sources))
    assert [p.path for p in predictions] == [str(folder / "img2.jpg"), "<bytes>", str(folder / "img1.jpg"), str(folder)]
    assert [p.status for p in predictions] == ["ok", "ok", "ok", "error"]
    for prediction in predictions[:3]:
        assert prediction.probabilities is not None
        assert prediction.label == classifier.classes[int(prediction.probabilities.argmax())]
        assert prediction.confidence == prediction.probabilities.max()
        assert (prediction.width, prediction.height) == (64, 48)
    assert predictions[3].error == "is a folder, expected an image file"


@pytest.mark.parametrize("sources", ["photo.jpg", b"bytes", TINY_MODEL, photo(), np.zeros((4, 4, 3), np.uint8)])
def test_predict_refuses_a_single_source(classifier, sources):
    with pytest.raises(TypeError, match="expected an iterable of images"):
        classifier.predict(sources)


def test_an_image_is_a_path_bytes_a_pil_image_or_an_array(tmp_path, classifier):
    picture = photo()
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(picture, "PNG"))
    expected = classifier(path)
    assert (expected.path, expected.status) == (str(path), "ok")
    with Image.open(path) as opened:
        sources = [path.read_bytes(), picture, opened, np.asarray(picture)]
        found = [classifier(source) for source in sources]
        together = list(classifier.predict(iter(sources), batch_size=2))
    for prediction, again in zip(found, together, strict=True):
        assert np.array_equal(prediction.probabilities, expected.probabilities)
        assert np.allclose(again.probabilities, expected.probabilities, atol=1e-6)
        assert (prediction.width, prediction.height) == (expected.width, expected.height)
    assert [prediction.path for prediction in together] == ["<bytes>", "<image>", "<image>", "<array>"]


def test_an_image_in_memory_is_turned_converted_and_limited_as_a_file_is(tmp_path, classifier):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    photo().convert("LA").save(path, exif=exif)
    with Image.open(path) as opened:
        assert np.array_equal(classifier(opened).probabilities, classifier(path).probabilities)
    assert "too large" in classifier(photo(), limits=PixelLimits(full=100)).error
    assert "no defined 8-bit form" in classifier(photo().convert("F")).error


def test_what_is_no_image_is_named_with_its_place(classifier):
    good = photo()
    for sources in ([good, None, good], iter([good, None, good])):
        with pytest.raises(TypeError, match=r"sources\[1\]: got NoneType, expected a path"):
            list(classifier.predict(sources))
    grey = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"sources\[0\]: got an array \(4, 4\) uint8, expected"):
        list(classifier.predict([grey]))
    with pytest.raises(ValueError, match=r"image: got an array \(4, 4, 3\) float64"):
        classifier(np.zeros((4, 4, 3)))
    with pytest.raises(TypeError, match="image: got list"):
        classifier(["photo.jpg"])


def test_predict_marks_what_it_is_not_sure_of(classifier):
    content = encoded(photo())
    (sure,) = classifier.predict([content])
    (unsure,) = classifier.predict([content], min_confidence=1.0)
    assert sure.label_index is not None and sure.label_index >= 0
    assert (unsure.label, unsure.label_index, unsure.status) == ("uncertain", -1, "ok")
    assert unsure.confidence == sure.confidence


def test_limits_are_passed_on(classifier):
    (prediction,) = classifier.predict([encoded(photo(), "PNG")], limits=PixelLimits(full=100))
    assert "too large" in prediction.error
    assert (prediction.width, prediction.height) == (320, 240)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error_row(tmp_path, value):
    def break_bias(model):
        bias = next(t for t in model.graph.initializer if t.name == "b2")
        bias.raw_data = np.array([value, 0, 0], np.float32).tobytes()

    broken = Classifier.load(changed(tmp_path, break_bias))
    (prediction,) = broken.predict([encoded(photo())])
    assert (prediction.status, prediction.confidence) == ("error", None)
    assert "no finite logits" in prediction.error


def test_metadata_is_plain_text(classifier):
    assert json.loads(classifier.metadata["classes"]) == list(classifier.classes)


def behind(*operators):
    """Puts operators behind the logits, the last of which gives `logits`; "Op:3" takes a number as second input."""

    def change(model):
        for node in model.graph.node:
            node.output[:] = ["before0" if name == "logits" else name for name in node.output]
        for i, operator in enumerate(operators):
            inputs, (name, _, number) = [f"before{i}"], operator.partition(":")
            if number:
                kind = np.float32 if name == "Div" else np.int64
                model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(eval(number), kind), f"n{i}"))
                inputs.append(f"n{i}")
            output = "logits" if i == len(operators) - 1 else f"before{i + 1}"
            model.graph.node.append(helper.make_node(name, inputs, [output]))

    return change


@pytest.mark.parametrize(
    "operators",
    [("Softmax",), ("Sigmoid",), ("Softmax", "Identity"), ("Softmax", "Reshape:[-1,3]"), ("Div:2", "Softmax", "Clip"),
     ("HardSigmoid",), ("Softmax", "Transpose", "Transpose")],
)  # fmt: skip
def test_probabilities_are_no_logits(operators, tmp_path):
    with pytest.raises(ModelError, match=r"gives the result of \w*(Softmax|Sigmoid) as logits, expected the values be"):
        Classifier.load(changed(tmp_path, behind(*operators)))


@pytest.mark.parametrize("operators", [("LogSoftmax",), ("Div:2",), ("Softmax", "Log"), ("Sigmoid", "Neg"), ("Relu",)])
def test_what_softmax_takes_as_it_should_is_logits(operators, tmp_path, classifier):
    model = Classifier.load(changed(tmp_path, behind(*operators)))
    batch = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    if operators[-1].startswith("Log"):
        expected = classifier.probabilities(classifier.logits(batch))
        assert model.probabilities(model.logits(batch)) == pytest.approx(expected, abs=1e-5)


def test_a_softmax_before_the_last_layer_is_none_of_the_logits(tmp_path):
    def change(model):
        last = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul", "Conv")][-1]
        place = [*model.graph.node].index(last)
        model.graph.node.insert(place, helper.make_node("Softmax", [last.input[0]], ["inside"]))
        model.graph.node[place + 1].input[0] = "inside"

    Classifier.load(changed(tmp_path, change))


@pytest.mark.parametrize("operator", ["ReduceMean:[0]", "Reshape:[1,-1]"])
def test_a_row_for_each_image_or_a_line(operator, tmp_path):
    path = changed(tmp_path, behind("Identity", operator))
    with pytest.raises(ModelError, match=r"^[^\n]*(for 4 images, expected \(4, 3\)|failed to run: )[^\n]*$"):
        list(Classifier.load(path).predict(four(), workers=1))


def four():
    return [np.full((40, 40, 3), value, np.uint8) for value in (0, 60, 120, 255)]


def other_version(which, value):
    def change(model):
        if which == "ir":
            model.ir_version = value
        else:
            model.opset_import[0].version = value

    return change


def in_another_file(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)


def with_operator(name, domain=""):
    def change(model):
        model.graph.node[-1].op_type, model.graph.node[-1].domain = name, domain
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_version("ir", 99), r"made for a newer onnxruntime: IR version 99, onnxruntime \S+ reads up to \d+$"),
        (other_version("opset", 99), r"made for a newer onnxruntime: opset 99, onnxruntime \S+ reads up to \d+$"),
        (in_another_file, r"keeps its weights in another file .*, expected all in one file$"),
        (with_operator("NoSuchOp"), r"needs the operator NoSuchOp, which onnxruntime \S+ does not have$"),
        (with_operator("Gemm", "my.ops"), r"needs the operator my.ops:Gemm, which onnxruntime \S+ does not have$"),
    ],
)
def test_the_reason_of_a_refusal_is_in_the_line(change, message, tmp_path):
    with pytest.raises(ModelError, match=message) as caught:
        Classifier.load(changed(tmp_path, change))
    text = str(caught.value).removeprefix(str(tmp_path))
    assert "\n" not in text and "::" not in text and len(text) < 300


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : /a/b.h:91 x::R::R(const x::T&, bool) Input shape:{4,6}", "Input shape:{4,6}"),
        ("/a/b.cc:2 void ns::(anonymous namespace)::f(int, std::function<int (int)>) const size (3) is wrong",
         "size (3) is wrong"),
        ("in /a/b.cc:3 too many", "in too many"),
        ("x" * 5000 + " the end", "x" * 100 + " ... " + "x" * 187 + " the end"),
        ("", "RuntimeError"),
    ],
)  # fmt: skip
def test_reasons_without_the_program_that_gave_them(text, reason):
    assert _reason(RuntimeError(text)) == reason


def test_description_holds_what_a_report_shows_of_any_metadata(tmp_path):
    classifier = Classifier.load(TINY_MODEL)
    assert classifier.description["file"] == TINY_MODEL.name and "card" not in classifier.description
    classifier.metadata["training"] = json.dumps({"data": "x", "leaky": True, "list": [1], "long": "y" * 999})
    assert classifier.description["training"] == {"data": "x", "leaky": True}
    for damaged in ("[" * 100_000, "[1]", '{"a": 1e999}', '{"a": "\\ud800"}', "x", '{"a": NaN}'):
        classifier.metadata["training"] = damaged
        assert classifier.description["training"] == {}
    copy = tmp_path / "own.int8.onnx"
    copy.write_bytes(TINY_MODEL.read_bytes())
    (tmp_path / "own.md").write_text("# Card")
    assert Classifier.load(copy).description["card"] == "own.md"
