"""The same images in groups of several columns: what each says, and that a missing value is compared with nothing."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli import main
from bench.dataset import NOT_STATED, Sample
from bench.metrics import contest
from bench.metrics.evaluation import Setting
from bench.metrics.meaning import DOWN, UP
from bench.results import build
from edge.errors import EdgeError
from edge.predictions import Prediction

CLASSES = ["BCC", "MEL", "NV"]
OURS = contest.PROFILES["esfair2023"]
SEXES = ("female", "male", "male", NOT_STATED)


def pairs_of(n: int = 400, *, column: str = "tone", wrong: str = "") -> list[tuple[Sample, Prediction]]:
    """Images in groups by tone or by sex, two of a cluster, three of four right; none of the group `wrong`."""
    rng, found = np.random.default_rng(0), []
    for i in range(n):
        tone, sex, label = f"q{i % 3}", SEXES[i // 3 % 4], int(rng.integers(3))
        guess = label if rng.random() < 0.75 and wrong not in (tone, sex) else (label + 1) % 3
        sample = Sample(f"{i}.jpg", CLASSES[label], tone if column == "tone" else sex, f"patient{i // 2}")
        found.append((sample, Prediction(sample.path, CLASSES[guess], guess, 0.9)))
    return found


def setting(reference: str, **changes: Any) -> Setting:
    return Setting(**{"profile": OURS, "reference": reference, "malignant": ("MEL",), "draws": 200, **changes})


def sexes(pairs: list[tuple[Sample, Prediction]]) -> dict[str, str]:
    return {sample.path: SEXES[i // 3 % 4] for i, (sample, _) in enumerate(pairs)}


def by_sex(pairs: list[tuple[Sample, Prediction]], **changes: Any) -> dict[str, Any]:
    first = setting("q0", **changes)
    made = build.metrics(pairs, CLASSES, first)
    found = build.further(made["samples"], CLASSES, first, {"sex": sexes(pairs)})["sex"]
    assert isinstance(found, dict)
    return found


def test_a_further_column_has_the_form_and_the_numbers_of_the_first() -> None:
    found = by_sex(pairs_of())
    expected = build.metrics(pairs_of(column="sex"), CLASSES, setting("male"))
    parts = ("fairness", "null", "malignant", "by_group", "warnings")
    assert {name: found[name] for name in parts} == {name: expected[name] for name in parts}
    assert found["samples"] == {"group": expected["samples"]["group"]}
    json.dumps(found, allow_nan=False)


def test_what_is_not_stated_is_shown_and_compared_with_nothing() -> None:
    pairs = pairs_of(column="sex", wrong=NOT_STATED)
    found = build.metrics(pairs, CLASSES, setting("female"))
    stated = [pair for pair in pairs if pair[0].group != NOT_STATED]
    expected = build.metrics(stated, CLASSES, setting("female"))
    assert found["by_group"][NOT_STATED]["accuracy"]["value"] == 0
    assert found["by_group"][NOT_STATED]["accuracy"]["n"] == len(pairs) - len(stated) > 90
    assert found["accuracy"]["n"] == len(pairs) and found["accuracy"]["value"] < expected["accuracy"]["value"]
    parity = found["fairness"]
    for name in ("worst_group", "gap", "spd_accuracy", "u_l1", "pqd", "dpm", "eom"):
        assert parity[name]["value"] == expected["fairness"][name]["value"], name
        assert NOT_STATED not in parity[name]["by_group"] and parity[name]["n"] == len(stated)
    assert parity["worst_group"]["value"] > 0.6 and found["score"]["spd"]["n"] == len(stated)
    assert parity["excluded_groups"] == found["score"]["excluded_groups"] == [NOT_STATED]
    assert parity["compared_groups"] == ["female", "male"]
    assert any("99 pictures is not stated" in line for line in found["warnings"])


def test_the_reference_of_a_further_column_is_the_largest_group_that_is_compared() -> None:
    pairs = pairs_of()
    assert by_sex(pairs)["fairness"]["reference_group"] == "male"
    made = build.metrics(pairs, CLASSES, setting("q0"))
    sizes = {"a": 20, NOT_STATED: 300, "G10": 30, "b": 50}
    names = [name for name, size in sizes.items() for _ in range(size)]
    of_path = {sample.path: name for (sample, _), name in zip(pairs, names, strict=True)}

    def reference(*excluded: str) -> str:
        found = build.further(made["samples"], CLASSES, setting("q0"), {"site": of_path}, excluded=excluded)
        return str(found["site"]["fairness"]["reference_group"])

    assert reference() == "G10" and reference("G10", "q1") == "b" and reference("G10", "b", "b") == "a"
    with pytest.raises(EdgeError, match="column site: every group is excluded or not stated, got a, b, G10"):
        reference("a", "b", "G10")


def test_every_image_of_a_further_column_counts_whatever_the_profile_drops() -> None:
    found = by_sex(pairs_of(), profile=contest.PROFILES["esfair2023-code"])
    assert sum(group["accuracy"]["n"] for group in found["by_group"].values()) == 400
    assert found["fairness"]["gap"]["n"] == 301


def test_the_gap_of_a_fair_model_is_that_of_two_binomials() -> None:
    n, p = 1000, 0.8
    pairs = []
    for i in range(2 * n):
        guess = "NV" if i // 2 % 5 else "BCC"
        sample = Sample(f"{i}", "NV", f"g{i % 2}", f"{i}")
        pairs.append((sample, Prediction(f"{i}", guess, CLASSES.index(guess), 0.9)))
    null = build.metrics(pairs, CLASSES, setting("g0", draws=4000))["null"]["equal_accuracy"]
    deviation = math.sqrt(2 * p * (1 - p) / n)  # of the difference of two accuracies
    assert null["gap"]["value"] == pytest.approx(deviation * math.sqrt(2 / math.pi), rel=0.05)
    assert null["gap"]["high"] == pytest.approx(2.24 * deviation, rel=0.05)
    assert null["gap_p_value"] == 1.0  # both have .8


# The commands


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """120 images in groups, by sex, which 19 do not state, and by age; predictions of two models."""
    rows = []
    lines: dict[str, list[str]] = {"a": [], "b": []}
    rng = np.random.default_rng(1)
    for i in range(120):
        label, sex = CLASSES[i % 3], ("female", "male", "")[(i > 40) + (i > 100)]
        rows.append(f"{i}.jpg,{label},q{i % 2},p{i // 2},{sex},{'0-39' if i % 4 else '60+'},{i}.5,\n")
        (tmp_path / f"{i}.jpg").touch()
        for name, right in (("a", 0.7), ("b", 0.9)):
            guess = label if rng.random() < right and sex else CLASSES[(i + 1) % 3]
            lines[name].append(f"{i}.jpg,{guess},{CLASSES.index(guess)},0.9,ok\n")
    (tmp_path / "manifest.csv").write_text("path,class,group,cluster,sex,age,angle,empty\n" + "".join(rows))
    for name, text in lines.items():
        (tmp_path / f"{name}.csv").write_text("path,label,label_index,confidence,status\n" + "".join(text))
    return tmp_path


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def scored(data: Path, name: str, *columns: str, more: tuple[str, ...] = ()) -> Path:
    flags = [flag for column in columns for flag in ("--group", column)]
    out = data / f"{name}.json"
    assert run("score", data / f"{name}.csv", "--data", data, *flags, *more, "-o", out, "--force", "-q") == 0
    return out


def test_score_by_several_columns(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = scored(data, "a", "group", "sex", "age")
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["data"]["group_column"] == "group" and set(result["groupings"]) == {"sex", "age"}
    assert set(result["by_group"]) == {"q0", "q1"}
    found = result["groupings"]["sex"]
    assert {name: group["accuracy"]["n"] for name, group in found["by_group"].items()} == {
        "female": 41, "male": 60, NOT_STATED: 19
    }
    assert found["fairness"]["worst_group"]["value"] > 0.5 and found["by_group"][NOT_STATED]["accuracy"]["value"] == 0
    names = [re.split(f"  | {UP}| {DOWN}", line)[0] for line in printed.splitlines()]
    shown = [f"accuracy in {name}" for name in ("female", "male", NOT_STATED)]
    expected = [f"sex: {name}" for name in [*shown, "worst group", "gap", "gap of a fair model"]]
    assert names[names.index(expected[0]) :][:6] == expected
    assert names[-1].startswith("score: total")  # where a terminal ends
    assert run("show", out) == 0
    assert capsys.readouterr().out == printed

    assert run("score", data / "a.csv", "--data", data, "--group", "age", "--group", "sex") == 0
    said = capsys.readouterr().err
    assert "edge-bench: sex: the group of 19 pictures is not stated: they are compared with no other\n" in said
    assert "edge-bench: sex: gap " in said and "a perfectly fair model of this accuracy would show" in said


def test_the_first_column_is_the_one_the_score_compares(data: Path) -> None:
    result = json.loads(scored(data, "a", "sex", "group").read_text())
    alone = json.loads(scored(data, "a", "sex").read_text())
    assert set(result["by_group"]) == {"female", "male", NOT_STATED} and alone["groupings"] == {}
    assert {name: result[name] for name in ("score", "fairness", "by_group")} == {
        name: alone[name] for name in ("score", "fairness", "by_group")
    }
    assert result["score"]["reference_group"] == "female"  # the smallest that is stated


def test_a_group_is_left_out_of_every_column_that_has_it(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = scored(data, "a", "group", "age", "sex", more=("--exclude-group", "60+"))
    result = json.loads(out.read_text())
    assert result["score"]["excluded_groups"] == []
    assert result["groupings"]["age"]["fairness"]["excluded_groups"] == ["60+"]
    assert result["groupings"]["sex"]["fairness"]["excluded_groups"] == [NOT_STATED]
    capsys.readouterr()
    assert run("score", data / "a.csv", "--data", data, "--group", "age", "--exclude-group", "q0") == 3
    assert "no group 'q0' in the data set, expected one of 0-39, 60+" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "status", "message"),
    [
        (["sex", "sex"], 2, "--group sex is given twice, expected once"),
        (["group", "sexe"], 3, "no column sexe; got path, class, group, cluster, sex, age, angle, empty"),
        (["sexe"], 3, "no column sexe; got path, class, group, cluster, sex, age, angle, empty"),
        (["group", "angle"], 3, "got 120 different values in the column angle, expected at most 100 groups"),
        (["empty"], 3, "every group is excluded or not stated, got not stated"),
        (["group", "empty"], 3, "column empty: every group is excluded or not stated, got not stated"),
    ],
)
def test_columns_that_cannot_be_groups(
    columns: list[str], status: int, message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag for column in columns for flag in ("--group", column)]
    assert run("score", data / "a.csv", "--data", data, *flags) == status
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_compare_by_a_column(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (scored(data, name, "group", "sex") for name in "ab")
    (data / "c.csv").write_bytes((data / "b.csv").read_bytes())
    only_sex = scored(data, "c", "sex")
    capsys.readouterr()
    assert run("compare", a, b, "--group", "sex", "-o", data / "d.json") == 0
    by_sex = capsys.readouterr()
    assert [line.split()[2] for line in by_sex.out.splitlines() if line.startswith("accuracy in")] == [
        "female", "male", "not"
    ]
    found = json.loads((data / "d.json").read_text())
    assert found["group_column"] == "sex" and found["excluded_groups"] == [NOT_STATED]
    assert found["metrics"]["fairness.worst_group"]["a"] > 0.5 and found["by_group"][NOT_STATED]["a"] == 0
    assert run("show", data / "d.json") == 0
    assert capsys.readouterr().out == by_sex.out
    assert run("compare", a, b) == 0
    assert "accuracy in q0" in capsys.readouterr().out

    assert run("compare", a, only_sex) == 3
    assert "c.json: was not scored by group, got sex (edge-bench score --group)\n" in capsys.readouterr().err
    assert run("compare", a, b, "--group", "age") == 3
    assert "a.json: was not scored by age, got group, sex (edge-bench score --group)\n" in capsys.readouterr().err
    result = json.loads(a.read_text())
    for damage in ({"sex": {}}, {"sex": {**result["groupings"]["sex"], "samples": {"group": ["male"]}}}, ["sex"]):
        (data / "e.json").write_text(json.dumps({**result, "groupings": damage}))
        assert run("compare", data / "e.json", b, "--group", "sex") == 3
        assert capsys.readouterr().err.count("\n") == 1


def test_a_fall_of_what_is_not_stated_is_no_levelling_down(data: Path) -> None:
    lines = (data / "a.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    label_of = {f"{i}.jpg": CLASSES[i % 3] for i in range(120)}
    for row in rows[101:]:  # not stated: all right in A, all wrong in B
        row[1:3] = label_of[row[0]], str(CLASSES.index(label_of[row[0]]))
    (data / "a.csv").write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    a, b = (scored(data, name, "sex") for name in "ab")
    assert run("compare", a, b, "-o", data / "d.json", "-q") == 0
    found = json.loads((data / "d.json").read_text())
    assert found["by_group"][NOT_STATED]["verdict"] == "B worse" and NOT_STATED not in found["levelling_down"]["groups"]
