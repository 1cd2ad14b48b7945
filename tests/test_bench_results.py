"""From predictions and a data set to a results file: its form, its policies, and everything that can be wrong."""

import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_results import latency

from bench import dataset
from bench.cli import main
from bench.dataset import ONE_GROUP, Sample
from bench.metrics import contest
from bench.metrics.evaluation import Setting
from bench.metrics.meaning import UP
from bench.results import build, compare, document, text
from edge.errors import EdgeError
from edge.predictions import Prediction

CLASSES = ["BCC", "MEL", "NV"]
META = {"schema": "edge-predictions/1", "model_sha256": "0" * 64, "classes": CLASSES}
OURS = contest.PROFILES["esfair2023"]


def run(*arguments: object) -> int:
    """Exit status of main, also where argparse leaves by SystemExit."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def random_pairs(
    sizes: dict[str, int], *, seed: int = 0, probs: bool = False, cluster_size: int = 1
) -> list[tuple[Sample, Prediction]]:
    rng = np.random.default_rng(seed)
    pairs = []
    for group, size in sizes.items():
        for i in range(size):
            label = int(rng.integers(0, 3))
            scores = rng.normal(0, 1, 3)
            scores[label] += 1.5
            p = (np.exp(scores) / np.exp(scores).sum()).astype(np.float32)
            guess = int(p.argmax())
            path = f"{group}/{CLASSES[label]}/{i}.jpg"
            pairs.append((
                Sample(path, CLASSES[label], group, f"{group}-{i // cluster_size}"),
                Prediction(path, CLASSES[guess], guess, float(p[guess]), probabilities=p if probs else None),
            ))
    return pairs


SIZES = {"G6": 120, "G7": 90, "G10": 70}


def setting(**changes: Any) -> Setting:
    return Setting(**{"profile": OURS, "reference": "G10", "draws": 200, **changes})


def walk(value: Any) -> Any:
    """Every dict in a result."""
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from walk(part)


# The form


@pytest.mark.parametrize("profile", list(contest.PROFILES))
@pytest.mark.parametrize("cluster_size", [1, 3])
def test_every_metric_is_value_low_high_n(profile: str, cluster_size: int) -> None:
    pairs = random_pairs(SIZES, probs=True, cluster_size=cluster_size)
    result = build.metrics(pairs, CLASSES, setting(profile=contest.PROFILES[profile], malignant=("BCC", "MEL")))
    json.dumps(result, allow_nan=False)
    found = [part for part in walk(result) if "value" in part]
    assert len(found) > 100
    for metric in found:
        assert {"value", "low", "high", "n"} <= set(metric)
        if metric["low"] is not None:
            assert metric["low"] <= metric["value"] <= metric["high"]
    assert set(result["score"]) >= {"accuracy", "fairness", "latency", "total", "total_of_two_thirds", "thirds"}
    assert result["score"]["latency"] is None and result["score"]["total"] is None
    assert result["score"]["reference_group"] == result["fairness"]["reference_group"] == "G10"
    names = {"spd_accuracy", "u_l1", "gap", "pqd", "dpm", "eom", "worst_group", "equalized_odds", "gap_mix_adjusted"}
    for name in names:
        assert result["fairness"][name]["value"] is not None
        assert set(result["fairness"][name]["by_group"]) == set(SIZES)
    assert result["by_group"]["G7"]["accuracy"]["n"] == 90
    assert set(result["samples"]) == {"path", "group", "cluster", "label", "prediction", "status"}


def test_the_numbers_are_those_of_the_formulas() -> None:
    pairs = random_pairs(SIZES)
    result = build.metrics(pairs, CLASSES, setting())
    right = {group: [s.label == p.label for s, p in pairs if s.group == group] for group in SIZES}
    acc = {group: sum(hits) / len(hits) for group, hits in right.items()}
    spd = sum(abs(a - acc["G10"]) for a in acc.values()) / 3
    pooled = sum(sum(hits) for hits in right.values()) / 280
    contest = result["score"]
    assert contest["spd"]["value"] == pytest.approx(spd)
    assert contest["accuracy"]["value"] == result["accuracy"]["value"] == pytest.approx(pooled)
    assert contest["fairness"]["value"] == pytest.approx(max(0, 1 - spd / 0.2))
    assert contest["total_of_two_thirds"]["value"] == pytest.approx((pooled + max(0, 1 - spd / 0.2)) / 3)
    assert contest["thirds"]["fairness"]["value"] == pytest.approx(max(0, 1 - spd / 0.2) / 3)
    assert result["by_group"]["G6"]["difference_to_reference"]["value"] == pytest.approx(acc["G6"] - acc["G10"])
    assert result["fairness"]["u_l1"]["value"] == pytest.approx(sum(abs(a - pooled) for a in acc.values()))


def test_equal_seeds_give_equal_results() -> None:
    pairs = random_pairs(SIZES)
    one, two, other = (build.metrics(pairs, CLASSES, setting(seed=seed)) for seed in (1, 1, 2))
    assert json.dumps(one) == json.dumps(two) != json.dumps(other)


def test_clusters_widen_the_intervals() -> None:
    pairs = random_pairs(SIZES)
    copies = [
        (Sample(f"{s.path}-{k}", s.label, s.group, s.path), p) for s, p in pairs for k in range(3)
    ]  # three photos each, all read alike: no more is known than from one
    alone, tripled = (build.metrics(these, CLASSES, setting(draws=1000)) for these in (pairs, copies))
    for name in ("accuracy", "macro_f1"):
        width, other = (result[name]["high"] - result[name]["low"] for result in (alone, tripled))
        assert other == pytest.approx(width, rel=0.1)
    assert tripled["accuracy"]["n"] == 3 * alone["accuracy"]["n"]
    assert tripled["null"]["equal_accuracy"]["fairness"]["value"] == pytest.approx(
        alone["null"]["equal_accuracy"]["fairness"]["value"], abs=0.03
    )


def test_the_drop_rule_is_told() -> None:
    result = build.metrics(random_pairs(SIZES), CLASSES, setting(profile=contest.PROFILES["esfair2023-code"], seed=3))
    score = result["score"]
    assert score["images_dropped"] == {"G10": 6, "G6": 56, "G7": 26}
    assert score["seed"] == 3 and score["over_permutations"]["method"] in ("exact", "drawn")
    assert abs(score["accuracy"]["value"] - score["over_permutations"]["accuracy"]["mean"]) < 0.1
    assert score["accuracy"]["n"] == score["fairness"]["n"] == 64 + 64 + 64 and result["accuracy"]["n"] == 280


# Policies and edges


def test_error_rows_are_wrong_wherever_they_count() -> None:
    pairs = random_pairs(SIZES, probs=True)
    sample, _ = pairs[0]
    broken = [(sample, Prediction(sample.path, status="error", error="truncated")), *pairs[1:]]
    before, after = (build.metrics(these, CLASSES, setting(malignant=("MEL",))) for these in (pairs[1:], broken))
    assert after["accuracy"]["n"] == before["accuracy"]["n"] + 1
    assert after["samples"]["prediction"][0] is None
    rates = ("sensitivity", "specificity")
    assert sum(after["malignant"][r]["n"] for r in rates) == sum(before["malignant"][r]["n"] for r in rates) + 1
    lost = "sensitivity" if sample.label == "MEL" else "specificity"
    assert after["malignant"][lost]["value"] < before["malignant"][lost]["value"]
    assert after["calibration"]["ece"]["n"] == before["calibration"]["ece"]["n"]  # no confidence, no calibration


def test_calibration_equals_its_loop_and_needs_probabilities() -> None:
    pairs = random_pairs(SIZES, probs=True)
    result = build.metrics(pairs, CLASSES, setting())
    bins: dict[int, list[tuple[float, bool]]] = {}
    for sample, prediction in pairs:
        confidence = float(np.float64(prediction.probabilities.max()))  # type: ignore[union-attr]
        m = next(m for m in range(15) if confidence <= (m + 1) / 15)
        bins.setdefault(m, []).append((confidence, sample.label == prediction.label))
    expected = sum(
        len(rows) / 280 * abs(sum(hit for _, hit in rows) / len(rows) - sum(c for c, _ in rows) / len(rows))
        for rows in bins.values()
    )
    assert result["calibration"]["ece"]["value"] == pytest.approx(expected)
    assert sum(result["calibration"]["by_group"]["G7"]["bins"]["n"]) == 90
    assert build.metrics(random_pairs(SIZES), CLASSES, setting())["calibration"] is None


def test_malignant_takes_its_classes_as_one() -> None:
    pairs = [
        (Sample(f"{i}", label, "g", f"{i}"), Prediction(f"{i}", guess, CLASSES.index(guess), 0.5))
        for i, (label, guess) in enumerate([("MEL", "BCC"), ("MEL", "NV"), ("BCC", "BCC"), ("NV", "NV"), ("NV", "MEL")])
    ]
    result = build.metrics(pairs, CLASSES, setting(reference="g", malignant=("BCC", "MEL")))
    assert result["malignant"]["sensitivity"]["value"] == 2 / 3
    assert result["malignant"]["specificity"]["value"] == 1 / 2
    assert build.metrics(pairs, CLASSES, setting(reference="g"))["malignant"] is None


def test_malignant_classes() -> None:
    def sample(label: str, coarse: str = "") -> Sample:
        return Sample(label, label, "g", label, coarse=coarse)

    assert dataset.malignant_classes([sample("MEL"), sample("BCC"), sample("NV")]) == ("BCC", "MEL")
    mixed = [sample("AKIEC", "malignant"), sample("NV", "benign"), sample("x", "malignant"), sample("x", "benign")]
    assert dataset.malignant_classes(mixed) == ("AKIEC",)
    named = [sample(name) for name in ("Basal_cell-carcinoma", "melanoma", "Malignant", "nevus", "unknown", "NMEL")]
    assert dataset.malignant_classes(named) == ("Basal_cell-carcinoma", "Malignant", "melanoma")


def test_one_group_has_no_fairness() -> None:
    result = build.metrics(random_pairs({"G10": 80}), CLASSES, setting())
    assert result["score"]["fairness"]["value"] is None
    assert result["score"]["total_of_two_thirds"]["value"] is None and result["null"] is None
    assert result["fairness"]["gap"] == {
        "value": None, "low": None, "high": None, "n": 80,
        "by_group": {"G10": {"value": 0, "low": 0, "high": 0, "n": 80}},
    }
    assert result["fairness"]["reason"] == "only one group, G10"
    assert "only one group, G10: nothing is compared, and the score has no fairness" in result["warnings"]
    assert list(text.table(result)) and list(text.remarks(result))


def test_no_groups_are_said_in_words_and_the_total_is_of_what_there_is() -> None:
    result = build.metrics(random_pairs({ONE_GROUP: 80}), CLASSES, setting(reference=ONE_GROUP))
    assert result["score"]["fairness"]["value"] is None and result["fairness"]["reason"] == "no groups"
    accuracy = result["accuracy"]
    total = {key: accuracy[key] / 3 for key in ("value", "low", "high")} | {"n": 80, "parts": ["accuracy"]}
    assert result["score"]["total_of_parts"] == total
    lines = list(text.table(result))
    assert any(line.split() == ["score:", "fairness", UP, "no", "groups"] for line in lines)
    assert lines[-1].startswith(f"score: total of 1/3 (accuracy) {UP}  0.")
    assert not [line for line in lines if "gap" in line or "SPD" in line or "in all" in line]
    known = f"known only to lie between {accuracy['low']:.3f} and {accuracy['high']:.3f} (about "
    assert result["warnings"][0].startswith(f"the data have 80 pictures: the accuracy is {known}")
    needed = 80 * ((accuracy["high"] - accuracy["low"]) / 0.1) ** 2
    assert int(result["warnings"][0].split("(about ")[1].split()[0]) == math.ceil(needed)
    assert "no groups: nothing is compared, and the score has no fairness" in result["warnings"]
    build.add_latency({"predictions": META, **result}, latency(10.0))
    assert result["score"]["total_of_parts"]["value"] == pytest.approx((accuracy["value"] + 0.9) / 3)
    assert "score: total of 2/3 (accuracy, latency)" in list(text.table(result))[-1]
    json.dumps(result, allow_nan=False)
    same = compare.compare(result, result, draws=50)
    assert "not defined, no groups: fairness, total of two thirds, worst group" in "\n".join(compare.table(same))
    assert not [line for line in compare.table(same) if "in all" in line]


def test_the_classes_of_the_contest_are_spelled_out() -> None:
    six = ["BCC", "BKL", "MEL", "NV", "unknown", "VASC"]
    lines = list(text.table(build.metrics(random_pairs(SIZES), six, setting())))
    assert lines[0].startswith("BCC = basal cell carcinoma, ") and ", unknown = other (actinic keratosis, " in lines[0]
    assert list(text.table(build.metrics(random_pairs(SIZES), CLASSES, setting())))[0].startswith(UP)


def test_signs_that_standard_output_lacks_are_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    result = build.metrics(random_pairs(SIZES), [*CLASSES, "naevus \u0142"], setting())
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(io.BytesIO(), "ascii"))
    lines = [*text.table(result), *text.remarks(result)]
    assert lines[0] == "^ higher is better, v lower is better" and any(line.startswith("gap  ") for line in lines)
    assert any("pictures would make it +- 0.05" in line for line in lines)
    assert any(line.startswith("recall naevus \\u0142") for line in lines) and all(map(str.isascii, lines))


def test_a_group_of_one_image_has_a_value_and_no_interval() -> None:
    result = build.metrics(random_pairs({**SIZES, "G8": 1}), CLASSES, setting())
    assert result["score"]["fairness"]["value"] is not None and result["score"]["fairness"]["low"] is None
    assert result["balanced_accuracy"]["low"] is not None  # of all images: as sure as ever
    expected = "group G8 has 1 picture, under 10: nothing that compares groups has an interval"
    assert any(line.startswith(expected) for line in result["warnings"])
    without = build.metrics(random_pairs({**SIZES, "G8": 1}), CLASSES, setting(excluded=("G8",)))
    assert without["score"]["fairness"]["low"] is not None
    assert without["accuracy"]["n"] == 281 and without["fairness"]["gap"]["n"] == 280
    assert without["score"]["fairness"]["n"] == 280 and without["score"]["total_of_two_thirds"]["n"] == 281
    assert without["by_group"]["G8"]["difference_to_reference"] is None


def test_a_reference_without_scored_images_leaves_spd_undefined() -> None:
    result = build.metrics(random_pairs({"G6": 120, "G7": 90}), CLASSES, setting())
    assert result["score"]["fairness"]["value"] is None and result["fairness"]["gap"]["value"] is not None
    assert result["fairness"]["groups_without_images"] == ["G10"]
    assert result["by_group"]["G10"]["accuracy"] == {"value": None, "low": None, "high": None, "n": 0}
    why = "the reference group G10 has no scored image"
    assert result["fairness"]["reason"] == why
    assert f"{why}: SPD and fairness are not defined (--exclude-group G10 takes another)" in result["warnings"]
    other = build.metrics(random_pairs({"G6": 120, "G7": 90}), CLASSES, setting(reference="G8"))
    assert any(warning.endswith("not defined (--reference G7 takes another)") for warning in other["warnings"])
    json.dumps(result, allow_nan=False)


def test_an_absent_and_a_never_predicted_class() -> None:
    pairs = [pair for pair in random_pairs(SIZES) if pair[0].label != "NV" and pair[1].label != "NV"]
    result = build.metrics(pairs, CLASSES, setting())
    assert result["by_class"]["NV"] == {
        key: {"value": None, "low": None, "high": None, "n": 0} for key in ("recall", "precision")
    }
    assert result["fairness"]["dpm"]["by_class"]["NV"] is None and result["fairness"]["dpm"]["value"] is not None


@pytest.mark.parametrize("size", [1, 2])
def test_very_few_images_give_a_result(size: int) -> None:
    result = build.metrics(random_pairs({"G6": size, "G10": size}), CLASSES, setting())
    json.dumps(result, allow_nan=False)
    assert list(text.table(result))


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(EdgeError, match="no sample is left"):
        build.metrics([], CLASSES, setting())


def test_latency_completes_the_score() -> None:
    result = {"predictions": META, **build.metrics(random_pairs(SIZES), CLASSES, setting())}
    slow = latency(9.4, reasons=("hot", "latency: hotter")) | {"model": {"sha256": "1" * 64}}
    build.add_latency(result, slow)
    contest = result["score"]
    assert contest["latency"]["value"] == pytest.approx(0.906)
    assert contest["total"]["value"] == pytest.approx(contest["total_of_two_thirds"]["value"] + 0.302)
    assert contest["total"]["low"] == pytest.approx(contest["total_of_two_thirds"]["low"] + 0.302)
    assert result["valid"] is False
    assert result["reasons"] == [
        "latency: hot", "latency: hotter", "latency: measured with another model than the predictions are of"
    ]
    assert contest["latency"]["n"] == 100


def test_a_latency_that_gives_no_reason_is_still_not_valid() -> None:
    result = {"predictions": META, **build.metrics(random_pairs(SIZES), CLASSES, setting())}
    build.add_latency(result, latency(9.4) | {"valid": False})
    assert result["reasons"] == ["latency: its file says no more than that it is not valid"]
    assert result["valid"] is False


def test_a_small_p_is_no_zero() -> None:
    result = build.metrics(random_pairs(SIZES), CLASSES, setting())
    result["null"]["equal_accuracy"]["p_value"] = 1 / 2001
    assert any(line.endswith("as low as this with p < 0.001") for line in text.remarks(result))
    result["null"]["equal_accuracy"]["p_value"] = 0.0312
    assert any(line.endswith("as low as this with p = 0.031") for line in text.remarks(result))


# The command


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """60 images in two groups, with manifest, predictions and their meta."""
    rows, lines = [], []
    for i in range(60):
        label, group = CLASSES[i % 3], ("light", "dark")[i % 5 == 0]
        path = f"{i}.jpg"
        rows.append(f"{path},{label},{group},p{i // 2},{'val' if i < 40 else 'train'}\n")
        guess = label if i % 7 else CLASSES[(i + 1) % 3]
        lines.append(f"{path},{guess},{CLASSES.index(guess)},0.9,ok\n")
        (tmp_path / path).touch()
    (tmp_path / "manifest.csv").write_text("path,class,group,cluster,split\n" + "".join(rows))
    (tmp_path / "p.csv").write_text("path,label,label_index,confidence,status\n" + "".join(lines))
    (tmp_path / "p.csv.meta.json").write_text(json.dumps(META))
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def scored(data: Path, *arguments: object, status: int = 0) -> dict[str, Any]:
    assert run("score", data / "p.csv", "--data", data, "-o", data / "r.json", "--force", "-q", *arguments) == status
    found = json.loads((data / "r.json").read_text())
    assert isinstance(found, dict)
    return found


def test_score_takes_the_group_with_fewest_images_as_reference(data: Path) -> None:
    result = scored(data)
    assert result["score"]["reference_group"] == "dark" and result["score"]["profile"] == "esfair2023"
    assert result["interval"]["clusters"] == 30
    assert result["errors"] == {"policy": "wrong", "images": 0}
    assert result["latency"] is None and result["valid"] is True and result["gates"] == []
    assert scored(data, "--reference", "light")["score"]["reference_group"] == "light"


def test_score_of_a_split_keeps_the_reference_of_the_whole(data: Path) -> None:
    assert run("score", data / "p.csv", "--data", data, "--split", "val") == 3  # 20 predictions too many
    lines = (data / "p.csv").read_text().splitlines(keepends=True)
    (data / "p.csv").write_text("".join(lines[:41]))
    result = scored(data, "--split", "val")
    assert result["data"] == {
        "name": data.name, "label_column": "class", "group_column": "group", "split": "val", "samples": 40,
        "left_out": 0,
    }
    assert run("score", data / "p.csv", "--data", data, "--split", "test") == 3


def test_errors_wrong_and_excluded(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(data / "p.csv", "1.jpg,MEL,1,0.9,ok", "1.jpg,,,,error")
    wrong, left_out = scored(data), scored(data, "--errors", "exclude")
    assert (wrong["accuracy"]["n"], left_out["accuracy"]["n"]) == (60, 59)
    assert left_out["errors"] == {"policy": "exclude", "images": 1}
    assert wrong["accuracy"]["value"] == pytest.approx(left_out["accuracy"]["value"] * 59 / 60)
    assert run("score", data / "p.csv", "--data", data, "--errors", "exclude", "-q") == 0
    line = "1 of 60 images could not be used and are left out (--errors exclude)"
    assert line in capsys.readouterr().out.splitlines()
    assert run("show", data / "r.json") == 0
    assert line in capsys.readouterr().out.splitlines()


def test_gates_exit_6_and_still_write(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gates = ["--fail-under", "accuracy=0.5", "--fail-under", "fairness=1"]
    result = scored(data, *gates, status=6)
    assert [gate["passed"] for gate in result["gates"]] == [True, False]
    assert "gate failed: fairness is" in capsys.readouterr().err
    assert scored(data, "--fail-under", "accuracy=0.5", "--fail-under", "total_of_two_thirds=0.1")["gates"]


def test_latency_and_its_gate(data: Path) -> None:
    (data / "l.json").write_text(json.dumps(latency(4.0)))
    result = scored(data, "--latency", data / "l.json", "--fail-under", "total=0.5", "--fail-under", "latency=0.9")
    assert result["score"]["latency"]["value"] == 0.96 and result["latency"]["seconds_per_100"] == 4
    assert result["score"]["total"]["value"] > 0.5 and result["valid"] is True
    assert document.load(data / "r.json") == result


def test_a_gate_does_not_pass_on_a_latency_that_is_not_valid(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "l.json").write_text(json.dumps(latency(4.0, reasons=("2 runs, expected at least 10",))))
    gates = ["--fail-under", "total=0.1", "--fail-under", "accuracy=0.1"]
    result = scored(data, "--latency", data / "l.json", *gates, status=6)
    assert [gate["passed"] for gate in result["gates"]] == [False, True]
    assert "not valid: latency: 2 runs, expected at least 10\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fail-under", "total=0.5"], "--fail-under total needs --latency"),
        (["--fail-under", "spd=0.5"], "got 'spd=0.5', expected NAME=VALUE with NAME one of accuracy"),
        (["--fail-under", "accuracy"], "got '', expected a number from 0 to 1"),
        (["--fail-under", "accuracy=.5", "--fail-under", "accuracy=.9"], "--fail-under accuracy is given twice"),
        (["--seed", "9" * 5000], f"got '{'9' * 37}...', expected a whole number from 0 with at most 18 digits"),
        (["--fail-under", "accuracy=80"], "got '80', expected a number from 0 to 1"),
        (["--profile", "esfair2024"], "invalid choice: 'esfair2024'"),
        (["--errors", "right"], "invalid choice: 'right'"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("score", data / "p.csv", "--data", data, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,MEL,1,high,ok", "row 2: could not convert string to float: 'high'"),
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,MEL,1,nan,ok", "1.jpg: got confidence nan, expected 0 to 1"),
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,MEL,1,1.5,ok", "1.jpg: got confidence 1.5, expected 0 to 1"),
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,MEL,2,0.9,ok", "1.jpg: got label_index 2 for 'MEL', expected 1"),
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,DF,1,0.9,ok", "a prediction is 'DF', but the model knows only BCC, MEL, NV"),
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,MEL,1,0.9,maybe", "1.jpg: got status 'maybe', expected ok or error"),
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,MEL,1,0.9", "row 2: got 4 fields, expected 5"),
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,MEL,,0.9,ok", "1.jpg: status ok, but got label 'MEL' and label_index None"),
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,MEL,-5,0.9,ok", "1.jpg: status ok, but got label 'MEL' and label_index -5"),
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,MEL,-1,0.9,ok", "1.jpg: status ok, but got label 'MEL' and label_index -1"),
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,,1,0.9,ok", "1.jpg: status ok, but got label '' and label_index 1"),
        ("1.jpg,MEL,1,0.9,ok", "1.jpg,uncertain,1,0.9,ok", "1.jpg: status ok, but got label 'uncertain'"),
        ("\n1.jpg,MEL", "\n2.jpg,MEL", "1 predictions are for a path that has one already: 2.jpg"),
        ("\n1.jpg,MEL", "\nother/1.jpg,MEL", "1 of 60 predictions are for no sample of the data set, first other/"),
        ("59.jpg,NV,2,0.9,ok\n", "59.jpg,NV,2,0", "ends in the middle of its last row"),  # cut off
    ],
)
def test_bad_predictions_are_one_line_and_status_3(
    old: str, new: str, message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(data / "p.csv", old, new)
    assert run("score", data / "p.csv", "--data", data) == 3
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",MEL,", ",ZZ,", "predictions are 'ZZ', no class of the data (BCC, MEL, NV), and the predictions' .meta.json"),
        ("1.jpg,MEL,1", "1.jpg,MEL,77", "1.jpg: got label_index 77 for 'MEL', but other rows have 1 for 'MEL'"),
        ("1.jpg,MEL,1", "1.jpg,MEL,2", "1.jpg: got label_index 2 for 'MEL', but other rows have 1 for 'MEL' and 'NV'"),
    ],
)
def test_labels_are_checked_without_meta(
    old: str, new: str, message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "p.csv.meta.json").unlink()
    assert scored(data)["classes"] == CLASSES
    text = (data / "p.csv").read_text()
    (data / "p.csv").write_text(text.replace(old, new) if "jpg" not in old else text.replace(old, new, 1))
    assert run("score", data / "p.csv", "--data", data) == 3
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"classes": 5}', "the predictions' meta has the classes 5, expected a list of names"),
        ('{"classes": null}', "the predictions' meta has the classes None"),
        ('{"classes": ["BCC", 1]}', "expected a list of names"),
        ('{"classes": ["BCC", "MEL", "NV", "MEL"]}', "meta names the class 'MEL' twice, expected each once"),
        ("null", "got NoneType, expected a JSON object"),
        ('{"a":' * 100_000, "not JSON"),
        ('{"classes": ["BCC", "MEL", "NV"], "temperature": NaN}', "the results hold what JSON cannot"),
    ],
)
def test_a_damaged_meta_is_one_line(
    text: str, message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "p.csv.meta.json").write_text(text)
    assert run("score", data / "p.csv", "--data", data, "-o", data / "r.json") == 3
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not (data / "r.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a predictions file: no column path, label, label_index, status"),
        ("path,label,label_index,confidence,status\n", "60 of 60 samples have no prediction, first 0.jpg"),
        ("path,label,label_index,confidence,status\nx.jpg,NV,2,1,ok\n", "1 of 1 predictions are for no sample"),
    ],
)
def test_empty_and_foreign_files(text: str, message: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "p.csv").write_text(text)
    for flags in ([], ["--subset"]):
        assert run("score", data / "p.csv", "--data", data, *flags) == 3
        error = capsys.readouterr().err
        assert message in error and "--subset" not in error  # which would leave nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reference", "medium"], "no group 'medium' in the data set, expected one of dark, light"),
        (["--exclude-group", "medium"], "no group 'medium'"),
        (["--exclude-group", "dark", "--exclude-group", "light"], "every group is excluded"),
        (["--profile", "esfair2023-code"], "group dark has 12 images; esfair2023-code scores whole batches of 64"),
        (["--latency", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--label", "coarse"], "no column coarse"),
    ],
)
def test_what_cannot_be_scored_is_status_3(
    arguments: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("score", data / "p.csv", "--data", data, *arguments) == 3
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_probabilities_are_read_from_the_file(data: Path) -> None:
    lines = (data / "p.csv").read_text().splitlines()
    rows = [lines[0] + ",prob_BCC,prob_MEL,prob_NV"]
    for line in lines[1:]:
        index = int(line.split(",")[2])
        rows.append(line + "," + ",".join("0.9" if k == index else "0.05" for k in range(3)))
    (data / "p.csv").write_text("\n".join(rows) + "\n")
    result = scored(data)
    assert result["calibration"]["ece"]["value"] == pytest.approx(abs(result["accuracy"]["value"] - 0.9), abs=1e-6)
    edit(data / "p.csv", "0.05", "nan")
    assert run("score", data / "p.csv", "--data", data) == 3


@pytest.mark.slow
def test_a_million_rows() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 1_000_000), rng.integers(0, 4, 1_000_000)
    guesses = np.where(rng.random(1_000_000) < 0.8, labels, rng.integers(0, 3, 1_000_000))
    pairs = [
        (Sample(path := f"{i}.jpg", CLASSES[label], f"G{group}", path), Prediction(path, CLASSES[guess], guess, 0.5))
        for i, (label, group, guess) in enumerate(
            zip(labels.tolist(), groups.tolist(), guesses.tolist(), strict=True)
        )
    ]
    start = time.process_time()
    result = build.metrics(pairs, CLASSES, setting(reference="G0", draws=2000))
    assert time.process_time() - start < 10
    assert result["accuracy"]["n"] == 1_000_000 and result["score"]["fairness"]["low"] is not None
