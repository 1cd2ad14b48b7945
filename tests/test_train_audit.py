import csv
import json

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sample_networks import COLOURS, dataset

from bench.dataset import Sample, index
from export.cli import main as export_main
from train.cli import main
from train.leakage.audit import audit as audit_of
from train.leakage.audit import load, probe

pytestmark = pytest.mark.usefixtures("small_networks")

FAST = ["--num-conv-branches", "1", "--sizes-px", "32", "--batch-size", "6", "--epochs", "1", "--recipe", "smoke"]
FAST += ["--network", "mobilenet_v3_small"]
FAST += ["--steps-per-epoch", "1"]


def picture(seed, side=96):
    """Smooth random shapes, as different from each other as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def write_set(root, pictures, *, clusters=None, labels=None, splits=None, suffix="png"):
    root.mkdir(exist_ok=True)
    rows = [["path", "class", "group", "cluster", "split"]]
    for i, image in enumerate(pictures):
        path = f"img{i}.{suffix}"
        image.save(root / path)
        label = labels[i] if labels else ("ash", "birch")[i % 2]
        rows.append([path, label, "g1", clusters[i] if clusters else "", splits[i] if splits else ""])
    with open(root / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def audit(capsys, *arguments):
    status = main(["audit", *map(str, arguments), "-q"])
    captured = capsys.readouterr()
    assert (status == 6) == ("give the pictures of a pair one name in the column cluster" in captured.out)
    return status, captured.out + captured.err


def test_200_distinct_pictures_raise_no_alarm(tmp_path, capsys):
    root = write_set(tmp_path / "data", [picture(i, 48) for i in range(200)], splits=["train", "val"] * 100)
    status, text = audit(capsys, root)
    assert status == 0
    assert "200 images, 0 too flat to compare by looks" in text and "0 kinds of leak" in text
    assert "LEAK:" not in text and "SHORTCUT" not in text


def test_exact_duplicate_of_file_and_of_pixels(tmp_path, capsys):
    pictures = [picture(i) for i in range(12)]
    root = write_set(tmp_path / "data", [*pictures, pictures[3]])
    pictures[5].save(root / "img12.png", compress_level=0)  # other bytes, the same pixels
    (root / "img7.png").write_bytes((root / "img2.png").read_bytes())
    status, text = audit(capsys, root)
    assert status == 6
    assert "LEAK: 1 pairs of one file in two clusters, e.g. img2.png = img7.png" in text
    assert "LEAK: 1 pairs of the same pixels in two clusters, e.g. img5.png = img12.png" in text


@pytest.mark.parametrize("turn", [None, *Image.Transpose])
def test_near_duplicate_in_every_position(tmp_path, turn):
    pictures = [picture(i) for i in range(12)]
    copy = pictures[4] if turn is None else pictures[4].transpose(turn)
    copy = copy.resize((70, 70), Image.Resampling.BILINEAR).point(lambda value: value * 0.9 + 5)
    root = write_set(tmp_path / "data", pictures)
    more = write_set(tmp_path / "more", [copy], suffix="jpg")
    sets = [load(folder, index(folder), quiet=True) for folder in (root, more)]
    (finding,) = audit_of(sets[0], None, [sets[1]]).findings
    assert (finding.name, finding.count) == ("near-duplicate pairs in more as well", 1)
    assert finding.examples == [["img4.png", "more/img0.jpg"]]


def test_blank_pictures_do_not_match_each_other(tmp_path, capsys):
    blank = [Image.new("RGB", (64, 64), (200, 150 + i % 3, 140)) for i in range(6)]
    for i, image in enumerate(blank):
        image.putpixel((i, 0), (201, 150, 140))  # six files
    status, text = audit(capsys, write_set(tmp_path / "data", blank))
    assert status == 0
    assert "6 images, 6 too flat" in text


def test_cluster_leaks_in_a_folds_file_and_in_external_data(tmp_path, capsys):
    clusters = [f"p{i // 2}" for i in range(12)]
    root = write_set(tmp_path / "data", [picture(i) for i in range(12)], clusters=clusters)
    more = write_set(tmp_path / "more", [picture(99)], clusters=["p4"])
    folds = tmp_path / "folds.csv"
    rows = [f"img{i}.png,p{i // 2},{int(i in (1, 6, 7))}" for i in range(12)]
    folds.write_text("\n".join(["path,cluster,fold", *rows]) + "\n")
    out = tmp_path / "audit.json"
    status, text = audit(capsys, root, "--folds", folds, "--external", more, "-o", out)
    assert status == 6
    assert "LEAK: 1 clusters in two parts, e.g. p0 = img0.png = img1.png" in text
    assert "LEAK: 1 clusters in more as well, e.g. p4 = img9.png = more/img0.png" in text
    assert [finding["count"] for finding in json.loads(out.read_text())["findings"]] == [1, 1]
    assert audit(capsys, root, "-o", out)[0] == 2


def test_duplicates_in_one_part_are_no_leak(tmp_path, capsys):
    root = write_set(tmp_path / "data", [picture(0), picture(0), picture(1)], splits=["train", "train", "val"])
    status, text = audit(capsys, root)
    assert status == 0
    assert "note: 1 pairs of one file in two clusters of one part" in text


@pytest.mark.parametrize("shortcut", ["image size", "border colour"])
def test_shortcut(tmp_path, capsys, shortcut):
    pictures = [picture(i, 96 + 32 * (i % 2) * (shortcut == "image size")) for i in range(80)]
    if shortcut == "border colour":
        for i, image in enumerate(pictures):
            image.paste(Image.new("RGB", (80, 80), (200, 100, 90) if i % 2 else (90, 100, 200)), (0, 0))
            image.paste(picture(1000 + i, 70), (10, 10))
    root = write_set(tmp_path / "data", pictures)
    status, text = audit(capsys, root)
    (line,) = [line for line in text.splitlines() if f"class from {shortcut}" in line]
    assert status == 0  # a warning
    assert line.endswith("p 0.01: SHORTCUT")
    assert "class from group         " in text and text.count(": SHORTCUT") <= 2  # file size may tell as well
    assert f"  {shortcut}: " in text  # what to do about it


def test_probe_sees_no_shortcut_in_noise():
    rng = np.random.default_rng(0)
    samples = [Sample(f"{i}", str(rng.integers(3)), "g", f"{i // 2}") for i in range(600)]
    (result,) = probe(samples, {"noise": rng.normal(size=(600, 3))})
    assert not result.is_shortcut and result.n == 300


def test_fit_refuses_a_leak_and_allow_leak_marks_every_artifact(tmp_path, capsys):
    data = dataset(tmp_path / "data")
    folds, out = tmp_path / "folds.csv", tmp_path / "run"
    assert main(["folds", str(data), "-o", str(folds), "--folds", "2", "-q"]) == 0
    rows = [line.split(",") for line in folds.read_text().splitlines()[1:]]
    first, second = (next(row[0] for row in rows if row[2] == fold) for fold in "01")
    (data / first).write_bytes((data / second).read_bytes())
    command = ["fit", str(data), "--folds", str(folds), "--hold-out", "1", "--out", str(out), *FAST, "-q"]
    assert main(command) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert "overlap: 1 pairs of one file in both parts; edge-train audit" in line and "--allow-leak" in line
    assert not out.exists()

    assert main([*command, "--allow-leak"]) == 0
    assert "LEAKY: 1 pairs of one file in both parts" in capsys.readouterr().err
    assert "pairs of one file" in (out / "LEAKY.txt").read_text()
    assert all(json.loads((out / name).read_text())["leaky"] for name in ("config.json", "metrics.json"))
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    assert checkpoint["leaky"] and checkpoint["data_name"] == "data (LEAKY)"
    assert export_main(["onnx", str(out), "-o", str(tmp_path / "m.onnx"), "--license", "none", "-q"]) == 0
    properties = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(properties["training"])["leaky"] is True
    assert export_main(["weights", str(out), "-o", str(tmp_path / "w.safetensors"), "-q"]) == 0
    with safe_open(tmp_path / "w.safetensors", "pt") as weights:
        assert weights.metadata()["leaky"] == "true"
    assert main([*command, "--allow-leak", "--resume"]) == 0  # a second time: still said once, named once
    assert torch.load(out / "checkpoint.pt", weights_only=True)["data_name"] == "data (LEAKY)"


def test_fit_refuses_a_cut_cluster(tmp_path, capsys):
    data = dataset(tmp_path / "data")
    with open(data / "manifest.csv") as file:
        rows = list(csv.reader(file))[1:]
    folds = tmp_path / "folds.csv"
    lines = [f"{row[0]},{row[3]},{int(i // 3 % 2)}" for i, row in enumerate(rows)]
    folds.write_text("\n".join(["path,cluster,fold", *lines]) + "\n")
    command = ["fit", str(data), "--folds", str(folds), "--hold-out", "1", "--out", str(tmp_path / "run"), *FAST]
    assert main([*command, "-q"]) == 6
    assert f"{4 * len(COLOURS)} clusters in two parts" in capsys.readouterr().err


def test_bad_input_is_one_line(tmp_path, capsys):
    root = write_set(tmp_path / "data", [picture(i) for i in range(4)])
    (root / "img1.png").write_bytes(b"no image")
    cases = (
        ([root], "img1.png: not a known image format"),
        ([tmp_path / "absent"], "no such folder"),
        ([root, "--external", tmp_path / "absent"], "no such folder"),
        ([root, "--folds", tmp_path / "absent.csv"], "cannot be read"),
        ([root, "--label", "coarse"], "no column coarse"),
    )
    for arguments, message in cases:
        status, text = audit(capsys, *arguments)
        assert status == 3 and message in text and len(text.splitlines()) == 1
