"""The formula: fit, left-out errors, bad calibration files, what is published of decoding, the contest's sums."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.cli import main
from bench.pi4b import board, decoding, estimate, time_model
from bench.pi4b.count import Cost
from bench.pi4b.time_model import Counts, Formula, Point
from edge.errors import EdgeError

FORMULA = Formula(0.5, 20.0, 30.0)
ERROR = SimpleNamespace(factors=lambda: (0.9, 1.1))


def points(formula, *, noise=0.0, count=8):
    rng = np.random.default_rng(0)
    for i in range(count):
        l2, extra, instructions = rng.uniform(1e5, 1e6), rng.uniform(1e5, 9e6), rng.uniform(1e7, 1e9)
        counts = Counts(instructions, 0, l2 + extra, l2)
        cycles = formula.per_instruction * instructions + formula.per_l1_miss * extra + formula.per_l2_miss * l2
        yield Point(f"net{i}", cycles / 1.8e6 * (1 + noise * rng.uniform(-1, 1)), counts, f"net{i}")


def test_formula_by_hand():
    # 1000 x 0.5 + (30 - 10) x 20 + 10 x 30 = 1200 cycles
    assert FORMULA.ms(Counts(1000, 0, 30, 10)) == pytest.approx(1200 / 1.8e6)


def test_vector_operations_are_a_floor():
    assert FORMULA.ms(Counts(1000, 999, 0, 0)) == pytest.approx(999 / 1.8e6)


def test_mispredicted_branches_are_no_part_of_it():
    assert FORMULA.ms(Counts(1000, 0, 30, 10, 1e9)) == FORMULA.ms(Counts(1000, 0, 30, 10))


def test_fit_finds_the_formula_that_made_the_times():
    found = time_model.fit(list(points(FORMULA)))
    assert [found.per_instruction, found.per_l1_miss, found.per_l2_miss] == pytest.approx([0.5, 20, 30])
    errors = time_model.validate(list(points(FORMULA)))
    assert max(errors.fit_max, errors.left_out_max) < 1e-9


def test_fit_is_the_least_squared_relative_error():
    noisy = list(points(FORMULA, noise=0.1))

    def loss(a, b, c):
        return sum((Formula(a, b, c).ms(point.counts) / point.ms - 1) ** 2 for point in noisy)

    best = time_model.fit(noisy)
    found = [best.per_instruction, best.per_l1_miss, best.per_l2_miss]
    for i in range(3):
        for step in (0.99, 1.01):
            moved = [value * (step if k == i else 1) for k, value in enumerate(found)]
            assert loss(*moved) > loss(*found)


def test_left_out_errors_are_of_a_fit_without_the_point():
    noisy = list(points(FORMULA, noise=0.1))
    errors = []
    for i, point in enumerate(noisy):
        without = time_model.fit(noisy[:i] + noisy[i + 1 :])
        errors.append(abs(without.ms(point.counts) - point.ms) / point.ms)
    found = time_model.validate(noisy)
    assert (found.left_out_mean, found.left_out_max) == pytest.approx((np.mean(errors), max(errors)))
    assert found.left_out_mean > found.fit_mean


def test_left_out_are_whole_networks():
    """Two batch sizes of one network tell each other; the error is of a network that is not there at all."""
    noisy = list(points(FORMULA, noise=0.1))
    again = [replace(point, name=f"{point.name} batch 4") for point in noisy]
    alone, twice = time_model.validate(noisy), time_model.validate(noisy + again)
    assert (twice.left_out_mean, twice.left_out_max) == pytest.approx((alone.left_out_mean, alone.left_out_max))
    assert {p.group for p in time_model.read_points() if p.name.startswith("resnet18")} == {"resnet18"}
    with pytest.raises(EdgeError, match="got 0 points"):
        time_model.validate([replace(point, group="one") for point in noisy])


def test_no_event_saves_time():
    """Times that grow with instructions and shrink with misses: the best fit without a limit has a term below 0."""
    made = [replace(p, ms=p.ms * (1.2 if p.counts.l2_misses < 5e5 else 0.8)) for p in points(Formula(0.5, 20, 0.1))]
    rows = np.array([p.counts.terms() / (p.ms * time_model.CYCLES_PER_MS) for p in made])
    assert np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0].min() < 0
    best = time_model.fit(made)
    found = [best.per_instruction, best.per_l1_miss, best.per_l2_miss]
    assert min(found) == 0
    loss = np.sum((rows @ found - 1) ** 2)
    rng = np.random.default_rng(1)
    for _ in range(1000):
        other = np.maximum(found + rng.normal(0, [0.05, 2, 2]), 0)
        assert np.sum((rows @ other - 1) ** 2) >= loss


def test_the_true_time_lies_in_the_range_that_the_error_gives():
    """An error e says modelled = true x (1 - e) to true x (1 + e): so true = modelled / (1 + e) to / (1 - e)."""
    assert time_model.Validation(0, 0, 0, 0.25).factors() == pytest.approx((0.8, 4 / 3))
    noisy = list(points(FORMULA, noise=0.2))
    low, high = time_model.validate(noisy).factors()
    for point in noisy:
        told = time_model.without(noisy, point.group).ms(point.counts)
        assert low * told <= point.ms * (1 + 1e-9) and point.ms <= high * told * (1 + 1e-9)


@pytest.mark.parametrize("error", [1.0, 7.0, float("nan")])
def test_an_error_of_all_of_it_gives_no_range(error):
    with pytest.raises(EdgeError, match="left out of the fit is predicted .* wrong") as raised:
        time_model.Validation(0, 0, 0, error).factors()
    assert raised.value.exit_status == 3


def test_too_few_or_too_equal_points():
    with pytest.raises(EdgeError, match="got 3 points"):
        time_model.fit(list(points(FORMULA))[:3])
    with pytest.raises(EdgeError, match="too alike"):
        time_model.fit(list(points(FORMULA))[:1] * 9)


def test_committed_calibration_is_as_good_as_the_docs_say():
    found = time_model.read_points()
    assert len(found) == 17
    errors = time_model.validate(found)
    assert (errors.fit_mean, errors.left_out_mean) == pytest.approx((0.041, 0.056), abs=0.0005)
    assert (errors.fit_max, errors.left_out_max) == pytest.approx((0.094, 0.154), abs=0.0005)
    assert errors.factors() == pytest.approx((1 - 0.134, 1 + 0.182), abs=0.0005)


def test_committed_decodes_bracket_the_model_on_a_cortex_a57_only():
    formula = time_model.fit(time_model.read_points())
    low, high = decoding.decoding_range(decoding.read_decodes(), formula)
    assert low < 1 < high < 6
    for decode in decoding.read_decodes():
        for branch_cycles in (0, decoding.BRANCH_CYCLES):
            least, most = decode.ratios(formula, branch_cycles=branch_cycles)
            assert (least < 1 < most) == decode.name.startswith("libjpeg-turbo")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda row: row.update(ms_1_thread="-3"), "line 2: squeezenet: expected positive numbers"),
        (lambda row: row.update(ms_1_thread="nan"), "line 2: squeezenet: expected positive numbers"),
        (lambda row: row.update(ms_1_thread="quick"), "line 2: could not convert string to float: 'quick'"),
        (lambda row: row.update(l2_misses="9e9"), "line 2: squeezenet: more misses of L2 than of L1"),
        (lambda row: row.pop("simd"), "line 2: "),
    ],
)
def test_bad_calibration_tables(change, expected, tmp_path):
    with open(time_model.CALIBRATION, newline="") as file:
        row = next(csv.DictReader(file))
    change(row)
    path = tmp_path / "täble.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    with pytest.raises(EdgeError) as error:
        time_model.read_points(path)
    assert str(error.value).startswith(f"{path}: {expected}")
    with pytest.raises(EdgeError, match="cannot be read"):
        time_model.read_points(tmp_path / "absent.csv")


def counted(kind, name, batch, cycles):
    others = "l1_misses l2_misses branch_misses simd_fma simd_int_mac simd_float simd_int"
    return Cost(kind, name, batch, {"instructions": 2 * cycles, **dict.fromkeys(others.split(), 0)})


def test_contest_sums_by_hand():
    # One photo in four is large: 0.25 x (80 + 20) + 0.75 x (8 + 2) = 32.5 ms, and 40 ms for a batch of 4: 42.5 ms.
    ms = 1_800_000
    costs = [
        counted("decode", "large", 1, 80 * ms), counted("resize", "large", 1, 20 * ms),
        counted("decode", "small", 1, 8 * ms), counted("resize", "small", 1, 2 * ms),
        counted("winners", "large", 1, 200 * ms), counted("winners", "small", 1, 40 * ms),
        counted("infer", "net", 1, 12 * ms), counted("infer", "net", 4, 40 * ms),
    ]  # fmt: skip
    scale = estimate.Scale(FORMULA, photos=(1.0, 2.0), winners=(1.0, 2.0), validation=ERROR)
    ours, winners = estimate.estimates(costs, {"large": 0.25, "small": 0.75}, scale)
    assert ours.runtime == "ours" and winners.runtime == "winners"
    assert ours.one_thread_s == pytest.approx(((32.5 + 9) / 10, (65 + 11) / 10))
    assert winners.one_thread_s == pytest.approx(((80 + 10.8) / 10, (160 + 13.2) / 10))
    low, high = ours.one_thread_s
    assert ours.four_cores_s == pytest.approx((low / 4, high / 2.5))
    assert ours.score == pytest.approx((1 - high / 250, 1 - low / 400))
    assert estimate.estimates(costs[-2:], {}, scale) == []  # without photos there is nothing to say
    ratios = [b / a for a, b in zip(ours.one_thread_s, winners.one_thread_s, strict=True)]
    assert estimate.compared(ours, winners, scale) == pytest.approx(sorted(ratios))  # one error for both


def test_a_board_that_measured_ours_says_nothing_of_the_winners():
    ms = 1_800_000
    costs = [
        counted("decode", "a", 1, 10 * ms), counted("resize", "a", 1, 0), counted("winners", "a", 1, 10 * ms),
        counted("infer", "net", 1, 0), counted("infer", "net", 4, 0),
    ]  # fmt: skip
    regions = [{"kind": kind, "name": "a.jpg", "batch": 1, "ms": 40.0} for kind in ("decode", "winners")]
    own = board.photo_ratios([report(regions=regions[:1])], costs, FORMULA, {"a": "ba5e"})
    assert own == pytest.approx((40 * 1500 / 1800 / 10,) * 2)
    assert board.photo_ratios([report(regions=regions[1:])], costs, FORMULA, {"a": "ba5e"}) is None
    scale = estimate.Scale(FORMULA, photos=own, winners=(1.0, 5.0), validation=ERROR)
    ours, winners = estimate.estimates(costs, {"a": 1.0}, scale)
    assert ours.one_thread_s == pytest.approx((10 / 3, 10 / 3))
    assert winners.one_thread_s == pytest.approx((1, 5))
    assert estimate.compared(ours, winners, scale) == pytest.approx((0.3, 1.5))  # two errors: all that can be


def test_shares_of_the_mix_add_up():
    assert sum(estimate.mix().values()) == pytest.approx(1)
    assert estimate.mix()[6000, 4000] == pytest.approx(0.32 * 0.35)


def report(**changes):
    regions = [
        {"kind": "infer", "name": "net.onnx", "batch": 1, "ms": 12.0},
        {"kind": "decode", "name": "a.jpg", "batch": 1, "ms": 30.0},
    ]
    machine = {"before": {"board": "Raspberry Pi 4 Model B Rev 1.5", "clock_max_mhz": 1500.0}}
    model_part = {"name": "net.onnx", "sha256": "f00"}
    found = {"schema": board.SCHEMA, "machine": machine, "valid": True, "reasons": [], "regions": regions}
    return {**found, "model": model_part, "photos": {"a.jpg": "ba5e"}, **changes}


def test_a_board_gives_points_at_1800_mhz():
    costs = [counted("infer", "mine.onnx", 1, 18_000_000), counted("decode", "a.jpg", 1, 18_000_000)]
    (point,) = board.network_points(report(), costs, {"mine.onnx": "f00"})
    assert point.ms == pytest.approx(12 * 1500 / 1800)
    here = {"a.jpg": "ba5e"}
    assert board.photo_ratios([report()], costs, FORMULA, here) == pytest.approx((2.5, 2.5))  # 25 ms, modelled 10
    assert board.photo_ratios([], costs, FORMULA, here) is None


def test_photos_are_known_by_their_content():
    costs = [counted("decode", "a.jpg", 1, 18_000_000), counted("decode", "b.jpg", 1, 36_000_000)]
    other = {"a.jpg": "f00d", "b.jpg": "ba5e"}
    assert board.photo_ratios([report()], costs, FORMULA, other) == pytest.approx((1.25, 1.25))  # 25 ms, of b.jpg
    assert board.photo_ratios([report()], costs, FORMULA, {"a.jpg": "f00d"}) is None


def test_all_that_boards_measured_is_left_out_together():
    """Also float32 and int8 of one network, which are two files: what tells one tells nearly the other."""
    costs = [counted("infer", name, 1, 18_000_000) for name in ("a.onnx", "a.int8.onnx")]
    digests = {"a.onnx": "f00", "a.int8.onnx": "f08"}
    reports = [report(), report(model={"name": "net.onnx", "sha256": "f08"})]
    found = [point for each in reports for point in board.network_points(each, costs, digests)]
    assert [point.name for point in found] == ["infer a.onnx batch 1", "infer a.int8.onnx batch 1"]
    published = time_model.read_points()
    alone, both = time_model.without(published, ""), time_model.without(published + found, found[0].group)
    assert found[0].group not in {point.group for point in published} and both == alone


def test_a_report_of_which_nothing_is_counted_is_refused_before_the_count(tmp_path, capsys):
    with pytest.raises(EdgeError, match=r"^b.json: the board measured net.onnx \(f00\), which is not counted"):
        board.check(Path("b.json"), report(), {"other.onnx": "bad"}, (1,))
    with pytest.raises(EdgeError, match=r"^b.json: the board measured batch sizes \[1\], expected one of \[2\]"):
        board.check(Path("b.json"), report(), {"mine.onnx": "f00"}, (2,))
    board.check(Path("b.json"), report(), {"mine.onnx": "f00"}, (1, 4))
    path = tmp_path / "b.json"
    path.write_text(json.dumps(report()))
    assert main(["pi4b", "--calibrate", str(path)]) == 3
    assert "which is not counted: give it with -m" in capsys.readouterr().err


def region(**changes):
    return {"kind": "infer", "name": "x", "batch": 1, "ms": 1.0, **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schema": "edge-bench/1"}, "no report of edge-bench board"),
        ({"machine": {"before": {"board": "VirtualBox", "clock_max_mhz": 1}}}, "measured on VirtualBox"),
        ({"machine": {}}, "damaged report of a board: KeyError"),
        ({"valid": False, "reasons": ["throttled"]}, "the run calls itself invalid: throttled"),
        ({"machine": {"before": {"board": board.BOARD, "clock_max_mhz": float("nan")}}}, "got a clock of 'nan' MHz"),
        ({"machine": {"before": {"board": board.BOARD, "clock_max_mhz": 10**400}}}, "got a clock of '1000"),
        ({"machine": {"before": {"board": board.BOARD, "clock_max_mhz": [1]}}}, "got a clock of '[1]' MHz"),
        ({"machine": [1]}, "damaged report of a board: TypeError"),
        ({"regions": [region(ms=-1)]}, "x: got '-1' ms"),
        ({"regions": [region(ms=float("inf"))]}, "x: got 'inf' ms"),
        ({"regions": [region(ms=10**400)]}, "x: got '1000"),
        ({"regions": [region(ms=True)]}, "x: got 'True' ms"),
        ({"regions": [region(ms=[])]}, "x: got '[]' ms"),
        ({"regions": [region(kind=["infer"])]}, "damaged report of a board: TypeError"),
        ({"regions": [region(batch={})]}, "damaged report of a board: TypeError"),
        ({"regions": [{"kind": "infer"}]}, "damaged report of a board: KeyError"),
        ({"regions": [[1]]}, "damaged report of a board: TypeError"),
        ({"regions": 7}, "damaged report of a board: TypeError"),
        ({"regions": {"a": 1}}, "damaged report of a board: TypeError"),
        ({"model": None}, "damaged report of a board: TypeError"),
        ({"model": {"name": "x", "sha256": ["f00"]}}, "damaged report of a board: TypeError"),
        ({"photos": ["a.jpg"]}, "damaged report of a board: TypeError"),
        ({"photos": {"a.jpg": 7}}, "damaged report of a board: TypeError"),
        ({"reasons": None, "valid": False}, "damaged report of a board: TypeError"),
    ],
)
def test_bad_reports_of_boards(changes, expected, tmp_path, capsys):
    path = tmp_path / "bo ard.json"
    path.write_text(json.dumps(report(**changes)))
    assert main(["pi4b", "--calibrate", str(path)]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"edge-bench: {path}: {expected}") and error.count("\n") == 1
    path.write_text("{")
    assert main(["pi4b", "--calibrate", str(path)]) == 3


def test_validate_prints_the_errors(capsys):
    assert main(["pi4b", "--validate"]) == 0
    said = capsys.readouterr().out
    assert "error: 4.1% on average, 9.4% at most; left out of the fit, 5.6% and 15.4%" in said
    assert "a time is therefore given as -13.4%/+18.2%" in said
    assert "resnet50_int8" in said and "highport 6000x4000" in said


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--calibrate", "b.json"], "calibrate"),
        (["-o", "out.json", "--force"], "output, force"),
        (["-b", "3"], "batch_size"),
        (["-m", "x.onnx", "--python", "3.13"], "model, python"),
        (["--no-photos", "--peer", "winners"], "--no-photos: got --peer"),
    ],
)
def test_validate_takes_no_other_option(options, named, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["pi4b", "--validate", *options])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert named in said.err and said.err.count("\n") == 1 and not said.out
    assert main(["pi4b", "--validate", "-q"]) == 0
