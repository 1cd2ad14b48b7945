"""The angle of a known colour, what does not count as skin, and groups that never claim to be more than quantiles."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import skin_angle
from bench.cli import main

SKIN = (196, 152, 120)


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def picture(colour: tuple[int, int, int] = SKIN, *, side: int = 144, noise: float = 4.0, seed: int = 0) -> np.ndarray:
    """(S, S, 3) uint8: skin with noise and a dark lesion in the middle."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(np.array(colour) + rng.normal(0, noise, (side, side, 3)), 0, 255)
    y, x = np.mgrid[:side, :side] - side / 2
    pixels[np.hypot(x, y) < side / 4] = (70, 40, 35)
    return pixels.astype(np.uint8)


def angle_of(colour: tuple[int, int, int]) -> float:
    """ITA of one colour in plain floats, step by step."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    y = (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]) / 1.0
    z = (0.0193 * linear[0] + 0.1192 * linear[1] + 0.9505 * linear[2]) / 1.089
    return math.degrees(math.atan2(116 * y ** (1 / 3) - 16 - 50, 200 * (y ** (1 / 3) - z ** (1 / 3))))


@pytest.mark.parametrize(("rgb", "expected"), [  # CIE L*a*b* of sRGB under D65, as printed everywhere
    ((255, 255, 255), (100, 0, 0)),
    ((0, 0, 0), (0, 0, 0)),
    ((255, 0, 0), (53.24, 80.09, 67.20)),
    ((0, 255, 0), (87.73, -86.18, 83.18)),
    ((0, 0, 255), (32.30, 79.19, -107.86)),
    ((119, 119, 119), (50.03, 0, 0)),
])
def test_lab_of_known_colours(rgb: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    assert skin_angle.lab(np.array(rgb, np.uint8)) == pytest.approx(np.array(expected), abs=0.03)


@pytest.mark.parametrize("colour", [SKIN, (240, 210, 190), (90, 60, 45)])
def test_angle_is_that_of_the_skin_and_not_of_the_lesion(colour: tuple[int, int, int]) -> None:
    found = skin_angle.estimate(picture(colour))
    assert found.ita_deg == pytest.approx(angle_of(colour), abs=1.0)
    assert found.confidence == 1.0 and found.is_known
    assert 0 < (found.iqr_deg or 0) < 15
    assert 0.2 < found.pixels / (8 * 18 * 18) < 0.9  # those within one deviation in both


def test_one_flat_colour_is_exact() -> None:
    found = skin_angle.estimate(picture(noise=0.0))
    assert found.ita_deg == pytest.approx(angle_of(SKIN), abs=1e-6)
    assert found.iqr_deg == pytest.approx(0, abs=1e-9) and found.pixels == 8 * 18 * 18


def test_black_corners_and_hairs_do_not_count() -> None:
    clean = skin_angle.estimate(picture())
    pixels = picture()
    y, x = np.mgrid[:144, :144] - 71.5
    pixels[np.hypot(x, y) > 76] = 2
    pixels[60:64] = pixels[:, 70:72] = (40, 30, 28)
    found = skin_angle.estimate(pixels)
    assert found.ita_deg == pytest.approx(clean.ita_deg, abs=1.5)
    assert found.confidence == 0.5  # the corners have no vote
    assert found.is_known


def test_a_picture_without_a_common_colour_is_unknown() -> None:
    pixels = picture()
    pixels[:, :48] = (60, 35, 30)
    pixels[:, 96:] = (250, 245, 250)
    assert not skin_angle.estimate(pixels).is_known


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_glare_have_no_angle(value: int) -> None:
    assert skin_angle.estimate(np.full((144, 144, 3), value, np.uint8)) == skin_angle.Angle("", None, None, 0, 0.0)


def test_lighter_skin_has_larger_angles() -> None:
    colours = ((80, 52, 38), (140, 100, 75), SKIN, (236, 205, 184))
    angles = [skin_angle.estimate(picture(colour)).ita_deg for colour in colours]
    assert angles == sorted(angles, key=lambda angle: angle or 0)


def known(*degrees: float) -> list[skin_angle.Angle]:
    return [skin_angle.Angle(f"{i}.jpg", angle, 5.0, 100, 1.0) for i, angle in enumerate(degrees)]


def test_quantile_groups() -> None:
    angles = known(*range(0, 80, 10))
    unsure = skin_angle.Angle("unsure.jpg", -90.0, 5.0, 100, 0.375)
    groups = skin_angle.quantile_groups([unsure, *angles], 4)
    assert groups.names == ["unknown_tone", *(f"ita_q{q}" for q in (1, 1, 2, 2, 3, 3, 4, 4))]
    # By hand, of bounds at 17.5, 35 and 52.5: moved up, 20 and 40 fall below 22.5 and 40 (on a bound: above), 60 stays
    # over 57.5; moved down, 30 meets its bound of 30 and rises, 10 stays under 12.5, 50 rises over 47.5.
    assert groups.moved == {-5.0: 2 / 8, 5.0: 1 / 8}


def test_nothing_known_gives_no_groups() -> None:
    found = [skin_angle.Angle("a.jpg", None, None, 0, 0.0)]
    groups = skin_angle.quantile_groups(found)
    assert groups == skin_angle.Groups(["unknown_tone"], {})
    assert list(skin_angle.table(found, groups))[1].split() == ["unknown_tone", "1", "-"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, colour in enumerate(((90, 60, 45), (150, 110, 85), SKIN, (236, 205, 184))):
        path = tmp_path / "data" / "g" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(colour, side=200, seed=i)).save(path)
    return tmp_path / "data"


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tone.csv"
    assert run("tone", folder, "--quantiles", 2, "-o", out) == 0
    captured = capsys.readouterr()
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert list(rows[0]) == ["path", "ita_deg", "iqr_deg", "pixels", "confidence", "group"]
    assert [row["path"] for row in rows] == [f"g/{i}.png" for i in range(4)]
    assert [row["group"] for row in rows] == ["ita_q1", "ita_q1", "ita_q2", "ita_q2"]
    assert "edges moved by -5 degrees" in captured.out and "edges moved by +5 degrees" in captured.out
    assert "for audits alone" in captured.err and "no skin type" in captured.err
    for claim in ("itzpatrick", "type", "skin", "dark", "light"):
        assert claim not in out.read_text()
    assert run("tone", folder, "-o", out) == 2
    first = out.read_bytes()
    assert run("tone", folder, "--quantiles", 2, "-o", out, "--force", "-q") == 0
    assert out.read_bytes() == first


def test_a_manifest_gives_its_own_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "manifest.csv").write_text("path,class,group\ng/3.png,a,b\ng/0.png,a,b\n")
    assert skin_angle.paths_of(folder) == (["g/3.png", "g/0.png"], [])
    assert run("tone", folder, "-q") == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_a_file_is_no_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tone", folder / "g" / "0.png") == 3
    assert "0.png: is a file, expected a folder" in capsys.readouterr().err
    assert run("tone", tmp_path / "gone") == 3
    (folder / "manifest.csv").write_text("path,class,group\ng/3.png,a,b\n")
    assert run("tone", folder, "-o", folder / "manifest.csv", "--force") == 2
    assert "manifest.csv: is an input, expected another output" in capsys.readouterr().err


def test_a_broken_image_has_a_row(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "g" / "9.jpg").write_bytes(b"no image")
    out = tmp_path / "tone.csv"
    assert run("tone", folder, "-q", "-o", out) == 1
    row = list(csv.DictReader(out.read_text().splitlines()))[-1]
    assert row == {
        "path": "g/9.jpg", "ita_deg": "", "iqr_deg": "", "pixels": "0", "confidence": "0.000", "group": "unknown_tone",
    }
    assert "not usable: 1 images, first g/9.jpg" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (["--quantiles", 1], 2, "expected 2 to 20"),
    (["--quantiles", "x"], 2, "expected a whole number"),
    ([], 3, "no image"),
])
def test_wrong_usage(
    arguments: list[object], status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tone", tmp_path, *arguments) == status
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
