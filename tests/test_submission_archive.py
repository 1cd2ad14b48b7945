import os
import stat
import zipfile

import pytest

from edge.errors import EdgeError
from export.submission import archive
from export.submission.archive import unpack, write_zip


def zip_of(path, *entries):
    """Entries are (name, data) or (ZipInfo, data)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries:
            file.writestr(name, data)
    return path


def entry(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/x", "a//x", "./x", "a\\..\\x", "C:x", "C:/x", "a\n"],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    source = zip_of(tmp_path / "s.zip", ("README.md", b"x"), (name, b"x"))
    with pytest.raises(EdgeError, match="refused"):
        unpack(source, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"s.zip", "out"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_device_in_a_zip_is_refused(tmp_path, kind):
    source = zip_of(tmp_path / "s.zip", (entry("link", kind | 0o777), b"/etc/passwd"))
    with pytest.raises(EdgeError, match="is a link"):
        unpack(source, tmp_path / "out")


def test_a_name_given_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning):
        source = zip_of(tmp_path / "s.zip", ("x", b"1"), ("x", b"2"))
    with pytest.raises(EdgeError, match="twice"):
        unpack(source, tmp_path / "out")


def test_a_file_and_a_folder_of_one_name_are_refused(tmp_path):
    source = zip_of(tmp_path / "s.zip", ("x", b"1"), ("x/y", b"2"))
    with pytest.raises(EdgeError, match="one name"):
        unpack(source, tmp_path / "out")


def test_a_bomb_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 1_000_000)
    source = zip_of(tmp_path / "s.zip", ("small", b"x"), ("bomb", bytes(1_000_001)))
    with pytest.raises(EdgeError, match="at most"):
        unpack(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_bomb_that_lies_of_its_size_stops_at_it(tmp_path):
    source = zip_of(tmp_path / "s.zip", ("bomb", bytes(100_000)))
    content = source.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    source.write_bytes(content)
    with pytest.raises(EdgeError, match="CRC"):
        unpack(source, tmp_path / "out")
    assert (tmp_path / "out/bomb").stat().st_size <= 10


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILES", 2)
    with pytest.raises(EdgeError, match="3 files"):
        unpack(zip_of(tmp_path / "s.zip", *[(name, b"") for name in "abc"]), tmp_path / "out")


def test_a_control_character_in_a_name_is_refused(tmp_path):
    source = zip_of(tmp_path / "s.zip", ("a\x1b[31mred", b"x"))
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a\x9bred").write_text("x")
    for number, given in enumerate((source, tmp_path / "s")):
        with pytest.raises(EdgeError, match="control character"):
            unpack(given, tmp_path / f"out{number}")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-30], lambda data: b"no zip at all"])
def test_a_damaged_zip_is_one_line(tmp_path, damage):
    source = zip_of(tmp_path / "s.zip", ("a", b"hello" * 100))
    source.write_bytes(damage(source.read_bytes()))
    with pytest.raises(EdgeError, match="no usable zip") as caught:
        unpack(source, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_changed_byte_is_noticed(tmp_path):
    source = tmp_path / "s.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_STORED) as file:
        file.writestr("a", b"hello" * 100)
    source.write_bytes(source.read_bytes().replace(b"hellohello", b"hellohallo", 1))
    with pytest.raises(EdgeError, match="CRC"):
        unpack(source, tmp_path / "out")


def test_no_such_source(tmp_path):
    with pytest.raises(EdgeError, match="no such file or folder"):
        unpack(tmp_path / "absent.zip", tmp_path / "out")


def test_a_link_in_a_folder_is_refused(tmp_path):
    (tmp_path / "s").mkdir()
    os.symlink("/etc/passwd", tmp_path / "s/link")
    with pytest.raises(EdgeError, match="'link' is a link"):
        unpack(tmp_path / "s", tmp_path / "out")


def test_a_folder_comes_without_what_the_execution_files_made(tmp_path):
    source = tmp_path / "s"
    for name in (".venv/bin/python", "output/predictions.csv", "code/output/x", "run.sh"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / "run.sh").chmod(0o750)
    unpack(source, tmp_path / "out")
    assert archive.files_below(tmp_path / "out") == ["code/output/x", "run.sh"]
    assert stat.S_IMODE((tmp_path / "out/run.sh").stat().st_mode) == 0o755


def test_equal_files_give_equal_zips_wherever_and_whenever(tmp_path):
    archives = []
    for number, names in enumerate((("b/ü.txt", "a.sh"), ("a.sh", "b/ü.txt"))):
        folder = tmp_path / f"folder {number}"
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
            (folder / name).chmod((0o755 if name == "a.sh" else 0o600) | number)  # what is not kept may differ
            os.utime(folder / name, (10**9 * (number + 1),) * 2)
        write_zip(folder, tmp_path / f"{number}.zip")
        archives.append((tmp_path / f"{number}.zip").read_bytes())
    assert archives[0] == archives[1]
    unpack(tmp_path / "0.zip", tmp_path / "out")
    assert (tmp_path / "out/b/ü.txt").read_text() == "b/ü.txt"
    assert os.access(tmp_path / "out/a.sh", os.X_OK)
