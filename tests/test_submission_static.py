import json
import pickle
import shutil
import zipfile
from dataclasses import replace

import pytest

from edge.errors import EdgeError
from export.submission import archive, rules
from export.submission.check import look
from export.submission.rules import CONTEST, Submission


@pytest.fixture(scope="module")
def one_copy(submission, tmp_path_factory):
    return shutil.copytree(submission, tmp_path_factory.mktemp("static") / "copy")


@pytest.fixture
def copy(submission, one_copy):
    """A submission to plant faults in; what a test changes in it is put back."""
    yield one_copy
    for name in {*archive.files_below(one_copy), *archive.files_below(submission)}:
        was, now = submission / name, one_copy / name
        if not was.exists():
            now.unlink()
        elif not now.exists() or facts(now) != facts(was):
            shutil.copy2(was, now)


def facts(path):
    return path.stat().st_size, path.stat().st_mtime_ns


def findings(folder, check):
    return list(rules.CHECKS[check](Submission(folder)))


def append(name, text):
    def plant(folder):
        with open(folder / name, "a", encoding="utf-8") as file:
            file.write(text)

    return plant


def put(name, data):
    def plant(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return plant


def remove(name):
    def plant(folder):
        (folder / name).unlink()

    return plant


def lie(folder):
    said = json.loads((folder / "MANIFEST.json").read_text())
    said["files"]["README.md"]["sha256"] = "0" * 64
    (folder / "MANIFEST.json").write_text(json.dumps(said))


def change_after_packing(folder):
    (folder / "run_accuracy.sh").write_text("#!/bin/sh\n")


def add_after_packing(folder):
    (folder / "notes.txt").write_text("later\n")


def hide_a_checkpoint(folder):
    with zipfile.ZipFile(folder / "model/weights.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")


def unpin(folder):
    path = folder / "requirements-aarch64.txt"
    path.write_text(path.read_text().replace("onnxruntime==", "onnxruntime>="))


def other_weights(folder):
    path = folder / "model/weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'\\"BCC\\", \\"BKL\\"', b'\\"BKL\\", \\"BCC\\"'))
    assert path.read_bytes() != content


def weights_of_another_run(folder):
    path = folder / "model/weights.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["training"] = '{"recipe": "fair"}'
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def wheel_entry(name, data):
    """Replaces or adds a file of the wheel: beside its METADATA where it is one that is read there."""

    def plant(folder):
        (path,) = (folder / "code").glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            entries = {entry: archive.read(entry) for entry in archive.namelist()}
        place = next(entry for entry in entries if entry.endswith("METADATA")).replace("METADATA", name)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in {**entries, place: data}.items():
                archive.writestr(entry, content)

    return plant


def damaged_wheel(folder):
    (path,) = (folder / "code").glob("*.whl")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("edge/a.py", bytes(range(256)) * 4)
    content = bytearray(path.read_bytes())
    content[45:90] = b"\xff" * 45  # in the deflated data
    path.write_bytes(content)


def cut_weights(folder):
    path = folder / "model/weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def model_without_metadata(folder):
    path = folder / "model/model.onnx"
    path.write_bytes(path.read_bytes().replace(b"fairedge.schema", b"fairedge_schema"))


def model_without_licence(folder):
    path = folder / "model/model.onnx"
    path.write_bytes(path.read_bytes().replace(b"license", b"licence"))


def test_a_submission_as_packed_has_no_findings(submission):
    verdicts = list(look(Submission(submission)))
    assert {verdict.rule.check for verdict in verdicts} == set(rules.CHECKS)
    assert not [finding for verdict in verdicts for finding in verdict.findings]


PLANTED = [
    ("required", remove("model/weights.safetensors"), "model/weights.safetensors", "is missing"),
    ("required", remove("run_latency.sh"), "run_latency.sh", "is missing"),
    ("manifest", lie, "README.md", "another SHA-256"),
    ("manifest", change_after_packing, "run_accuracy.sh", "has 10 bytes"),
    ("manifest", add_after_packing, "notes.txt", "not in the manifest"),
    ("absolute_paths", append("run_accuracy.sh", "cp -r /home/me/data .\n"), "run_accuracy.sh", "/home/me/data"),
    ("absolute_paths", append("README.md", "see `D:\\models`\n"), "README.md", "D:\\m"),
    ("absolute_paths", append("code/source/edge/cli.py", 'X = "/mnt/disk/model.onnx"\n'), "code/source/edge/cli.py",
     "/mnt/disk/model.onnx"),
    *[("absolute_paths", append("run_accuracy.sh", f"{line}\n"), "run_accuracy.sh", place) for line, place in (
        ("DATA=${DATA:-/home/me/x}", "/home/me/x"), ("X=/opt", "/opt"), ("cd /data", "/data"),
        ('A="file:///home/me"', "/home/me"), ("B=[/home/me]", "/home/me"), ("C=a:/home/me", "/home/me"))],
    ("pickles", put("model/net.pkl", b"x"), "model/net.pkl", "is a .pkl file"),
    ("pickles", put("model/net.bin", pickle.dumps({"a": 1})), "model/net.bin", "is a pickle"),
    ("pickles", hide_a_checkpoint, "model/weights.bin", "a zip of a pickle"),
    ("requirements", unpin, "requirements-aarch64.txt", "does not pin onnxruntime"),
    ("requirements", append("requirements-x86_64.txt", "numpy\n"), "requirements-x86_64.txt", "got 'numpy'"),
    ("readme", append("README.md", "\n    sh run_everything.sh DATA_DIR\n"), "README.md", "run_everything.sh"),
    ("readme", append("README.md", "\n`edge-predict photos/`\n"), "README.md", "edge-predict"),
    ("readme", append("README.md", "\n    python3 -m edge.serve\n"), "README.md", "edge.serve"),
    ("readme", put("README.md", b"# Mine\n"), "README.md", "does not say how to run run_latency.sh"),
    ("licences", remove("LICENSES/model.txt"), "LICENSES/model.txt", "is missing"),
    ("licences", model_without_licence, "model/model.onnx", "licence 'nothing'"),
    ("model", model_without_metadata, "model/model.onnx", "does not describe itself"),
    ("model", put("model/model.onnx", b""), "model/model.onnx", "not a usable ONNX model"),
    ("model", put("model/classes.txt", b"NV\nMEL\n"), "model/classes.txt", "lists NV, MEL"),
    ("weights", other_weights, "model/weights.safetensors", "is of the classes BKL, BCC"),
    ("weights", weights_of_another_run, "model/weights.safetensors", "is of another run: recipe is 'fair'"),
    ("weights", cut_weights, "model/weights.safetensors", "no file of edge-export weights"),
    ("readme", wheel_entry("entry_points.txt", b"no section\n"), "README.md", "names edge-submit, which is no command"),
    ("source", put("code/fairedge-0-py3-none-any.whl", b"PK"), "code/fairedge-*.whl", "cannot be read"),
    ("source", wheel_entry("bomb.py", bytes(100_000_001)), "code/fairedge-*.whl", "unpacks to more than"),
    ("source", damaged_wheel, "code/fairedge-*.whl", "cannot be read"),
    ("source", append("code/source/edge/device.py", "# later\n"), "code/source/edge/device.py", "differs"),
    (
        "source", remove("code/source/export/submission/pack.py"), "code/source/export/submission/pack.py",
        "is in the wheel alone",
    ),
    ("source", put("code/source/bench/more.py", b""), "code/source/bench/more.py", "is not in the wheel"),
]


@pytest.mark.parametrize(("check", "plant", "file", "what"), PLANTED, ids=[f"{p[0]}-{p[3][:20]}" for p in PLANTED])
def test_a_planted_fault_is_found_and_named(copy, check, plant, file, what):
    plant(copy)
    found = findings(copy, check)
    assert [(name, text) for name, text in found if name == file and what in text], found


def test_what_a_check_stumbles_over_is_its_finding_and_the_next_rule_is_tried(copy, monkeypatch):
    def stumble(pack):
        yield "README.md", "is short"
        raise KeyError("\x1b[31mred")

    monkeypatch.setitem(rules.CHECKS, "pickles", stumble)
    verdicts = {verdict.rule.check: verdict for verdict in look(Submission(copy))}
    assert set(verdicts) == set(rules.CHECKS)
    assert [what for _, what in verdicts["pickles"].findings] == [
        "is short", "cannot be checked: KeyError '\\x1b[31mred'"]


def test_a_full_disk_here_is_no_finding(copy, monkeypatch):
    def full(pack):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setitem(rules.CHECKS, "pickles", full)
    with pytest.raises(OSError, match="No space"):
        list(look(Submission(copy)))


def test_every_rule_without_a_run_has_a_planted_fault():
    assert {check for check, *_ in PLANTED} == set(rules.CHECKS)


def test_another_task_is_found(submission, monkeypatch):
    monkeypatch.setattr(rules, "CONTEST", replace(CONTEST, classes=["NV", "MEL"]))
    ((name, what),) = rules.model(Submission(submission))
    assert (name, what) == ("model/model.onnx", "answers BCC, BKL, MEL, NV, unknown, VASC; expected NV, MEL")


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "cannot be read"), ("[]", "got schema 'list'"), ('{"schema": "other/1"}', "got schema 'other/1'"),
     ('{"schema": "edge-submission/1"}', "names no files")],
)
def test_a_manifest_that_is_none_is_refused(copy, content, message):
    (copy / "MANIFEST.json").write_text(content)
    with pytest.raises(EdgeError, match=message):
        archive.read_manifest(copy)
