"""Evidence survives the files, and none that is damaged, incomplete or of other data gets into a table."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from sample_evidence import evidence_of, folder_of, samples_of

from bench.dataset import index
from edge.errors import EdgeError
from edge.predictions import Layout, Prediction
from research import evidence
from research.__main__ import main
from research.evidence import RunRecord, to_ppm
from research.protocol import load

SAMPLES = samples_of()


def test_what_is_written_is_read_again(tmp_path):
    runs = [RunRecord(0, 120, steps=7, seconds=1.5, machine="a", temperature=0.9), RunRecord(1, 120, commit="abc+")]
    written = evidence_of(SAMPLES, runs=runs)
    evidence.write(tmp_path / "new", SAMPLES, written, force=False)
    found = evidence.read(tmp_path / "new", "plain_seed0")
    for name in ("configuration", "seed", "classes", "command", "config", "offsets", "runs", "paths"):
        assert getattr(found, name) == getattr(written, name), name
    assert (found.folds == written.folds).all() and (found.ppm == written.ppm).all()
    assert index(tmp_path / "new", has_files=False) == SAMPLES


def test_equal_predictions_are_equal_bytes(tmp_path, monkeypatch):
    for name, now in (("a", 1e9), ("b", 2e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        evidence.write(tmp_path / name, SAMPLES, evidence_of(SAMPLES), force=False)
    a, b = ((tmp_path / name / "plain_seed0.csv.gz").read_bytes() for name in "ab")
    assert a == b and a[4:8] == bytes(4)


def test_millionths_are_what_the_predictions_file_says_and_keep_its_answer():
    p = np.array([[0.333333, 0.333333, 0.333334], [0.4999999, 0.5000001, 0.0], [1.0, 0.0, 0.0]])
    ppm = to_ppm(p, p.argmax(1))
    assert ppm.tolist() == [[333333, 333333, 333334], [500000, 500001, 0], [1000000, 0, 0]]
    with pytest.raises(EdgeError, match="not the most probable class"):
        to_ppm(p, np.array([0, 0, 1]))


def test_one_folder_is_of_one_data_set_with_one_choice_of_labels(tmp_path):
    evidence.write(tmp_path, SAMPLES, evidence_of(SAMPLES), force=False)
    with pytest.raises(FileExistsError, match="force"):
        evidence.write(tmp_path, SAMPLES, evidence_of(SAMPLES), force=False)
    evidence.write(tmp_path, SAMPLES, evidence_of(SAMPLES), force=True)
    others = [replace(sample, label="ash") for sample in SAMPLES]
    with pytest.raises(EdgeError, match="is of other images, labels"):
        evidence.write(tmp_path, others, evidence_of(SAMPLES, "other"), force=False)
    assert not (tmp_path / "other_seed0.csv.gz").exists()


def cut(text):
    return text[:-9]


def changed(name, content, change):
    if not name.endswith(".gz"):
        return change(content.decode()).encode()
    return change(content) if change is cut_file else gzip.compress(change(gzip.decompress(content).decode()).encode())


def cut_file(content):
    return content[:-20]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("plain_seed0.csv.gz", cut, "damaged: row 240: got"),
        ("plain_seed0.csv.gz", cut_file, "plain_seed0.csv.gz: damaged: Compressed file ended"),
        ("plain_seed0.csv.gz", lambda text: text.replace("ppm_ash", "ppm_oak"), "got columns 'path,fold,ppm_oak"),
        ("plain_seed0.csv.gz", lambda text: text.replace("g1/ash/0.jpg", "new.jpg"), "got new.jpg, which manifest.csv"),
        ("plain_seed0.csv.gz", lambda text: text + text.splitlines()[-1] + "\n", "has a path twice"),
        ("plain_seed0.csv.gz", lambda text: text.replace(".jpg,1,", ".jpg,2,"), "images of folds {0: 120, 2: 120}"),
        ("plain_seed0.csv.gz", lambda text: text.replace(".jpg,0,", ".jpg,0,9"), "do not add up to 1000000"),
        ("plain_seed0.csv.gz", lambda text: text.replace(".jpg,0,", ".jpg,0,x"), "damaged: invalid literal"),
        ("plain_seed0.csv.gz", lambda text: text[: text.rindex("\n", 0, -1) + 1], "images of folds {0: 120, 1: 119}"),
        ("plain_seed0.csv.gz", lambda text: "", "got columns ''"),
        ("plain_seed0.csv.gz", None, "plain_seed0.csv.gz: cannot be read: No such file"),
        ("plain_seed0.json", None, "plain_seed0.json: cannot be read: No such file"),
        ("plain_seed0.json", cut, "not JSON"),
        ("plain_seed0.json", lambda text: "[]", "got list, expected a JSON object"),
        ("plain_seed0.json", lambda text: text.replace("evidence/1", "evidence/9"), "got another schema"),
        ("plain_seed0.json", lambda text: text.replace('"offsets": null', '"offsets": {}'), "has class offsets"),
        ("plain_seed0.json", lambda text: text.replace('"steps"', '"stairs"'), "damaged: .*stairs"),
        ("plain_seed0.json", lambda text: text.replace('"seed": 0', '"seed": 1'), "is of plain_seed1"),
        ("protocol.json", None, "protocol.json: cannot be read"),
        ("protocol.json", lambda text: text.replace('"mask"', '"masks"'), "expected reference, exclude, mask"),
        ("protocol.json", lambda text: text.replace('["plain"]', "[]"), "does not name plain"),
        ("protocol.json", lambda text: text.replace('["plain"]', '["plain", "fancy"]'), "no predictions of fancy"),
        ("protocol.json", lambda text: text.replace('["plain"]', '"plain"'), "configurations: expected a list"),
        ("protocol.json", lambda text: text.replace('"mask": []', '"mask": ["oak"]'), "mask: got oak, no class of"),
        ("protocol.json", lambda text: text.replace('"differences": []', '"differences": [["plain"]]'), "pairs"),
        ("protocol.json", lambda text: text.replace('"coverage": []', '"coverage": ["x"]'), "none of its config"),
        ("protocol.json", lambda text: text.replace("null", "3"), "reference: got 3"),
        ("manifest.csv", None, "no images"),
    ],
)
def test_damaged_evidence_is_one_line(tmp_path, capsys, name, change, message):
    folder = folder_of(tmp_path / "set", SAMPLES, [evidence_of(SAMPLES)])
    load(folder)
    if change is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(changed(name, (folder / name).read_bytes(), change))
    with pytest.raises(Exception, match=message.replace("{", r"\{")):
        load(folder)
    assert main(["tables", str(folder)]) == 3
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "internal" not in captured.err


def test_seeds_of_a_configuration_have_the_same_images(tmp_path):
    half = evidence_of(SAMPLES[:120], seed=1)
    with pytest.raises(EdgeError, match="other images or classes than plain_seed0"):
        load(folder_of(tmp_path, SAMPLES, [evidence_of(SAMPLES), half]))


# From predictions files


def predictions_file(path, samples, *, classes=("ash", "birch", "Cedar"), meta=True, probs=True):
    layout = Layout(tuple(classes), probs=probs, timing=False)
    with open(path, "wb") as file:
        file.write(layout.header({}))
        for i, sample in enumerate(samples):
            p = np.roll(np.array([0.6, 0.3, 0.1], np.float32), i)
            best = int(p.argmax())
            file.write(layout.encode(Prediction(sample.path, classes[best], best, 0.6, probabilities=p)))
    if meta:
        text = json.dumps({"schema": "edge-predictions/1", "model_sha256": "f" * 64, "classes": classes})
        path.with_name(path.name + ".meta.json").write_text(text)
    return path


@pytest.fixture
def data(tmp_path):
    for sample in SAMPLES[:30]:
        (tmp_path / "data" / sample.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / sample.path).touch()
    return tmp_path / "data"


def test_predictions_of_model_files_are_collected_fold_by_fold(tmp_path, data):
    samples = index(data)
    files = [predictions_file(tmp_path / f"{i}.csv", samples[i::2]) for i in range(2)]
    command = ["collect-models", str(data), *map(str, files), "--name", "int8", "--seed", "4"]
    command += ["--out", str(tmp_path / "set")]
    assert main([*command, "-q"]) == 0
    found = evidence.read(tmp_path / "set", "int8_seed4")
    assert found.paths == [sample.path for sample in samples]
    assert found.folds.tolist() == [i % 2 for i in range(30)]
    assert found.ppm[0].tolist() == [600000, 300000, 100000] and found.ppm[2].tolist() == [100000, 600000, 300000]
    assert [run.checkpoint_sha256 for run in found.runs] == ["f" * 64] * 2
    assert main(command) == 2
    assert found.group_column == "group"
    assert main([*command, "--force", "--group", "sex"]) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta": False}, "does not tell its model"),
        ({"probs": False}, "expected those of every class"),
        ({"classes": ("ash", "birch", "oak")}, "the data set has the class 'Cedar'"),
    ],
)
def test_predictions_that_cannot_be_collected(tmp_path, data, capsys, changes, message):
    file = predictions_file(tmp_path / "a.csv", index(data), **changes)
    out = ["--name", "a", "--out", str(tmp_path / "set")]
    assert main(["collect-models", str(data), str(file), *out]) == 3
    assert message in capsys.readouterr().err
    good = predictions_file(tmp_path / "b.csv", index(data))
    assert main(["collect-models", str(data), str(good), str(good), *out]) == 3
    assert "which another file has too" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
