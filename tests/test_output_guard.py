"""No command of the five programs overwrites what it reads: each of its outputs set against each of its inputs."""

import argparse
import os
from pathlib import Path

import pytest
from PIL import Image

import bench.cli
import edge.cli
import export.cli
import export.submission.cli
import train.cli
from bench.photos import images
from edge import classifier
from edge.output_files import OutputPath, protecting, refuse_folder, refuse_input
from train.after.derived_run import RUN_FILES

PROGRAMS = {
    "edge-infer": edge.cli,
    "edge-bench": bench.cli,
    "edge-train": train.cli,
    "edge-export": export.cli,
    "edge-submit": export.submission.cli,
}

FILES = {  # command -> its arguments, and the inputs that its -o may not name
    "edge-infer": ("-m m.onnx @list.txt data", "m.onnx list.txt data/manifest.csv data/A/x/1.png"),
    "edge-bench score": (
        "p.csv --data data --latency l.json", "p.csv p.csv.meta.json l.json data/manifest.csv data/A/x/1.png"
    ),
    "edge-bench compare": ("p.csv l.json", "p.csv l.json"),
    "edge-bench robustness": ("data -m m.onnx --held-out list.txt", "m.onnx list.txt data/manifest.csv data/A/x/1.png"),
    "edge-bench tone": ("data", "data/manifest.csv data/A/x/1.png"),
    "edge-bench latency": ("data @list.txt -r -m m.onnx", "m.onnx list.txt data/manifest.csv data/A/x/1.png"),
    "edge-bench pi4b": ("-m m.onnx --calibrate l.json --baseline p.csv", "m.onnx l.json p.csv"),
    "edge-bench board": ("-m m.onnx --counts l.json", "m.onnx l.json"),
    "edge-train folds": ("data", "data/manifest.csv data/A/x/1.png"),
    "edge-train audit": (
        "data --folds list.txt --external more", "list.txt data/manifest.csv more/manifest.csv data/A/x/1.png"
    ),
    "edge-train show": ("data", "data/manifest.csv data/A/x/1.png"),
    "edge-export onnx": ("run", "run/checkpoint.pt run/config.json run/heldout.txt"),
    "edge-export weights": ("run", "run/checkpoint.pt run/metrics.json"),
    "edge-export int8": (
        "m.onnx --calibrate data --held-out list.txt", "m.onnx list.txt data/manifest.csv data/A/x/1.png"
    ),
    "edge-export verify": (
        "run m.onnx --data data --held-out list.txt --also p.csv l.json run/heldout.txt",
        "m.onnx list.txt p.csv l.json run/checkpoint.pt run/heldout.txt data/manifest.csv",
    ),
    "edge-export info": ("m.onnx", "m.onnx"),
    "edge-submit check": ("zip.zip", "zip.zip"),
}
FOLDERS = {  # command -> its arguments, and the folders that it may not write into
    "edge-bench images": ("--force -o OUT", "data run"),
    "edge-bench report": ("l.json --force -o OUT", "data run"),
    "edge-train fit": ("data --weights run --force -o OUT", "data run more held"),
    "edge-train refit": ("data run --force -o OUT", "data run more held"),
    "edge-train prior": ("data run other --force -o OUT", "data run other more held"),
    "edge-submit pack": ("-m m.onnx --checkpoint run --force -o OUT", "run held"),
}
OTHERS = {"edge-submit accuracy": "replaces files of fixed names: below"}


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Files that no command could read: each has to refuse before it tries to."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "m.onnx list.txt p.csv p.csv.meta.json l.json zip.zip data/manifest.csv data/A/x/1.png more/manifest.csv "
        "run/checkpoint.pt run/config.json run/heldout.txt run/metrics.json other/checkpoint.pt held/notes.txt"
    ).split():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"\x89PNG\r\n" if name.endswith("png") else name.encode())
    Path("list.txt").write_text("data/A/x/1.png\n")
    Path("data/manifest.csv").write_text("path,class,group\nA/x/1.png,x,A\n")
    Path("zip.zip").write_bytes(b"PK")
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def commands():
    """Each command that writes something -> the flags for it."""
    for program, module in PROGRAMS.items():
        parser = module.build_parser()
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parsers = {f"{program} {name}": one for action in below for name, one in action.choices.items()}
        for command, one in (parsers or {program: parser}).items():
            if found := [action for action in one._actions if action.type is OutputPath]:
                yield command, found


def run(command, arguments):
    program, *name = command.split()
    return PROGRAMS[program].main([*name, *arguments])


def test_every_command_that_writes_is_here():
    found = dict(commands())
    assert {*found} == {*FILES, *FOLDERS, *OTHERS}
    named = {flag for actions in found.values() for action in actions for flag in action.option_strings}
    assert named == {"-o", "--output", "--cache", "--photos", "--logs"}


def test_whatever_is_called_an_output_is_of_that_type():
    for module in PROGRAMS.values():
        parsers = [module.build_parser()]
        for parser in parsers:
            for action in parser._actions:
                if isinstance(action, argparse._SubParsersAction):
                    parsers.extend(action.choices.values())
                elif action.dest in ("output", "out", "logs", "cache", "photos"):
                    assert action.type is OutputPath, (parser.prog, action.dest)


@pytest.mark.parametrize("command", FILES)
def test_no_file_that_is_read_is_overwritten(command, inputs, capsys):
    arguments, targets = FILES[command]
    for target in targets.split():
        os.symlink(target, "link")
        os.link(target, "hard")
        for name in (target, "link", "hard") if "/" not in target else (target, "link"):
            assert run(command, [*arguments.split(), "-o", name, "--force"]) == 2, (command, name)
            assert capsys.readouterr().err.endswith(f"{name}: is an input, expected another output\n")
        os.unlink("link")
        os.unlink("hard")
    assert {path: path.read_bytes() for path in inputs} == inputs


@pytest.mark.parametrize("command", FOLDERS)
def test_no_folder_that_is_read_is_written_into(command, inputs, capsys):
    arguments, folders = FOLDERS[command]
    for folder in folders.split():
        assert run(command, arguments.replace("OUT", folder).split()) == 2, (command, folder)
        assert f"{folder}: " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == inputs


@pytest.mark.parametrize("sidecar", ["p.csv.part", "p.csv.meta.json", "p.csv.meta.json.part"])
@pytest.mark.parametrize("how", ["--force", "--resume"])
def test_files_beside_the_output_are_outputs_too(sidecar, how, inputs, capsys):
    Path("m.onnx").rename(sidecar)
    assert edge.cli.main(["-m", sidecar, "data/A/x/1.png", "-o", "p.csv", how]) in (2, 4)
    assert Path(sidecar).read_bytes() == b"m.onnx" and Path("p.csv").read_bytes() == b"p.csv"


def test_accuracy_replaces_none_of_its_inputs(inputs, capsys):
    Path("m.onnx").rename("held/predictions.csv")
    assert run("edge-submit accuracy", ["data", "-m", "held/predictions.csv", "-o", "held"]) == 2
    assert "held/predictions.csv: is an input" in capsys.readouterr().err
    assert Path("held/predictions.csv").read_bytes() == b"m.onnx"


def test_what_is_below_a_submission_is_read(inputs, capsys):
    for option in (["-o", "held/notes.txt", "--force"], ["--logs", "held"]):
        assert run("edge-submit check", ["held", *option]) == 2
    assert "held: is an input" in capsys.readouterr().err


def test_a_report_replaces_no_results(inputs, capsys):
    Path("l.json").rename("held/metrics.csv")
    Path("held/index.html").symlink_to("metrics.csv")
    assert run("edge-bench report", ["held/metrics.csv", "-o", "held", "--force"]) == 2
    assert "held/index.html: is an input" in capsys.readouterr().err


def test_earlier_outputs_in_folders_that_are_read_can_be_replaced(inputs):
    Path("data/folds.csv").touch()
    Path("data/log.csv").touch()
    Path("run/model.onnx").touch()
    with protecting([Path("data"), Path("run"), OutputPath("held")]):
        for name in ("data/folds.csv", "data/log.csv", "data/new.png", "run/model.onnx"):
            refuse_input(Path(name))
        refuse_folder(Path("held"))
        for name in RUN_FILES:
            (Path("run") / name).touch()
            with pytest.raises(FileExistsError):
                refuse_input(Path("run") / name)


def test_the_bundled_model_is_an_input(tmp_path, monkeypatch, capsys):
    model = tmp_path / "m.csv"  # another suffix is refused before
    model.write_bytes(classifier.DEFAULT_MODEL.read_bytes())
    monkeypatch.setattr(classifier, "DEFAULT_MODEL", model)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert edge.cli.main([str(tmp_path / "a.png"), "-o", str(model), "--force"]) == 2
    assert "is an input" in capsys.readouterr().err


def test_generated_pictures_replace_only_their_like(tmp_path):
    ours = images.encode(Image.new("RGB", (8, 8)), comment=images._comment(0, 0))
    images.write(tmp_path, "1.jpg", ours)
    images.write(tmp_path, "1.jpg", ours)
    (tmp_path / "1.jpg").write_bytes(b"\xff\xd8\xff mine")
    with pytest.raises(FileExistsError, match="is somebody's file"):
        images.write(tmp_path, "1.jpg", ours)
    assert (tmp_path / "1.jpg").read_bytes() == b"\xff\xd8\xff mine"
