"""The rules that run something, on stand-ins for the execution files: each does its work, but for one planted fault."""

import json
import os
import platform
import shutil
import sys
import zipfile

import pytest
from sample_submission import CONTEST

from bench.images import encode
from bench.scene import draw
from export.submission import check, emulation, environment, samples, sources, trial
from export.submission.environment import Isolation, find_isolation, run

OPEN = Isolation(has_namespaces=False, has_mounts=False)

ACCURACY = '''\
import csv, json, os, sys
data, output = sys.argv[1], sys.argv[2]
os.makedirs(output, exist_ok=True)
names = sorted(os.path.relpath(os.path.join(folder, name), data) for folder, _, files in os.walk(data)
               for name in files if name.lower().endswith(SUFFIXES) and not name.startswith("."))
with open(os.path.join(output, "predictions.csv"), "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file, lineterminator="\\n")
    writer.writerow("path,label,label_index,confidence,status,error,prob_NV,prob_MEL".split(","))
    for name in names:
        writer.writerow([name, "NV", 0, 0.75, "ok", "", 0.75, 0.25])
groups = sorted({name.split("/")[0] for name in names if name.count("/") == 2})
if groups:
    hits = {group: [name.split("/")[1] == "NV" for name in names if name.split("/")[0] == group] for group in groups}
    rates = {group: sum(hits[group]) / len(hits[group]) for group in groups}
    reference = "G10" if "G10" in groups else groups[0]
    spd = sum(abs(rate - rates[reference]) for rate in rates.values()) / len(rates)
    values = {"accuracy": sum(map(sum, hits.values())) / len(names), "spd": spd, "fairness": max(0, 1 - 5 * spd)}
    score = {name: {"value": value} for name, value in values.items()}
    score["reference_group"] = reference
    result = {"score": score, "by_group": {group: {"accuracy": {"value": rates[group]}} for group in groups}}
    with open(os.path.join(output, "results.json"), "w") as file:
        json.dump(result, file)
'''.replace("SUFFIXES", "('.jpg', '.jpeg', '.png')")

LATENCY = '''\
import json, os, sys
os.makedirs(sys.argv[2], exist_ok=True)
images = sum(len(files) for _, _, files in os.walk(sys.argv[1])) - HIDDEN
latency = {"seconds_per_100": 25.0, "score": 0.75, "images": min(100, images), "protocol": {"runs": 10},
           "samples": {"wall_s": [1.0] * 10}}
with open(os.path.join(sys.argv[2], "latency.json"), "w") as file:
    json.dump({"latency": latency, "machine": {"before": {"architecture": "aarch64"}}}, file)
with open(os.path.join(sys.argv[2], "device.txt"), "w") as file:
    file.write("governor: x\\ntemperature_c: x\\nthrottled: x\\nclock_mhz: x\\n")
'''.replace("HIDDEN", "2")

SHELL = """\
#!/bin/sh
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/code/environment.sh"
"$python" "$here/code/PROGRAM" "$1" "${2:-$HOME/output}"
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    folder = tmp_path / "submission"
    (folder / "code").mkdir(parents=True)
    (folder / "run_accuracy.sh").write_text(SHELL.replace("PROGRAM", "accuracy.py"))
    (folder / "run_latency.sh").write_text(SHELL.replace("PROGRAM", "latency.py"))
    python = tmp_path / "python"
    run_it = f"PYTHONPATH='{sources.CHECKOUT}' exec '{sys.executable}'"
    python.write_text(f"#!/bin/sh\n[ $1 = -I ] && shift\n{run_it} \"$@\"\n")
    python.chmod(0o755)
    (folder / "code/environment.sh").write_text(f"python='{python}'\n")
    (folder / "code/accuracy.py").write_text(ACCURACY)
    (folder / "code/latency.py").write_text(LATENCY)
    photo = encode(draw(32, 32))
    for group in CONTEST.settings["sample_groups"]:
        (folder / "samples/images" / group / "NV").mkdir(parents=True)
        (folder / "samples/images" / group / "NV/img_1.jpg").write_bytes(photo)
    monkeypatch.setattr(samples, "draw", lambda *size, seed, index: draw(32, 32))
    (tmp_path / "logs").mkdir()
    (tmp_path / "scratch").mkdir()
    bench = trial.Trial(folder, tmp_path / "scratch", tmp_path / "logs", CONTEST, OPEN)
    run(["sh", "run_accuracy.sh", str(folder / "samples/images"), str(tmp_path / "recorded")],
        cwd=folder, log=tmp_path / "log", isolation=OPEN, home=tmp_path)
    shutil.copyfile(tmp_path / "recorded/predictions.csv", folder / "samples/predictions.csv")
    return bench


def edit(file, before, after):
    def plant(folder):
        text = (folder / file).read_text()
        assert before in text
        (folder / file).write_text(text.replace(before, after))

    return plant


ACC, LAT = "code/accuracy.py", "code/latency.py"
PLANTED = [
    ("environment", edit("code/environment.sh", "python=", "nosuchcommand\npython="),
     "code/environment.sh", "not found"),
    ("accuracy", edit(ACC, "import csv", "import nosuch, csv"), "run_accuracy.sh", "No module named 'nosuch'"),
    ("accuracy", edit(ACC, '"spd": spd', '"spd": "0"'), "run_accuracy.sh", "has no spd"),
    ("accuracy", edit(ACC, '"spd": spd', '"spd": float("nan")'), "run_accuracy.sh", "says nan for spd"),
    ("accuracy", edit(ACC, '"fairness": max(0, 1', '"fairness": max(0, 0.9'),
     "run_accuracy.sh", "says 0.9 for fairness"),
    ("accuracy", edit(ACC, "json.dump(result,", "json.dump({'score': [1]},"), "run_accuracy.sh", "has no accuracy"),
    ("accuracy", edit(ACC, "json.dump(result,", "json.dump({'score': {'accuracy': 1}},"),
     "run_accuracy.sh", "has no accuracy"),
    ("accuracy", edit(ACC, "for name in names:", "for name in names + names[:1]:"),
     "run_accuracy.sh", "gives two rows for one image"),
    ("accuracy", edit(ACC, "for name in names:", "for name in [*names, 'G6/NV/more.jpg']:"),
     "run_accuracy.sh", "gives a row for G6/NV/more.jpg, which is no image"),
    ("recorded", edit(ACC, '"NV", 0, 0.75', '"MEL", 1, 0.75'), "samples/predictions.csv", "got MEL, recorded NV"),
    ("accuracy", edit(ACC, "[group]}} for group in groups}", "[group]}} for group in groups[1:]}"),
     "run_accuracy.sh", "no accuracy of G10"),
    ("accuracy", edit(ACC, "results.json", "scores.json"), "run_accuracy.sh", "gives no results.json"),
    ("recorded", edit(ACC, "0.75, 0.25]", "0.7502, 0.2498]"), "samples/predictions.csv", "differs by 2.0e-04"),
    ("recorded", edit(ACC, "0.75, 0.25]", "0.25, 0.75]"), "samples/predictions.csv", "a probability differs"),
    ("suffixes", edit(ACC, "name.lower().endswith", "name.endswith"), "run_accuracy.sh", "no row for G10/BCC/SCAN.PNG"),
    ("suffixes", edit(ACC, '"ok", ""', '"error", "broken"'), "run_accuracy.sh", "cannot use"),
    ("missing_group", edit(ACC, "if groups:", "if groups and groups.index('G10') >= 0:"), "run_accuracy.sh", "'G10'"),
    ("missing_group", edit(ACC, 'score["reference_group"] = reference', 'score["reference_group"] = "G10"'),
     "run_accuracy.sh", "compares against"),
    ("missing_group", edit(ACC, 'score["reference_group"] = reference', 'score["reference_group"] = [reference]'),
     "run_accuracy.sh", "compares against ['G6']"),
    ("unlabelled", edit(ACC, "for name in files", "for name in files * (folder.count('/') > data.count('/') + 1)"),
     "run_accuracy.sh", "no row for G10/"),
    ("flat", edit(ACC, "groups = sorted", "assert '/' in names[0]\ngroups = sorted"),
     "run_accuracy.sh", "AssertionError"),
    ("spaces", edit("run_accuracy.sh", '"$1"', "$1"), "run_accuracy.sh", "cannot be read"),
    ("spaces", edit("run_latency.sh", '"$here/code/PROGRAM"'.replace("PROGRAM", "latency.py"), "$here/code/latency.py"),
     "run_latency.sh", "exit status"),
    ("latency", edit(LAT, '"runs": 10', '"runs": 3'), "run_latency.sh", "timed 3 iterations, expected 10"),
    ("latency", edit(LAT, "min(100, images)", "5"), "run_latency.sh", "timed 5 images, expected 24"),
    ("latency", edit(LAT, '"score": 0.75', '"score": 0.8'), "run_latency.sh", "scores 0.8 for 25.0 s"),
    ("latency", edit(LAT, '"runs": 10', '"runs": "10"'), "run_latency.sh", "protocol.runs is '10', expected a number"),
    ("latency", edit(LAT, "25.0", "float('nan')"), "run_latency.sh", "seconds_per_100 is 'nan', expected a number"),
    ("latency", edit(LAT, "[1.0] * 10", "[1.0] * 9"), "run_latency.sh", "lists 9 times, expected 10"),
    ("latency", edit(LAT, "governor: x\\n", ""), "run_latency.sh", "does not tell the governor"),
    ("latency", edit(LAT, '{"latency": latency', '{"other": latency'), "run_latency.sh", "has no latency"),
]


def verdict_of(bench, name):
    return check._tried(CONTEST.rule(name), bench, trial.TRIALS[name])


def needs(name, bench):
    if name == "recorded":
        verdict_of(bench, "accuracy")


@pytest.mark.parametrize("name", [name for name in trial.TRIALS if name != "read_only"])
def test_what_works_passes(bench, name):
    needs(name, bench)
    verdict = verdict_of(bench, name)
    assert (verdict.state, verdict.findings, verdict.skipped) == ("ok", (), "")


@pytest.mark.parametrize(("name", "plant", "file", "what"), PLANTED, ids=[f"{p[0]}-{p[3][:20]}" for p in PLANTED])
def test_a_planted_fault_is_found_and_named(bench, name, plant, file, what):
    plant(bench.folder)
    needs(name, bench)
    found = verdict_of(bench, name).findings
    assert [finding for finding in found if finding.file == file and what in finding.what], found
    assert {finding.rule.check for finding in found} == {name}


def test_a_folder_that_cannot_be_written(bench):
    bench.isolation = find_isolation()
    if not bench.isolation.can_be_read_only:
        pytest.skip("this superuser may not make a folder read-only")
    assert verdict_of(bench, "read_only").state == "ok"
    shutil.rmtree(bench.scratch / "read-only")
    shutil.rmtree(bench.scratch / "home")
    edit("run_accuracy.sh", "$HOME/output", "$here/output")(bench.folder)
    verdict = verdict_of(bench, "read_only")
    assert verdict.findings[0].file == "run_accuracy.sh"
    assert "output" in verdict.findings[0].what


def test_read_only_is_skipped_where_it_cannot_be(bench, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    verdict = verdict_of(bench, "read_only")
    assert verdict.state == "skipped"
    assert "superuser" in verdict.skipped


def test_every_rule_with_a_run_has_a_planted_fault():
    names = {name for name, *_ in PLANTED} | {"read_only"}
    assert names == set(trial.TRIALS)
    assert {rule.check for rule in CONTEST.rules} == set(trial.TRIALS) | set(check.static.CHECKS) | {"aarch64"}
    assert len({rule.id for rule in CONTEST.rules}) == len(CONTEST.rules)


def test_nothing_else_is_tried_without_an_environment(bench):
    edit("code/environment.sh", "python=", "exit 5\npython=")(bench.folder)
    verdicts = {verdict.rule.check: verdict for verdict in check._tries(bench, is_emulated=False)}
    assert verdicts["environment"].state == "FAILED"
    assert {verdict.state for name, verdict in verdicts.items() if name != "environment"} == {"skipped"}


def test_a_near_tie_may_fall_otherwise_and_is_told(bench):
    for line in (("0.75, 0.25]", "0.50003, 0.49997]"),):
        edit(ACC, *line)(bench.folder)
    verdict_of(bench, "accuracy")
    shutil.copyfile(bench.scratch / "output/accuracy/predictions.csv", bench.folder / "samples/predictions.csv")
    edit(ACC, '"NV", 0, 0.75, "ok", "", 0.50003, 0.49997', '"MEL", 1, 0.75, "ok", "", 0.49998, 0.50002')(bench.folder)
    verdict_of(bench, "accuracy")
    verdict = verdict_of(bench, "recorded")
    assert verdict.state == "ok"
    assert verdict.notes[0].startswith("near-tie: G10/NV/img_1.jpg: NV by 6.0e-05")


def test_a_data_set_given_is_sampled(bench, tmp_path):
    data = tmp_path / "data"
    for number in range(9):
        for group in ("G6", "G10"):
            (data / group / "NV").mkdir(parents=True, exist_ok=True)
            (data / group / "NV" / f"{number}.JPG").write_bytes(b"broken")
    bench.data = data
    assert len(samples.images_of(bench.images)) == 2 * 3
    assert verdict_of(bench, "suffixes").state == "ok"


def test_a_file_that_hangs_is_run_once(bench):
    edit(ACC, "import csv", "import time; time.sleep(60)\nimport csv")(bench.folder)
    bench.timeout_s = 1
    assert "killed after 1 s" in verdict_of(bench, "accuracy").findings[0].what
    verdict = verdict_of(bench, "flat")
    assert (verdict.state, verdict.skipped) == ("skipped", "run_accuracy.sh took longer than 1 s before (--timeout)")
    assert verdict_of(bench, "latency").state == "ok"


def stub_wheel(folder, name, tag, files, needs=""):
    """A wheel that pip takes."""
    info = f"{name}.dist-info"
    project, version = name.split("-")
    files = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n{needs}",
             f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: {tag}\n"}
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{tag}.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))


@pytest.fixture
def offline(bench, monkeypatch):
    """The real environment.sh, with stand-ins for what it installs: for the Python that runs the tests."""
    tag, machine = f"cp{sys.version_info[0]}{sys.version_info[1]}", platform.machine()
    stub_wheel(bench.folder / "wheels", "numpy-9.9", f"{tag}-{tag}-linux_{machine}", {"numpy/__init__.py": ""})
    ours = {"edge/__init__.py": "import numpy\n", "bench/__init__.py": "", "export/submission/__init__.py": ""}
    stub_wheel(bench.folder / "code", "fairedge-0", "py3-none-any", ours, "Requires-Dist: numpy\n")
    (bench.folder / f"requirements-{machine}.txt").write_text("numpy==9.9\n")
    templates = sources.CHECKOUT / "export/submission/templates"
    shutil.copyfile(templates / "environment.sh", bench.folder / "code/environment.sh")
    monkeypatch.setenv("PYTHON", sys.executable)
    return bench


def test_packed_wheels_are_installed_without_a_network(offline, monkeypatch):
    told = []

    def told_run(*arguments, **settings):
        told.append(settings["network"])
        return run(*arguments, **settings)

    monkeypatch.setattr(environment, "run", told_run)
    verdict = verdict_of(offline, "environment")
    assert (verdict.state, verdict.findings) == ("ok", ())
    assert told == [False]
    assert verdict.notes == ("made from the packed wheels, without a network",)
    (installed,) = (offline.scratch / "environment").glob("lib/python*/site-packages/numpy-9.9.dist-info")
    assert installed.is_dir()


def test_wheels_for_another_python_leave_the_network(offline, monkeypatch):
    (wheel,) = (offline.folder / "wheels").iterdir()
    wheel.rename(wheel.with_name(f"numpy-9.9-cp399-cp399-linux_{platform.machine()}.whl"))
    told = []
    monkeypatch.setattr(environment, "run", lambda *arguments, **settings: told.append(settings["network"]) or 0)
    verdict = verdict_of(offline, "environment")
    assert told == [True]
    assert verdict.notes == (
        "made from the pinned versions, with this network; the packed wheels are for another machine or Python",)


def test_the_report_has_no_control_characters(bench):
    edit(ACC, "import csv", "raise SystemExit('\\x1b[31mred\\x9b')\nimport csv")(bench.folder)
    lines = list(check.lines(verdict_of(bench, "accuracy")))
    assert lines[1].endswith("exit status 1: \\x1b[31mred\\x9b")
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("plant", "what"),
    [(edit(LAT, "import json", "raise SystemExit('boom')\nimport json"), "exit status 1: boom"),
     (edit(LAT, "aarch64", "x86_64"), "ran on x86_64, expected aarch64"),
     (edit(LAT, '"machine"', '"other"'), "ran on None, expected aarch64"),
     (edit(LAT, '"runs": 10', '"runs": 9'), "timed 9 iterations"),
     (lambda folder: (folder / "requirements-aarch64.txt").unlink(), "is missing")],
)
def test_a_planted_fault_of_the_pis_file_is_found(bench, monkeypatch, plant, what):
    """Without the emulation: its Python is this one."""
    monkeypatch.setattr(emulation.tree, "build_tree", lambda folder, **settings: None)
    monkeypatch.setattr(emulation, "_wrapper", lambda bench, pi: sys.executable)
    (bench.folder / "requirements-aarch64.txt").write_text("numpy==1\n")
    edit(LAT, "- 2", "")(bench.folder)
    assert check._tried(CONTEST.rule("aarch64"), bench, emulation.aarch64).state == "ok"
    shutil.rmtree(bench.scratch / "images of the pi")
    plant(bench.folder)
    (found,) = check._tried(CONTEST.rule("aarch64"), bench, emulation.aarch64).findings
    assert found.rule.id == "E30"
    assert what in found.what


def test_the_report_says_file_rule_and_fix(bench):
    edit(LAT, '"runs": 10', '"runs": 3')(bench.folder)
    lines = list(check.lines(verdict_of(bench, "latency")))
    rule = CONTEST.rule("latency")
    assert lines[0].split()[:2] == ["FAILED", rule.id]
    assert lines[1].strip() == "run_latency.sh: timed 3 iterations, expected 10"
    assert lines[2].strip() == f"to mend it: {rule.fix}"
    assert json.dumps(check._record(verdict_of(bench, "latency")))
