"""The rules that run something, on stand-ins for the execution files: each does its work, but for one planted fault."""

import json
import platform
import shutil
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.photos.images import encode
from bench.photos.scene import draw
from export.submission import check, sources, trial
from export.submission.rules import CONTEST
from export.submission.trial import Trial

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
images = sum(len(files) for _, _, files in os.walk(sys.argv[1]))
latency = {"seconds_per_100": 25.0, "score": 0.75, "images": min(100, images), "protocol": {"runs": 10}}
with open(os.path.join(sys.argv[2], "latency.json"), "w") as file:
    json.dump({"latency": latency}, file)
'''

SHELL = """\
#!/bin/sh
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/code/environment.sh"
"$python" "$here/code/PROGRAM" "$1" "${2:-$HOME/output}"
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A folder that passes; its Python starts without packages, but for the rule that imports them."""
    scratch = tmp_path_factory.mktemp("stand-in")
    folder = scratch / "submission"
    (folder / "code").mkdir(parents=True)
    (folder / "run_accuracy.sh").write_text(SHELL.replace("PROGRAM", "accuracy.py"))
    (folder / "run_latency.sh").write_text(SHELL.replace("PROGRAM", "latency.py"))
    python = scratch / "python"
    own = f"PYTHONPATH='{sources.CHECKOUT}' exec '{sys.executable}'"
    python.write_text(f'#!/bin/sh\n[ "$1" = -I ] && shift && {own} "$@"\nexec \'{sys.executable}\' -S "$@"\n')
    python.chmod(0o755)
    (folder / "code/environment.sh").write_text(f"python='{python}'\n")
    (folder / "code/accuracy.py").write_text(ACCURACY)
    (folder / "code/latency.py").write_text(LATENCY)
    photo = encode(draw(32, 32))
    for group in CONTEST.sample_groups:
        (folder / "samples/images" / group / "NV").mkdir(parents=True)
        (folder / "samples/images" / group / "NV/img_1.jpg").write_bytes(photo)
    output = Trial(folder, scratch, scratch).run("run_accuracy.sh")
    shutil.copyfile(output / "predictions.csv", folder / "samples/predictions.csv")
    return folder


@pytest.fixture
def bench(stand_in, tmp_path):
    folder = tmp_path / trial.FOLDER / "submission"
    shutil.copytree(stand_in, folder)
    return Trial(folder, tmp_path, tmp_path)


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
    ("accuracy", edit(ACC, '"spd": spd', '"spd": float("nan")'), "run_accuracy.sh", "has no spd"),
    ("accuracy", edit(ACC, "json.dump(result,", "json.dump({'score': [1]},"), "run_accuracy.sh", "has no accuracy"),
    ("accuracy", edit(ACC, "json.dump(result,", "json.dump({'score': {'accuracy': 1}},"),
     "run_accuracy.sh", "has no accuracy"),
    ("accuracy", edit(ACC, "for name in names:", "for name in names + names[:1]:"),
     "run_accuracy.sh", "gives two rows for one image"),
    ("accuracy", edit(ACC, "for name in names:", "for name in [*names, 'G6/NV/more.jpg']:"),
     "run_accuracy.sh", "gives a row for G6/NV/more.jpg, which is no image"),
    ("recorded", edit(ACC, '"NV", 0, 0.75', '"MEL", 1, 0.75'), "samples/predictions.csv", "prob_NV is the largest"),
    ("accuracy", edit(ACC, "[group]}} for group in groups}", "[group]}} for group in groups[1:]}"),
     "run_accuracy.sh", "no accuracy of G10"),
    ("accuracy", edit(ACC, "results.json", "scores.json"), "run_accuracy.sh", "gives no results.json"),
    ("recorded", edit(ACC, '0.75, "ok", "", 0.75, 0.25', '0.7502, "ok", "", 0.7502, 0.2498'),
     "samples/predictions.csv", "differs by 2.0e-04"),
    ("recorded", edit(ACC, '"NV", 0, 0.75, "ok", "", 0.75, 0.25', '"MEL", 1, 0.75, "ok", "", 0.25, 0.75'),
     "samples/predictions.csv", "a probability differs"),
    ("accuracy", edit("run_accuracy.sh", '"$1"', "$1"), "run_accuracy.sh", "cannot be read"),
    ("accuracy", edit(ACC, "name.lower().endswith", "name.endswith"), "run_accuracy.sh", "no row for G10/NV/IMG_2.JPG"),
    ("accuracy", edit(ACC, '"ok", ""', '"error", "broken"'), "run_accuracy.sh", "cannot use"),
    ("latency", edit(LAT, '"runs": 10', '"runs": 3'), "run_latency.sh", "timed 3 iterations, expected 10"),
    ("latency", edit(LAT, "min(100, images)", "3"), "run_latency.sh", "timed 3 images, expected 4"),
    ("latency", edit(LAT, '"score": 0.75', '"score": 0.8'), "run_latency.sh", "scores 0.8 for 25.0 s"),
    ("latency", edit(LAT, '"runs": 10', '"runs": "10"'), "run_latency.sh", "latency.json has no runs"),
    ("latency", edit(LAT, "25.0", "float('nan')"), "run_latency.sh", "latency.json has no seconds_per_100"),
    ("latency", edit(LAT, '{"latency": latency', '{"other": latency'), "run_latency.sh", "latency.json has no score"),
]


def verdict_of(bench, name):
    bench.notes.clear()
    return check._verdict(CONTEST.rule(name), trial.CHECKS[name](bench), bench.notes)


def needs(name, bench):
    if name == "recorded":
        verdict_of(bench, "accuracy")


@pytest.mark.parametrize("name", trial.CHECKS)
def test_what_works_passes(bench, name):
    needs(name, bench)
    verdict = verdict_of(bench, name)
    assert (verdict.state, verdict.findings, verdict.skipped) == ("ok", (), "")


def test_one_answer_to_all_sample_pictures_is_a_note(bench, monkeypatch):
    assert verdict_of(bench, "accuracy").notes == ()
    monkeypatch.setattr("bench.remarks.MIN_ANSWERS", 4)
    assert verdict_of(bench, "accuracy").notes == (
        "the model answers NV to every sample picture (4): it tells nothing apart",
    )


@pytest.mark.parametrize(("name", "plant", "file", "what"), PLANTED, ids=[f"{p[0]}-{p[3][:20]}" for p in PLANTED])
def test_a_planted_fault_is_found_and_named(bench, name, plant, file, what):
    if "IMG_2" in what:
        (bench.images / "G10/NV/img_1.jpg").rename(bench.images / "G10/NV/IMG_2.JPG")
    plant(bench.folder)
    needs(name, bench)
    found = verdict_of(bench, name).findings
    assert [text for where, text in found if where == file and what in text], found


def test_every_rule_with_a_run_has_a_planted_fault():
    assert {name for name, *_ in PLANTED} == set(trial.CHECKS)


def test_no_predictions_are_no_recorded_ones(bench):
    assert verdict_of(bench, "recorded").findings == (("run_accuracy.sh", "gave no predictions"),)


def test_nothing_else_is_tried_without_an_environment(bench):
    edit("code/environment.sh", "python=", "exit 5\npython=")(bench.folder)
    verdicts = {verdict.rule.check: verdict for verdict in check.run(bench)}
    assert verdicts["environment"].state == "FAILED"
    assert {verdict.state for name, verdict in verdicts.items() if name != "environment"} == {"skipped"}


def test_a_near_tie_may_fall_otherwise_and_is_told(bench):
    edit(ACC, '0.75, "ok", "", 0.75, 0.25', '0.50003, "ok", "", 0.50003, 0.49997')(bench.folder)
    verdict_of(bench, "accuracy")
    shutil.copyfile(bench.output("run_accuracy.sh") / "predictions.csv", bench.folder / "samples/predictions.csv")
    before = '"NV", 0, 0.50003, "ok", "", 0.50003, 0.49997'
    edit(ACC, before, '"MEL", 1, 0.50002, "ok", "", 0.49998, 0.50002')(bench.folder)
    verdict_of(bench, "accuracy")
    verdict = verdict_of(bench, "recorded")
    assert verdict.state == "ok"
    assert verdict.notes[0].startswith("near-tie: G10/NV/img_1.jpg: NV by 6.0e-05")


def test_a_file_that_hangs_is_stopped_and_the_next_one_is_run(bench):
    edit(ACC, "import csv", "import time; time.sleep(60)\nimport csv")(bench.folder)
    bench.timeout_s = 1
    assert "killed after 1 s" in verdict_of(bench, "accuracy").findings[0][1]
    bench.timeout_s = 60
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
def offline(bench, tmp_path, monkeypatch):
    """The real environment.sh, with stand-ins for what it installs: for the Python that runs the tests, and its pip."""
    tag, machine = f"cp{sys.version_info[0]}{sys.version_info[1]}", platform.machine()
    stub_wheel(bench.folder / "wheels", "numpy-9.9", f"{tag}-{tag}-linux_{machine}", {"numpy/__init__.py": ""})
    ours = {"edge/__init__.py": "import numpy\n", "bench/__init__.py": "", "export/submission/__init__.py": ""}
    stub_wheel(bench.folder / "code", "fairedge-0", "py3-none-any", ours, "Requires-Dist: numpy\n")
    (bench.folder / f"requirements-{machine}.txt").write_text("numpy==9.9\n")
    templates = sources.CHECKOUT / "export/submission/templates"
    shutil.copyfile(templates / "environment.sh", bench.folder / "code/environment.sh")
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip/pip").symlink_to(Path(find_spec("pip").origin).parent)
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh
[ "$1" = -m ] || exec '{sys.executable}' "$@"
'{sys.executable}' "$@" --without-pip || exit  # which takes longer than all the rest
for packages in "$4"/lib/python*/site-packages; do
    echo '{tmp_path}/pip' > "$packages/pip.pth"
done
""")
    python.chmod(0o755)
    monkeypatch.setattr(trial, "sys", SimpleNamespace(executable=str(python), version_info=sys.version_info))
    return bench


@pytest.fixture
def told(monkeypatch):
    """Whether each run of an execution file may use the network."""
    said, real = [], Trial.execute

    def execute(self, script, command, *, network):
        said.append(network)
        if not network:
            real(self, script, command)

    monkeypatch.setattr(Trial, "execute", execute)
    return said


def test_packed_wheels_are_installed_without_a_network(offline, told):
    verdict = verdict_of(offline, "environment")
    assert (verdict.state, verdict.findings) == ("ok", ())
    assert told == [False]
    assert verdict.notes == ("made from the packed wheels, without a network",)
    (installed,) = (offline.folder / ".venv").glob("lib/python*/site-packages/numpy-9.9.dist-info")
    assert installed.is_dir()


def test_wheels_for_another_python_leave_the_network(offline, told):
    (wheel,) = (offline.folder / "wheels").iterdir()
    wheel.rename(wheel.with_name(f"numpy-9.9-cp399-cp399-linux_{platform.machine()}.whl"))
    verdict = verdict_of(offline, "environment")
    assert told == [True]
    assert verdict.notes == (
        "made from the pinned versions, with this network; the packed wheels are for another machine or Python",)


def test_the_report_has_no_control_characters(bench):
    edit(ACC, "import csv", "raise SystemExit('\\x1b[31mred\\x9b')\nimport csv")(bench.folder)
    lines = list(check.lines(verdict_of(bench, "accuracy")))
    assert lines[1].endswith("exit status 1: \\x1b[31mred\\x9b")
    assert all(line.isprintable() for line in lines)


def test_the_report_says_file_rule_and_fix(bench):
    edit(LAT, '"runs": 10', '"runs": 3')(bench.folder)
    lines = list(check.lines(verdict_of(bench, "latency")))
    rule = CONTEST.rule("latency")
    assert lines[0].split()[:2] == ["FAILED", rule.id]
    assert lines[1].strip() == "run_latency.sh: timed 3 iterations, expected 10"
    assert lines[2].strip() == f"to mend it: {rule.fix}"
    assert json.dumps(check._record(verdict_of(bench, "latency")))
