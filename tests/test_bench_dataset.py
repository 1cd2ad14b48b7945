import os

import pytest
from sample_images import encoded, photo

from bench.dataset import (
    NOT_STATED,
    ONE_GROUP,
    DatasetError,
    Sample,
    as_text,
    choose,
    classes_of,
    groups_by_path,
    index,
    read_subset,
)
from edge.exit import run

JPEG = encoded(photo(16, 16))


def put(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"text" if path.endswith(".txt") else JPEG)
    return root


def manifest(root, text, encoding="utf-8"):
    (root / "manifest.csv").write_bytes(text.encode(encoding))
    return root


def test_tree_in_natural_order(tmp_path):
    put(tmp_path, "G8/NV/img10.jpg", "G8/NV/img2.JPG", "G6/BCC/a.png", "G10/NV/x.webp")
    assert index(tmp_path) == [
        Sample("G6/BCC/a.png", "BCC", "G6", "G6/BCC/a.png"),
        Sample("G8/NV/img2.JPG", "NV", "G8", "G8/NV/img2.JPG"),
        Sample("G8/NV/img10.jpg", "NV", "G8", "G8/NV/img10.jpg"),
        Sample("G10/NV/x.webp", "NV", "G10", "G10/NV/x.webp"),
    ]


def test_tree_leaves_out_what_is_no_image(tmp_path):
    put(tmp_path, "g/a/1.jpg", "g/a/notes.txt", "g/a/.hidden.jpg", ".git/a/2.jpg", "g/.b/3.jpg", "notes.txt", "g/x.txt")
    assert [sample.path for sample in index(tmp_path)] == ["g/a/1.jpg"]


def test_tree_without_groups(tmp_path):
    put(tmp_path, "NV/img10.jpg", "NV/img2.JPG", "BCC/a.png", "BCC/notes/readme.txt")
    (tmp_path / "empty").mkdir()
    assert index(tmp_path) == [
        Sample("BCC/a.png", "BCC", ONE_GROUP, "BCC/a.png"),
        Sample("NV/img2.JPG", "NV", ONE_GROUP, "NV/img2.JPG"),
        Sample("NV/img10.jpg", "NV", ONE_GROUP, "NV/img10.jpg"),
    ]
    with pytest.raises(DatasetError, match="images lie in <class>/, expected <group>/<class>/ or a manifest.csv"):
        index(tmp_path, needs_group=True)


@pytest.mark.parametrize(
    ("paths", "got"),
    [
        (["a.jpg", "b.jpg"], "2 as file (first a.jpg)"),
        (["g/a/1.jpg", "x.jpg"], "1 as file (first x.jpg), 1 as <group>/<class>/file (first g/a/1.jpg)"),
        (["NV/1.jpg", "NV/2.jpg", "g/a/1.jpg"], "2 as <class>/file (first NV/1.jpg), 1 as <group>/<class>/file (first"),
        (["NV/1.jpg", "NV/more/2.jpg"], "1 as <class>/file (first NV/1.jpg), 1 as <group>/<class>/file (first NV/more"),
        (["g/a/p/1.jpg"], "1 as <group>/<class>/<folder>/file (first g/a/p/1.jpg)"),
    ],
)
def test_images_at_several_depths_are_one_line(tmp_path, paths, got):
    with pytest.raises(DatasetError) as caught:
        index(put(tmp_path, *paths))
    assert f"got images {got}" in str(caught.value)
    assert str(caught.value).endswith("expected all as <class>/file or all as <group>/<class>/file, or a manifest.csv")


def test_manifest_without_groups(tmp_path):
    manifest(put(tmp_path, "1.jpg", "2.jpg"), "path,class,sex\n1.jpg,MEL,male\n2.jpg,NV,\n")
    assert [sample.group for sample in index(tmp_path)] == [ONE_GROUP] * 2
    with pytest.raises(DatasetError, match="no column group; got path, class, sex"):
        index(tmp_path, needs_group=True)
    with pytest.raises(DatasetError, match="no column group; got path, class, sex"):
        groups_by_path(tmp_path, "group")
    with pytest.raises(DatasetError, match="no column age; got path, class, sex"):
        index(tmp_path, group_column="age")
    manifest(tmp_path, "path,class,group\n1.jpg,MEL,\n2.jpg,NV, \n")  # a column that nobody filled in
    assert [sample.group for sample in index(tmp_path)] == [ONE_GROUP] * 2
    assert [sample.group for sample in index(tmp_path, needs_group=True)] == [NOT_STATED] * 2


def test_tree_has_pictures_by_their_content_and_names_a_class_without(tmp_path, capsys):
    put(tmp_path, "g/a/1.jpg", "g/a/2", "g/b/3.jpg.bak")
    (tmp_path / "g/b/4.gif").write_bytes(b"GIF89a\1\0\1\0")  # not read, so training will name it
    (tmp_path / "h/b").mkdir(parents=True)
    (tmp_path / "h/b/notes.txt").write_text("text")
    assert [sample.path for sample in index(tmp_path)] == ["g/a/1.jpg", "g/a/2", "g/b/3.jpg.bak", "g/b/4.gif"]
    (tmp_path / "h/c").mkdir()
    (tmp_path / "h/c/x.npy").write_bytes(b"\x93NUMPY")
    assert run("edge-bench", lambda: len(index(tmp_path)) + len(index(tmp_path))) == 8
    assert capsys.readouterr().err == (
        "edge-bench: no picture in h/c/, so there is no class c\n"
        "edge-bench: 2 files that are no pictures left out: .npy 1, .txt 1\n"
    )


def test_samples_as_a_predictions_file_writes_them(tmp_path):
    put(tmp_path, rb"x\xff.jpg".decode(), os.fsdecode(b"x\xff.jpg"), "plain.jpg")
    names = sorted(os.listdir(tmp_path))
    (tmp_path / "manifest.csv").write_text("path,class,group\nplain.jpg,a,g\nx\\xff.jpg,a,g\n")
    assert [as_text(sample).path for sample in index(tmp_path)] == ["plain.jpg", r"x\x5cxff.jpg"]
    samples = [Sample(name, "a", "g", name) for name in names]
    (tmp_path / "list").write_bytes(rb"x\xff.jpg" + b"\r\n" + rb"x\x5cxff.jpg" + b"\r\n")
    assert choose(samples, read_subset(tmp_path / "list")) == [s for s in samples if s.path != "plain.jpg"]


def test_manifest_in_its_own_order_with_clusters(tmp_path):
    put(tmp_path, "2.jpg", "sub/1.jpg")
    rows = "2.jpg,MEL,bad,I-II,p7,train\nsub/1.jpg,NV,good,V-VI,,val\n"
    manifest(tmp_path, "path,class,coarse,group,cluster,split\n" + rows)
    assert index(tmp_path) == [
        Sample("2.jpg", "MEL", "I-II", "p7", "train", "bad"),
        Sample("sub/1.jpg", "NV", "V-VI", "sub/1.jpg", "val", "good"),
    ]
    assert [sample.label for sample in index(tmp_path, label_column="coarse")] == ["bad", "good"]


def test_any_column_is_the_group_and_an_empty_field_is_not_stated(tmp_path):
    put(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    manifest(tmp_path, "path,class,group,sex\n1.jpg,MEL,I-II,male\n2.jpg,NV,, \n3.jpg,NV,unknown,unknown\n")
    assert [sample.group for sample in index(tmp_path)] == ["I-II", NOT_STATED, "unknown"]
    assert [sample.group for sample in index(tmp_path, group_column="sex")] == ["male", NOT_STATED, "unknown"]
    assert [sample.group for sample in index(tmp_path, group_column="class")] == ["MEL", "NV", "NV"]
    assert groups_by_path(tmp_path, "sex") == {"1.jpg": "male", "2.jpg": NOT_STATED, "3.jpg": "unknown"}
    manifest(tmp_path, "path,class,sex\n1.jpg,MEL,male\n")  # no column of the usual name is needed
    assert index(tmp_path, group_column="sex") == [Sample("1.jpg", "MEL", "male", "1.jpg")]


def test_columns_that_are_no_groups(tmp_path):
    names = [f"{i}.jpg" for i in range(101)]
    put(tmp_path, *names)
    with pytest.raises(DatasetError, match="no manifest.csv, expected one with the column 'sex'"):
        index(tmp_path, group_column="sex")
    manifest(tmp_path, "path,class,group\n" + "".join(f"{name},x,{name}\n" for name in names))
    with pytest.raises(DatasetError, match="no column sex; got path, class, group$"):
        index(tmp_path, group_column="sex")
    with pytest.raises(DatasetError, match="got 101 different values in the column group, expected at most 100 groups"):
        index(tmp_path)


def test_manifest_without_cluster_column_with_bom_crlf_and_blank_line(tmp_path):
    odd = "ü\u2028\x85.jpg"  # line ends to Python's splitlines, not to CSV
    put(tmp_path, "a, b.jpg", odd)
    manifest(tmp_path, f'group,class,path\r\ng,x,"a, b.jpg"\r\n\r\ng,y,{odd}\r\n', "utf-8-sig")
    assert index(tmp_path) == [Sample("a, b.jpg", "x", "g", "a, b.jpg"), Sample(odd, "y", "g", odd)]


def test_manifest_wins_over_the_tree(tmp_path):
    put(tmp_path, "g/a/1.jpg", "g/a/2.jpg")
    manifest(tmp_path, "path,class,group\ng/a/2.jpg,z,h\n")
    assert index(tmp_path) == [Sample("g/a/2.jpg", "z", "h", "g/a/2.jpg")]


def test_class_order_of_the_contest():
    names = ["NV", "unknown", "VASC", "BCC", "MEL", "BKL", "NV"]
    assert classes_of(Sample(str(i), name, "g", "c") for i, name in enumerate(names)) == (
        "BCC",
        "BKL",
        "MEL",
        "NV",
        "unknown",
        "VASC",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column path, class; got nothing"),
        ("path,label,group\n", "no column class; got path, label, group"),
        ("path,class,group\n", "no images, expected at least one row"),
        ("path,class,group\na.jpg,x\n", "row 1: got 2 fields, expected 3"),
        ("path,class,group\na.jpg, ,g\n", "row 1: class is empty"),
        ("path,class,group\na.jpg,x,g\na.jpg,x,g\n", "row 2: a.jpg was in row 1 already, expected each path once"),
        ("path,class,group\nb.jpg,x,g\n", "row 1: no such file: b.jpg"),
        ("path,class,group\n../a.jpg,x,g\n", "row 1: got path ../a.jpg, expected one inside"),
        ("path,class,group\n/etc/hosts,x,g\n", "row 1: got path /etc/hosts, expected one inside"),
        ("path,class,group\na.jpg,x,g\n./a.jpg,x,g\n", "row 2: got path ./a.jpg, expected one inside"),
        ("path,class,group\na.jpg,x,g\n/a.jpg,x,g\n", "row 2: got path /a.jpg, expected one inside"),
        ("path,class,group\nb//a.jpg,x,g\n", "row 1: got path b//a.jpg, expected one inside"),
        ("path,class,group\nb/./a.jpg,x,g\n", "row 1: got path b/./a.jpg, expected one inside"),
        ("path,class,group\n.,x,g\n", "row 1: no such file: ."),
        ('path,class,group\n"a.jpg,x,g\n', "no valid CSV"),
    ],
)
def test_bad_manifests_are_one_line(tmp_path, text, message):
    manifest(put(tmp_path, "a.jpg"), text)
    with pytest.raises(DatasetError) as caught:
        index(tmp_path)
    assert message in str(caught.value)
    assert "manifest.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_manifest_that_is_no_utf8(tmp_path):
    manifest(tmp_path, "path,class,group\nä.jpg,x,g\n", "latin-1")
    with pytest.raises(DatasetError, match="got byte 17 that is no UTF-8"):
        index(tmp_path)


def test_bad_roots(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        index(tmp_path / "absent")
    with pytest.raises(DatasetError, match="no images, expected a manifest.csv, <class>/ or <group>/<class>/ folders"):
        index(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="is no folder"):
        index(tmp_path / "file")
    with pytest.raises(ValueError, match="no manifest.csv, expected one with the column 'coarse'"):
        index(tmp_path, label_column="coarse")


def test_a_subset_is_taken_in_the_order_of_the_data(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("empty.txt", "absent.txt"):
        with pytest.raises(DatasetError, match=f"{name}: .*expected paths of images, one a line"):
            read_subset(tmp_path / name)
    (tmp_path / "list.txt").write_text("g/c d.jpg\n\na/b.jpg\n")
    names = read_subset(tmp_path / "list.txt")
    assert names == ["g/c d.jpg", "a/b.jpg"]
    samples = [Sample(path, "ash", "g1", path) for path in ("a/b.jpg", "a/c.jpg", "g/c d.jpg")]
    assert choose(samples, names) == [samples[0], samples[2]]
    with pytest.raises(DatasetError, match="names 1 paths that are no image of the data, first x.jpg"):
        choose(samples, [*names, "x.jpg"])
    with pytest.raises(DatasetError, match="names no image"):
        choose(samples, [])
