"""What is counted under emulation, and what it is held against; nothing is emulated here."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sample_images import TINY_MODEL

from bench.cli import main
from bench.commands import pi4b as command
from bench.pi4b import board, count, emulator, estimate, programs, rootfs, time_model
from bench.pi4b.count import Cost
from bench.pi4b.pieces import MARK, Spec
from bench.pi4b.programs import Pi4bError
from bench.pi4b.rootfs import Tree
from bench.pi4b.time_model import Formula
from edge.classifier import Classifier
from edge.errors import EdgeError

ROOT = Path(__file__).parents[1]
BASELINE = ROOT / "docs" / "pi4b-cost.json"
FORMULA = Formula(0.5, 17.0, 40.0)
PARTS = ("versions", "models", "photos", "regions")


def region(name="net", *, kind="infer", **changes):
    """5 million cycles of instructions, 17 of L1 misses, 80 of L2 misses: 57 ms."""
    zeros = dict.fromkeys(("simd_fma", "simd_int_mac", "simd_float", "simd_int", "branch_misses"), 0)
    counts = {"instructions": 10_000_000, "l1_misses": 3_000_000, "l2_misses": 2_000_000, **zeros}
    return Cost(kind, name, 1, {**counts, **changes})


def compare(before, after):
    return list(count.compare(before, after, FORMULA))


@pytest.mark.parametrize("name", ["instructions", "l1_misses", "l2_misses"])
def test_three_percent_more_is_seen_and_one_is_not(name):
    before = [region()]
    dearer = region(**{name: round(1.03 * before[0].counted[name])})
    (line,) = compare(before, [dearer])
    assert line.startswith("infer net batch 1: ") and "+3.0%" in line
    assert compare(before, [region(**{name: round(1.01 * before[0].counted[name])})]) == []
    assert compare(before, [region(**{name: round(0.9 * before[0].counted[name])})]) == []  # cheaper is welcome


def test_misses_that_cost_no_time_do_not_count():
    small = {"instructions": 10_000_000, "l1_misses": 20_000}
    # 19,000 misses that L2 does not answer either, 23 cycles each: 0.24 ms; 20,000 more of both: 0.44 ms
    assert compare([region(**small, l2_misses=10)], [region(**small, l2_misses=19_010)]) == []
    dearer = region(instructions=10_000_000, l1_misses=40_000, l2_misses=20_010)
    assert len(compare([region(**small, l2_misses=10)], [dearer])) == 2


def test_where_the_buffers_of_a_decode_lie_does_not_count():
    """3 % more L1 misses are 1.5 % of this time: enough for a network alone. 3 % more of the others are for all."""
    for kind, expected in (("infer", 1), ("decode", 0)):
        assert len(compare([region(kind=kind)], [region(kind=kind, l1_misses=3_090_000)])) == expected
        assert len(compare([region(kind=kind)], [region(kind=kind, instructions=10_300_000)])) == 1
        assert len(compare([region(kind=kind)], [region(kind=kind, l2_misses=2_060_000)])) == 1


def test_counts_of_one_decode_in_two_folders_are_equal_enough():
    """2592x1936, the same program and photo, counted in trees at two places: 17 % of the time apart."""
    here = {"instructions": 63_838_430, "l1_misses": 76_445, "l2_misses": 5_943}
    there = {"instructions": 63_759_604, "l1_misses": 401_915, "l2_misses": 5_886}
    assert compare([region(kind="decode", **here)], [region(kind="decode", **there)]) == []
    dearer = region(kind="decode", **{**there, "l1_misses": 802_000})
    assert len(compare([region(kind="decode", **here)], [dearer])) == 1


def test_a_region_that_is_gone_is_seen():
    assert compare([region("a"), region("b")], [region("b")]) == ["infer a batch 1: not counted any more"]


def test_a_region_that_nothing_watches_is_seen():
    expected = ["infer b batch 1: not in the baseline, which has to be made anew"]
    assert compare([region("a")], [region("a"), region("b")]) == expected


def test_committed_baseline_can_be_read():
    result, costs = count.read_costs(BASELINE)
    assert result["note"].startswith("modelled, not measured")
    assert {each.kind for each in costs} == {"decode", "resize", "infer"}
    assert result["versions"]["onnxruntime"] in (ROOT / "constraints/py311-aarch64.txt").read_text()


def results(**changes):
    """A results file as bytes, with changes to it or to its only region."""
    one = {**region().as_json(), **{key: value for key, value in changes.items() if key not in PARTS}}
    digests = {"models": {"net": "f00"}, "photos": {"a.jpg": "ba5e"}}
    whole = {"schema": count.SCHEMA, "versions": {"qemu": "7.2.22"}, **digests, "regions": [one]}
    return json.dumps({**whole, **{key: value for key, value in changes.items() if key in PARTS}}).encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "damaged results"),
        (b"[]", "no results of edge-bench pi4b"),
        (b'{"schema": "edge-bench/1"}', "no results of edge-bench pi4b"),
        (b'{"schema": "edge-pi4b/1"}', "damaged results of edge-bench pi4b: KeyError"),
        (b'{"schema": "edge-pi4b/1", "versions": {}, "regions": [{}]}', "damaged results of edge-bench pi4b: KeyError"),
        (b'{"schema": "edge-pi4b/1", "versions": 3, "regions": []}', "damaged results of edge-bench pi4b: TypeError"),
        (results(versions={"numpy": ["2"]}), "damaged results of edge-bench pi4b: TypeError versions"),
        (results(models=[["a", "b"]]), "damaged results of edge-bench pi4b: TypeError models"),
        (results(photos=["a.jpg"]), "damaged results of edge-bench pi4b: TypeError photos"),
        (results(models=None), "damaged results of edge-bench pi4b: TypeError models"),
        (results(regions={"a": 1}), "damaged results of edge-bench pi4b: ValueError"),
        (results(regions=[]), "there is no region"),
        (results(regions=[region().as_json()] * 2), "infer net batch 1 is there twice"),
        (results(instructions=10**400), "larger than any counter"),
        (results(instructions=float("inf")), "damaged results of edge-bench pi4b: KeyError 'instructions'"),
        (results(l1_misses=float("nan")), "damaged results of edge-bench pi4b: KeyError 'l1_misses'"),
        (results(l2_misses=True), "damaged results of edge-bench pi4b: KeyError 'l2_misses'"),
        (results(l2_misses=-1), "a count is negative"),
        (results(instructions=0), "a count is negative"),
        (results(batch=float("inf")), "a region of no known kind"),
        (results(name=["x"]), "a region of no known kind"),
        (results(kind=["infer"]), "a region of no known kind"),
        (b"\xff\xfe", "damaged results"),
    ],
)
def test_bad_baselines(content, expected, tmp_path, capsys):
    path = tmp_path / "base line.json"
    path.write_bytes(content)
    with pytest.raises(EdgeError, match=expected):
        count.read_costs(path)
    assert main(["pi4b", "--baseline", str(path)]) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_output_is_never_an_input(tmp_path, capsys):
    path = tmp_path / "counts.json"
    path.write_bytes(BASELINE.read_bytes())
    assert main(["pi4b", "--baseline", str(path), "-o", str(path), "--force"]) == 2
    assert "is an input" in capsys.readouterr().err
    assert path.read_bytes() == BASELINE.read_bytes()


def test_counts_are_read_by_tag(tmp_path):
    path = tmp_path / "counts"
    path.write_text('{"tag": -2, "instructions": 1}\n{"tag": 0, "instructions": 5}\n{"tag": -1, "instructions": 2}\n')
    assert emulator.read_counts(path) == {0: {"instructions": 5}}
    path.write_text('{"tag": 0, "instr')
    with pytest.raises(Pi4bError, match="wrote nothing usable"):
        emulator.read_counts(path)
    assert f"enum {{ MARK = {MARK} }};" in emulator.COUNTER.read_text()
    with pytest.raises(Pi4bError, match="path with a comma"):
        emulator.plugin_argument(tmp_path, tmp_path / "a,b", "7.2.22")


def test_counting_is_given_up_after_a_time_that_grows_with_the_work(monkeypatch, tmp_path):
    limits = []

    def run(*arguments, timeout_s, **others):
        limits.append(timeout_s)
        raise Pi4bError("stop")

    monkeypatch.setattr(count, "run", run)
    one = Spec(("a.jpg",), models=("m",), batches=(1, 4))
    for spec in (Spec(), one, replace(one, winners=True)):
        with pytest.raises(Pi4bError, match="stop"):
            count.count_regions(Tree(tmp_path / "root", "3.11", ()), spec)
    assert limits == [60, 60 + 2 * 60 + 5 * 150, 60 + 3 * 60 + 5 * 150]


@pytest.fixture
def gate(monkeypatch, tmp_path):
    """`edge-bench pi4b --baseline` where everything but the counting is real: (baseline, counts) -> exit status."""
    versions = {"python": "3.11", "qemu": "7.2.22", "numpy": "2"}
    monkeypatch.setattr(programs, "require", lambda *names: None)
    monkeypatch.setattr(rootfs, "versions", lambda *arguments: versions)
    done = []

    def stand_in(costs):
        def build(*arguments, **others):
            done.append("tree")
            return SimpleNamespace(debian_packages=lambda: {"libc6": "1"})

        monkeypatch.setattr(rootfs, "build_tree", build)
        monkeypatch.setattr(count, "check", lambda tree: None)
        monkeypatch.setattr(count, "count_regions", lambda *arguments: costs)

    def check(before, after, *, options=(), **changes):
        done.clear()
        stand_in(after)
        whole = {"versions": versions, "models": {TINY_MODEL.name: Classifier.load(TINY_MODEL).sha256}, **changes}
        path = tmp_path / "base line.json"
        path.write_bytes(results(regions=[each.as_json() for each in before], **whole))
        common = ["--no-photos", "-m", str(TINY_MODEL), "--cache", str(tmp_path)]
        return main(["pi4b", "--baseline", str(path), *common, *options]), list(done)

    return check


def test_gate_keeps_what_costs_no_more(gate, capsys):
    assert gate([region()], [region(instructions=10_100_000)]) == (0, ["tree"])
    assert "1 regions cost no more than in" in capsys.readouterr().err


def test_gate_refuses_what_costs_more(gate, capsys):
    assert gate([region()], [region(instructions=10_300_000)]) == (6, ["tree"])
    said = capsys.readouterr().err.splitlines()
    assert "infer net batch 1: instructions, 10,300,000 against 10,000,000, +3.0%" in said[0]
    assert said[1].endswith("(counted with other debian_packages and photos)") and len(said) == 2
    assert gate([region("a"), region("b")], [region("a")])[0] == 6
    assert gate([region("a")], [region("a"), region("b")])[0] == 6
    assert gate([], [region("a")])[0] == 3


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"versions": {"python": "3.11", "qemu": "7.2.22", "numpy": "1"}}, 6, "counted with other versions (numpy)"),
        ({"models": {"net": "f00"}}, 6, "counted with other models (net, tiny.onnx)"),
        (
            {"versions": {"python": "3.11", "qemu": "10.0.2", "numpy": "2"}},
            5,
            "counted with QEMU 10.0.2, here is QEMU 7.2.22: their counts cannot be compared",
        ),
    ],
)
def test_gate_refuses_other_inputs_before_the_count(changes, status, said, gate, capsys):
    assert gate([region()], [region()], **changes) == (status, [])
    assert said in capsys.readouterr().err


def test_gate_goes_by_the_published_times_alone(gate, monkeypatch):
    """A board's report moves the formula of the results, not what matters in the comparison."""
    used = []
    monkeypatch.setattr(count, "compare", lambda before, after, formula: used.append(formula) or ())
    before = time_model.fit(time_model.read_points())
    skewed = [replace(point, ms=9 * point.ms) for point in time_model.read_points()]
    monkeypatch.setattr(board, "network_points", lambda *arguments: skewed)
    monkeypatch.setattr(board, "read", lambda path: {})
    monkeypatch.setattr(board, "check", lambda *arguments: None)
    monkeypatch.setattr(board, "photo_ratios", lambda reports, costs, formula, photos: used.append(formula))
    monkeypatch.setattr(command, "check_files", lambda *arguments: None)
    options = ["--calibrate", "any.json"]
    assert gate([region()], [region()], options=options)[0] == 0
    assert used[1] == before and used[0] != before


def test_a_report_that_says_nothing_of_photos_is_named(monkeypatch, tmp_path, capsys):
    """And the published range stays."""
    (tmp_path / "a.jpg").write_bytes(b"photo")
    costs = [region("a.jpg", kind="decode"), region("a.jpg", kind="resize"), region(TINY_MODEL.name)]
    monkeypatch.setattr(programs, "require", lambda *names: None)
    monkeypatch.setattr(rootfs, "versions", lambda *arguments: {})
    monkeypatch.setattr(rootfs, "build_tree", lambda *a, **o: SimpleNamespace(debian_packages=lambda: {}))
    monkeypatch.setattr(estimate, "write_photos", lambda folder: [(tmp_path / "a.jpg", 1.0)])
    monkeypatch.setattr(count, "check", lambda tree: None)
    monkeypatch.setattr(count, "count_regions", lambda *arguments: costs)
    sha256 = Classifier.load(TINY_MODEL).sha256
    for name, digest in (("same", board.digests([str(tmp_path / "a.jpg")])["a.jpg"]), ("other", "f00")):
        report = {
            "schema": board.SCHEMA, "valid": True, "model": {"name": "net", "sha256": sha256}, "reasons": [],
            "machine": {"before": {"board": board.BOARD, "clock_max_mhz": 1800}}, "photos": {"a.jpg": digest},
            "regions": [
                {"kind": "infer", "name": "net", "batch": 1, "ms": 40.0},
                {"kind": "decode", "name": "a.jpg", "batch": 1, "ms": 50.0},
            ],
        }  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    common = ["pi4b", "-m", str(TINY_MODEL), "--cache", str(tmp_path), "--calibrate"]
    assert main([*common, str(tmp_path / "same.json")]) == 0
    assert capsys.readouterr().err == ""
    out = tmp_path / "out.json"
    assert main([*common, str(tmp_path / "other.json"), "-o", str(out)]) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"edge-bench: {tmp_path}/other.json: says nothing of photos") and said.count("\n") == 1
    assert json.loads(out.read_bytes())["photo_factors"] == json.loads(out.read_bytes())["winners_factors"]


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["-o", "there.json"], 2, "exists already"),
        (["-m", "{model}", "-m", "{copy}"], 3, "copy.onnx has the same content as tiny.onnx"),
        (["-m", "{model}", "-m", "{model}"], 3, "got the name tiny.onnx twice"),
        (["-m", "nowhere.onnx"], 4, "nowhere.onnx"),
        (["--calibrate", "there.json"], 3, "no report of edge-bench board"),
    ],
)
def test_inputs_are_looked_at_before_the_work(options, status, said, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "copy.onnx").write_bytes(TINY_MODEL.read_bytes())

    def work(*arguments, **others):
        raise AssertionError("work before the inputs are known to be good")

    places = (programs, "require"), (rootfs, "build_tree"), (count, "count_regions"), (estimate, "write_photos")
    for place, name in places:
        monkeypatch.setattr(place, name, work)
    options = [option.format(model=TINY_MODEL, copy="copy.onnx") for option in options]
    assert main(["pi4b", "--cache", str(tmp_path / "cache"), *options]) == status
    assert said in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b'{"schema": "edge-pi4b/1", "vers', b"", None])
def test_a_damaged_baseline_is_refused_with_one_line(content, monkeypatch, tmp_path, capsys):
    """Also where nothing could be counted: a machine without QEMU sees it too."""
    monkeypatch.setattr(programs.shutil, "which", lambda name: None)
    path = tmp_path / "counts.json"
    if content is not None:
        path.write_bytes(content)
    assert main(["pi4b", "--cache", str(tmp_path / "cache"), "--baseline", str(path)]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"edge-bench: {path}: ") and said.count("\n") == 1


def test_both_versions_of_qemu_are_named_before_the_count(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(programs, "require", lambda *names: None)
    monkeypatch.setattr(programs, "qemu_version", lambda: "10.0.8")
    monkeypatch.setattr(rootfs, "build_tree", lambda folder, **options: pytest.fail("built"))
    assert main(["pi4b", "--cache", str(tmp_path / "cache"), "--baseline", str(BASELINE)]) == 5
    then = json.loads(BASELINE.read_bytes())["versions"]["qemu"]
    assert f"counted with QEMU {then}, here is QEMU 10.0.8" in capsys.readouterr().err
