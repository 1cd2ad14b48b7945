"""PATH arguments: what becomes a row, in which order and under which name."""

import codecs
import contextlib
import inspect
import io
import os
import sys

import pytest
from sample_images import encoded, photo

from edge import image_list
from edge.errors import InputError
from edge.image_list import collect, list_entries
from edge.photo.decode import _PLUGINS
from edge.photo.folder import natural_key
from edge.photo.kinds import is_picture
from edge.predictions import from_path_text


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("img10.jpg", "img2.JPG", "b/x.png", "b/c/y.webp", ".hidden.jpg", "notes.txt", "._img2.jpg", "z.heic"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "photos" / "folder.jpg").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("BM")  # as a bitmap begins
    (tmp_path / "texts" / "README").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gives_its_own_images_in_natural_order(tree):
    inputs = collect(["photos"])
    assert inputs.names == ["img2.JPG", "img10.jpg", "z.heic"]
    assert inputs.paths == ["photos/img2.JPG", "photos/img10.jpg", "photos/z.heic"]
    assert inputs.root == "photos"
    assert inputs.remarks == [
        "2 subfolders not searched (-r searches them)", "1 file that is no picture left out: .txt 1"
    ]
    assert inputs.num_unread == 0


def test_recursive_goes_to_the_bottom(tree):
    assert collect(["photos"], recursive=True).names == ["img2.JPG", "img10.jpg", "z.heic", "b/x.png", "b/c/y.webp"]


def test_several_arguments_are_named_from_the_deepest_common_folder(tree):
    inputs = collect(["photos/b", "photos/img2.JPG"])
    assert inputs.names == ["b/x.png", "img2.JPG"]
    assert inputs.root == "photos"


def test_a_file_reached_twice_is_one_row(tree):
    inputs = collect(["photos/img2.JPG", "photos", "./photos/../photos/img2.JPG", str(tree / "photos/img10.jpg")])
    assert inputs.names == ["img2.JPG", "img10.jpg", "z.heic"]
    assert inputs.remarks[-1] == "3 of the paths lead to a file met before: one row for each file"


def test_a_missing_file_among_good_ones_stays(tree):
    assert collect(["photos/img2.JPG", "photos/gone.jpg"]).names == ["img2.JPG", "gone.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], "no images in empty$"),
        ([".", "empty"], r"no images in \. \(-r searches its subfolders\); no images in empty$"),
        (["texts"], "no images in texts; 2 files that are no pictures left out: without suffix 1, .txt 1$"),
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
    assert inputs.remarks[0] == "no images in empty"


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
    def failing():
        yield from ()
        raise OSError(5, "Input/output error")  # of `readdir`, which does not know the folder's name

    monkeypatch.setattr("os.scandir", lambda path: contextlib.nullcontext(failing()))
    with pytest.raises(InputError, match="folder photos: cannot be read: Input/output error"):
        collect(["photos"])


def test_a_folder_that_cannot_be_read_is_a_remark_where_others_can(tree, monkeypatch):
    look = image_list.look_into

    def refuse(folder):
        if os.path.basename(folder) in ("b", "folder.jpg", "empty"):
            raise PermissionError(13, "Permission denied")
        return look(folder)

    monkeypatch.setattr(image_list, "look_into", refuse)  # whoever runs this may be root
    inputs = collect(["photos"], recursive=True)
    assert inputs.names == ["img2.JPG", "img10.jpg", "z.heic"] and inputs.num_unread == 2
    first = "folder photos/b: cannot be read: Permission denied (and 1 more): its photos have no rows"
    assert inputs.remarks[0] == first
    assert collect(["empty", "photos"]).num_unread == 1
    with pytest.raises(InputError, match="folder empty: cannot be read: Permission denied$"):
        collect(["empty"])


def test_a_path_longer_than_the_system_allows_is_a_remark(tree):
    folder = os.open(tree / "photos" / "b", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=folder)
        below = os.open("n" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    inputs = collect(["photos"], recursive=True)
    assert len(inputs.names) == 5 and inputs.num_unread == 1
    assert inputs.remarks[0].endswith("cannot be read: File name too long: its photos have no rows")


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.mark.parametrize(
    ("name", "content", "is_taken"),
    [
        ("none", encoded(photo(8, 8), "JPEG"), True),
        ("png.txt", encoded(photo(8, 8), "PNG"), True),
        ("x.jpg.1", encoded(photo(8, 8), "WEBP"), True),
        ("x.tmp", encoded(photo(8, 8), "TIFF"), True),
        ("x.rle", encoded(photo(8, 8), "BMP"), True),
        ("gif", b"GIF89a\1\0\1\0", True),
        ("heic", HEIC, True),
        ("major brand unknown", b"\0\0\0\x18ftypMSNV\0\0\0\0isomavif", True),
        ("raw", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", True),
        ("jp2", b"\0\0\0\x0cjP  \r\n\x87\n\0\0", True),
        ("jxl", b"\xff\x0a\0\0", True),
        ("ppm", b"P6\n8 8\n255\n", True),
        ("psd", b"8BPS\0\1", True),
        ("dcm", bytes(128) + b"DICM", True),
        ("empty.jpg", b"", True),  # its row says so
        ("empty.gif", b"", True),
        ("text.png", b"text", True),
        ("empty", b"", False),
        ("BMI.csv", b"BMI,age\n20.1,33\n25.3,41\n", False),
        ("P1.txt", b"P1 12 years\n", False),
        ("video.mp4", b"\0\0\0\x18ftypisom\0\0\0\0isommp42", False),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", False),
        ("sound.wav", b"RIFF\0\0\0\0WAVEfmt ", False),
        ("page.html", b"<html>", False),
        ("._none", encoded(photo(8, 8), "JPEG"), False),
        (".jpg", encoded(photo(8, 8), "JPEG"), False),
    ],
)
def test_a_folder_gives_what_is_a_picture_by_its_first_bytes(tree, name, content, is_taken):
    (tree / "empty" / name).write_bytes(content)
    (tree / "empty" / "a.jpg").touch()
    inputs = collect(["empty"])
    assert inputs.names == sorted(["a.jpg", name] if is_taken else ["a.jpg"])
    assert bool(inputs.remarks) is (not is_taken and not name.startswith("."))


def test_pictures_that_are_read_are_taken():
    for magic, offset, *_ in _PLUGINS:
        if magic != b"BM":
            assert is_picture(b"RIFF\0\0\0\0"[:offset].ljust(offset, b"\0") + magic)


def test_what_is_left_out_is_counted_in_one_line(tree):
    for i in range(30):
        (tree / "empty" / f"{i}.{'abcdefgh'[i % 8 : i % 8 + 1]}").touch()
    (tree / "empty" / "sub").mkdir()
    (tree / "empty" / ".hidden").mkdir()
    os.mkfifo(tree / "empty" / "pipe")  # opening it would wait for ever
    (tree / "empty" / "a.jpg").touch()
    assert collect(["empty"]).remarks == [
        "1 subfolder not searched (-r searches them)",
        "30 files that are no pictures left out: .a 4, .b 4, .c 4, .d 4, .e 4, .f 4, others 6",
    ]


def test_links_that_lead_nowhere_are_no_images(tree):
    os.symlink(tree / "photos" / "loop2", tree / "photos" / "loop1")
    os.symlink(tree / "photos" / "loop1", tree / "photos" / "loop2")
    assert len(collect(["photos"], recursive=True).names) == 5


def test_a_list_may_be_separated_by_zero_bytes(tree):
    (tree / "list0").write_bytes(b"photos/img10.jpg\0photos/b/x.png\0")
    assert collect(["@list0"]).names == ["img10.jpg", "b/x.png"]
    (tree / "list0").write_bytes(b"photos/gone \0photos/two\nlines.jpg\r\0photos/b/x.png")  # blanks are parts of names
    assert collect(["@list0"]).names == ["gone ", "two\nlines.jpg\r", "b/x.png"]


PATHS = ["photos/img10.jpg", "photos/b/x.png", "photos/Läsion 一.jpg"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", ""), ("utf-8", "\ufeff"), ("utf-16-le", "\ufeff"), ("utf-16-be", "\ufeff"), ("utf-16-le", ""),
        ("utf-16-be", ""), ("utf-32-le", "\ufeff"), ("utf-32-be", "\ufeff"),
    ],
)  # fmt: skip
def test_a_list_may_have_the_encodings_of_windows(encoding, mark, end):
    for paths in (PATHS, PATHS[:1], ["照片/患者一/黑色素瘤一.jpg"]):
        for last in ("", end):
            assert list_entries((mark + end.join(paths) + last).encode(encoding), "list") == paths


@pytest.mark.parametrize(
    "names",
    [
        ["1", "2", "3"], [str(i) for i in range(40)], ["./a", "./b", "./c"], ["."], ["a.jpg"], ["ab.jp", "c"],
        ["two\nlines.jpg\r", " a "], ["a", "b", "c", "d.jpg"],
    ],
)  # fmt: skip
def test_names_between_zero_bytes_are_no_utf16(names):
    content = "".join(f"{name}\0" for name in names).encode()
    assert list_entries(content, "list") == names
    assert list_entries(content[:-1], "list") == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(photo(64, 64), "PNG"), "is no list of paths"),
        ("photos/img10.jpg\n".encode("utf-32-le"), "is no list of paths"),
        (b"\0a.jpg\0", "is no list of paths"),
        (b"a.jpg\0" + b"x" * 5000, "is no list of paths"),
        (codecs.BOM_UTF16_LE + b"a", "begins as UTF-16, but is damaged"),
        (codecs.BOM_UTF16_LE + b"\0\xd8a\0", "begins as UTF-16, but is damaged"),
    ],
)
def test_what_is_no_list_is_one_line(tree, content, message):
    (tree / "list").write_bytes(content)
    with pytest.raises(InputError, match=f"^list list: {message}") as caught:
        collect(["@list"], recursive=True)
    assert "\n" not in str(caught.value)


def test_folders_in_a_list_are_not_searched(tree):
    (tree / "list").write_text("photos/img10.jpg\nphotos/b\n")
    assert collect(["@list"], recursive=True).names == ["img10.jpg", "b"]  # the second will be an error row


def test_paths_of_windows_get_a_hint(tree):
    (tree / "list").write_text("photos/img10.jpg\nphotos\\img2.JPG\n\"photos/img10.jpg\"\n")
    (tree / "a\\b.jpg").touch()
    inputs = collect(["@list", "a\\b.jpg"])
    assert inputs.hints == {
        1: "; folders are separated by /, not by \\", 2: "; paths are written without quotes"
    }
    with pytest.raises(InputError, match=r"no such path: photos\\img2.JPG; folders are separated"):
        collect(["photos\\img2.JPG"])


def test_a_root_is_what_relative_paths_are_of(tree, monkeypatch):
    (tree / "list").write_text(f"img10.jpg\nb/x.png\n{tree}/photos/img2.JPG\n")
    expected = ["img10.jpg", "b/x.png", "img2.JPG"]
    for root in ("photos", "photos/", str(tree / "photos")):
        inputs = collect(["@list"], root=root)
        assert (inputs.names, inputs.root, inputs.remarks) == (expected, "photos", [])
        assert all(map(os.path.exists, inputs.paths))
    assert collect(["b/c/y.webp"], root="photos").names == ["b/c/y.webp"]
    assert collect(["b/*"], root="photos").names == ["b/c/y.webp", "b/x.png"]
    assert collect(["."], root="photos").names == ["img2.JPG", "img10.jpg", "z.heic"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"img10.jpg\n")))
    assert collect(["-"], root="photos").names == ["img10.jpg"]
    for root, message in (("gone", "no such folder"), ("list", "is no folder")):
        with pytest.raises(InputError, match=f"--root {root}: {message}"):
            collect(["@list"], root=root)


def test_a_list_of_another_folder_gets_a_hint(tree):
    (tree / "list").write_text("img10.jpg\nb/x.png\n")
    hint = "paths of a list are relative to the current folder; edge-infer --root FOLDER takes them from FOLDER"
    with pytest.raises(InputError, match=rf"no such path: img10.jpg \(and 1 more\); {hint}"):
        collect(["@list"])
    assert collect(["@list", "photos"]).remarks[0] == f"2 of 2 paths do not exist: {hint}"
    with pytest.raises(InputError, match="no such path: img10.jpg$"):
        collect(["img10.jpg"])


def test_names_as_a_predictions_file_writes_them_are_found(tree):
    names = [b"x\xff.jpg", rb"x\xff.jpg", rb"x\x5cxff.jpg", rb"x\xg.jpg", rb"\\xfe"]
    for name in names:
        (tree / "empty" / os.fsdecode(name)).write_bytes(b"GIF89a")
    inputs = collect(["empty"])
    assert len({*inputs.names}) == len(names) and r"x\xg.jpg" in inputs.names
    (tree / "list").write_text("\n".join(inputs.names[:1]))
    by_name = dict(zip(inputs.names, inputs.paths, strict=True))
    for name in inputs.names:
        assert from_path_text(name) == os.path.basename(by_name[name])
    (tree / "list").write_text("\n".join(name for name in inputs.names if name != r"x\xff.jpg"))
    assert collect(["@list"], root="empty").num_unread == 0
    (tree / "empty" / os.fsdecode(names[1])).unlink()
    (tree / "list").write_text(r"x\xff.jpg")
    assert collect(["@list"], root="empty").paths == [os.path.join("empty", os.fsdecode(names[0]))]


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
