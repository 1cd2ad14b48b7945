"""PATH arguments: what becomes a row, in which order and under which name."""

import contextlib
import inspect
import io
import os
import sys

import pytest

from edge.errors import InputError
from edge.image_list import collect, natural_key


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("img10.jpg", "img2.JPG", "b/x.png", "b/c/y.webp", ".hidden.jpg", "notes.txt", "._img2.jpg", "z.heic"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "photos" / "folder.jpg").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gives_its_own_images_in_natural_order(tree):
    inputs = collect(["photos"])
    assert inputs.names == ["img2.JPG", "img10.jpg", "z.heic"]
    assert inputs.paths == ["photos/img2.JPG", "photos/img10.jpg", "photos/z.heic"]
    assert inputs.root == "photos"
    assert inputs.remarks == []


def test_recursive_goes_to_the_bottom(tree):
    assert collect(["photos"], recursive=True).names == ["img2.JPG", "img10.jpg", "z.heic", "b/x.png", "b/c/y.webp"]


def test_several_arguments_are_named_from_the_deepest_common_folder(tree):
    inputs = collect(["photos/b", "photos/img2.JPG"])
    assert inputs.names == ["b/x.png", "img2.JPG"]
    assert inputs.root == "photos"


def test_a_file_reached_twice_is_one_row(tree):
    inputs = collect(["photos/img2.JPG", "photos", "./photos/../photos/img2.JPG", str(tree / "photos/img10.jpg")])
    assert inputs.names == ["img2.JPG", "img10.jpg", "z.heic"]
    assert inputs.remarks == ["3 of the paths lead to a file met before: one row for each file"]


def test_a_missing_file_among_good_ones_stays(tree):
    assert collect(["photos/img2.JPG", "photos/gone.jpg"]).names == ["img2.JPG", "gone.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], r"no images in empty \(-r searches its subfolders\)"),
        (["gone.jpg"], "no such path: gone.jpg"),
        (["gone*.jpg", "other"], r"no such path: gone\*.jpg \(and 1 more\)"),
        (["@gone.txt"], "list gone.txt: cannot be read: No such file"),
        ([], "no images given"),
    ],
)
def test_nothing_to_do_is_an_error(tree, arguments, message):
    with pytest.raises(InputError, match=message):
        collect(arguments)


def test_an_empty_folder_among_others_is_a_remark(tree):
    inputs = collect(["empty", "photos"])
    assert inputs.names == ["photos/img2.JPG", "photos/img10.jpg", "photos/z.heic"]
    assert inputs.remarks == ["no images in empty (-r searches its subfolders)"]


def test_patterns_that_no_shell_expanded(tree):
    assert collect(["photos/**/*.png"]).names == ["x.png"]
    assert collect(["photos/img*"]).names == ["img2.JPG", "img10.jpg"]


def test_a_name_with_pattern_characters_is_a_name(tree):
    (tree / "photos" / "a[1].jpg").touch()
    assert collect(["photos/a[1].jpg"]).names == ["a[1].jpg"]


def test_lists_from_file_and_standard_input(tree, monkeypatch):
    (tree / "list.txt").write_bytes(b"\xef\xbb\xbfphotos/img10.jpg\r\n\r\n  photos/b/x.png\nphotos/gone.jpg")
    expected = ["img10.jpg", "b/x.png", "gone.jpg"]
    assert collect(["@list.txt"]).names == expected
    stdin = io.TextIOWrapper(io.BytesIO((tree / "list.txt").read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert collect(["-"]).names == expected


def test_links_in_a_circle_end(tree):
    os.symlink(tree / "photos", tree / "photos" / "b" / "loop")
    assert len(collect(["photos"], recursive=True).names) == 5


def test_folders_may_be_deeper_than_pythons_stack(tree):
    deep = tree / "/".join("d" * 200) / "img.jpg"
    deep.parent.mkdir(parents=True)
    deep.touch()
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        assert collect(["d"], recursive=True).paths == [str(deep.relative_to(tree))]
    finally:
        sys.setrecursionlimit(usual)


def test_a_folder_that_fails_while_it_is_read_is_named(tree, monkeypatch):
    class Failing(contextlib.nullcontext):
        def __next__(self):
            raise OSError(5, "Input/output error")  # of `readdir`, which does not know the folder's name

    monkeypatch.setattr("os.scandir", lambda path: Failing())
    with pytest.raises(InputError, match="folder photos: cannot be read: Input/output error"):
        collect(["photos"])


def test_links_that_lead_nowhere_are_no_images(tree):
    os.symlink(tree / "photos" / "loop2", tree / "photos" / "loop1")
    os.symlink(tree / "photos" / "loop1", tree / "photos" / "loop2")
    assert len(collect(["photos"], recursive=True).names) == 5


def test_a_list_may_be_separated_by_zero_bytes(tree):
    (tree / "list0").write_bytes(b"photos/img10.jpg\0photos/b/x.png\0")
    assert collect(["@list0"]).names == ["img10.jpg", "b/x.png"]
    (tree / "list0").write_bytes(b"photos/gone \0photos/two\nlines.jpg\r\0photos/b/x.png")  # blanks are parts of names
    assert collect(["@list0"]).names == ["gone ", "two\nlines.jpg\r", "b/x.png"]


def test_a_closed_standard_input_is_said(tree, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        collect(["-"])


def test_names_that_are_no_utf8_or_hold_line_ends(tree):
    folder = tree / "odd"
    folder.mkdir()
    for name in (b"\xff.jpg", "Läsion 1.jpg".encode(), b"two\nlines.jpg"):
        (folder / os.fsdecode(name)).touch()
    assert sorted(collect(["odd"]).names) == sorted([r"\xff.jpg", "Läsion 1.jpg", "two\nlines.jpg"])


def test_natural_key():
    names = ["img10", "img2", "Img1", "img02", "img", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "img", "Img1", "img02", "img2", "img10"]
