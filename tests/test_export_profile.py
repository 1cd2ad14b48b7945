"""From the pictures trained on to what edge-infer says of other ones."""

import pytest
from PIL import Image
from sample_images import folder_of_photos
from sample_networks import dataset

from edge import Classifier
from edge.cli import main as infer
from edge.profile import Profile
from export import cli
from export.submission.pack import write_card
from train import checkpoint as checkpoints
from train.cli import main as train

pytestmark = pytest.mark.usefixtures("small_networks")

FAST = ["--recipe", "smoke", "--network", "mobilenet_v3_small", "--batch-size", "6", "--epochs", "1"]
FAST += ["--steps-per-epoch", "2", "-q"]
SQUARES = Profile(aspect_ratio=(1.0, 1.0), short_side_px=(32, 32), padding=(0.0, 0.0))


@pytest.fixture(scope="module")
def run(small_networks, tmp_path_factory):
    """A network after two steps on 24 squares of 32 px."""
    folder = tmp_path_factory.mktemp("squares")
    assert train(["fit", str(dataset(folder / "data")), "--out", str(folder / "run"), *FAST]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def model(run):
    path = run.parent / "model.onnx"
    assert cli.main(["onnx", str(run), "-o", str(path), "-q"]) == 0
    return path


def test_a_model_of_squares_says_that_it_met_no_photo_of_4_to_3(run, model, tmp_path, capsys):
    assert checkpoints.load(run).profile == SQUARES.to_json()
    assert Classifier.load(model).profile == SQUARES
    photos, squares = folder_of_photos(tmp_path / "photos", 4), folder_of_photos(tmp_path / "squares", 4, size=(64, 64))
    assert infer(["-m", str(model), str(photos)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == (
        "edge-infer: 4 of 4 photos are unlike those that the model was trained on: 4 by aspect ratio "
        "(longer to shorter side; trained on 1.00 to 1.00)"
    )
    assert len(lines) == 4 and lines[2].startswith("edge-infer: answers: ")
    assert infer(["-m", str(model), str(squares)]) == 0
    assert capsys.readouterr().err.splitlines()[1].startswith("edge-infer: answers: ")


def test_a_model_of_4_to_3_says_so_of_squares_and_of_16_to_9(tmp_path, capsys):
    data = dataset(tmp_path / "data", 12)
    for path in data.rglob("*.png"):
        Image.open(path).resize((64, 48)).save(path)
    assert train(["fit", str(data), "--out", str(tmp_path / "run"), *FAST, "--resize", "stretch"]) == 0
    assert cli.main(["onnx", str(tmp_path / "run"), "-o", str(tmp_path / "model.onnx"), "-q"]) == 0
    assert Classifier.load(tmp_path / "model.onnx").profile == Profile((1.333, 1.333), (48, 48), (0.0, 0.0))
    photos = folder_of_photos(tmp_path / "photos", 1)
    for name, size in (("square.png", (64, 64)), ("wide.png", (64, 36)), ("on_end.png", (48, 64))):
        Image.new("RGB", size, (90, 60, 50)).save(photos / name)
    assert infer(["-m", str(tmp_path / "model.onnx"), str(photos)]) == 0
    assert "2 of 4 photos are unlike those" in capsys.readouterr().err


def test_info_and_card_show_it(model, capsys):
    assert cli.main(["info", str(model)]) == 0
    assert f"profile: {SQUARES.to_json()}\n" in capsys.readouterr().out
    assert "| profile: aspect_ratio | [1.0, 1.0] |\n| profile: short_side_px | [32, 32] |" in write_card(
        Classifier.load(model)
    )
