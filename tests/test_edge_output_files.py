import os
import subprocess
import sys
from functools import partial

import pytest

import bench.cli
import train.cli
from edge.output_files import OutputPath, check_output, only_writer, protecting, refuse_input, write_output


def test_writing_leaves_a_whole_file_or_none(tmp_path, monkeypatch):
    write_output(tmp_path / "a.txt", b"old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    for name in ("a.txt", "b.txt"):
        with pytest.raises(OSError, match="No space"):
            write_output(tmp_path / name, "new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.txt", b"old")]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def refuse(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", refuse)
    with pytest.raises(OSError) as caught:
        write_output(tmp_path / "a.txt", "new")
    assert (caught.value.filename, caught.value.strerror) == (str(tmp_path / "a.txt"), "No space left on device")


def test_an_input_is_no_output(tmp_path):
    (tmp_path / "in").touch()
    (tmp_path / "link").symlink_to("in")
    refuse_input(tmp_path / "link")  # no command runs
    with protecting(["with\0zero", tmp_path / "gone", [tmp_path / "in"], OutputPath(tmp_path / "link")]):
        refuse_input(tmp_path / "new")
        for refused in (refuse_input, partial(check_output, force=True), partial(write_output, content="")):
            with pytest.raises(FileExistsError, match="is an input, expected another output"):
                refused(tmp_path / "link")
    write_output(tmp_path / "link", "no command runs any more")


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to("target")
    write_output(tmp_path / "link", "Größe")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text(encoding="utf-8") == "Größe"


def test_what_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    check_output(tmp_path / "new", force=False)
    check_output(tmp_path / "file", force=True)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check_output(tmp_path / "no" / "file", force=True)
    with pytest.raises(FileExistsError, match="force replaces"):
        check_output(tmp_path / "file", force=False)
    for name in ("pipe", "."):
        with pytest.raises(FileExistsError, match="is no regular file"):
            check_output(tmp_path / name, force=True)


@pytest.mark.parametrize(
    "command",
    [
        (train.cli.main, ["folds", "absent", "-o"]),
        (bench.cli.main, ["score", "absent.csv", "--data", "absent", "-o"]),
    ],
)
def test_a_device_as_output_is_refused_and_stays(command, tmp_path, capsys):
    main, arguments = command
    os.mkfifo(tmp_path / "pipe")  # a device node needs root
    assert main([*arguments, str(tmp_path / "pipe"), "--force"]) == 2
    assert "pipe: is no regular file" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


HOLD = """if True:
    import sys
    from pathlib import Path
    from edge.output_files import only_writer
    with only_writer(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()"""


def test_one_writer_a_folder_and_none_that_was_killed(tmp_path):
    folder = tmp_path / "made" / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(FileExistsError, match=rf"is being written by another run(, process {other.pid})?:"):
            with only_writer(folder):
                pass
        other.kill()
        other.wait()
        with only_writer(folder):
            (folder / "file").touch()
    assert [path.name for path in folder.iterdir()] == ["file"]
    with only_writer(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()


def test_a_file_system_without_locks_is_no_reason_to_stop(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with only_writer(tmp_path), only_writer(tmp_path):
        pass
