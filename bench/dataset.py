"""A folder of labelled images -> the list of its samples, in an order that does not depend on the file system.

Three layouts: a tree `ROOT/<group>/<class>/file`, the contest's; a tree `ROOT/<class>/file`, which has no groups; or a
folder with `manifest.csv` (`path,class[,group][,cluster][,split][,coarse]...`). A manifest wins where it is present,
because only it knows clusters. Any of its columns can be the class, and any the group.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from edge.errors import EdgeError
from edge.exit import remark
from edge.image_list import list_entries
from edge.photo.folder import Folder, left_out_line, look_into
from edge.predictions import path_text

from .remarks import remark_lookalikes

MANIFEST = "manifest.csv"
GROUP_COLUMN = "group"

NOT_STATED = "not stated"
"""Group of the images whose field is empty in the column of groups: shown, and compared with no other."""

ONE_GROUP = "all"
"""Group of every image of data without groups."""

MAX_GROUPS = 100
"""Groups that a column of a manifest may have; one with more holds names or numbers, and each value a few images."""

MELANOMA = {"mel", "melanoma", "malignant melanoma", "melanoma in situ", "lentigo maligna", "lentigo maligna melanoma",
            "superficial spreading melanoma", "superficial spreading melanoma ssm", "nodular melanoma",
            "acral lentiginous melanoma"}
MALIGNANT = MELANOMA | {"malignant", "bcc", "basal cell carcinoma", "scc", "squamous cell carcinoma",
                        "squamous cell carcinoma in situ", "merkel cell carcinoma"}
"""Classes, by `plain_name`, that are malignant without a column `coarse`; of other names nothing is assumed."""


class DatasetError(EdgeError, ValueError):
    """A data set that cannot be used. One line: what was wrong, what was got, what was expected."""


@dataclass(slots=True, unsafe_hash=True)  # not frozen, which takes three times as long to make: there are a million
class Sample:
    """One labelled image."""

    path: str
    """Relative to the root of the data set, "/"-separated."""
    label: str
    """Name of its class."""
    group: str
    """Group whose accuracy is compared with the others', e.g. of skin tone."""
    cluster: str
    """Patient, else lesion, else set of near-duplicates; a split never cuts one. The path where nothing is known."""
    split: str = ""
    """Part of the data set it is meant for, e.g. "val"; "" where the manifest does not say."""
    coarse: str = ""
    """Kind of its disease, e.g. "malignant"; "" where the manifest does not say."""


def index(
    root: str | os.PathLike[str], *, label_column: str = "class", group_column: str = GROUP_COLUMN,
    needs_group: bool = False, has_files: bool = True,
) -> list[Sample]:
    """Lists a data set.

    Args:
      root: Folder with a manifest.csv, or with <group>/<class>/ or <class>/ folders of images.
      label_column: Of the manifest, with the class.
      group_column: Of the manifest, with the group; an empty field is the group `NOT_STATED`.
      needs_group: Whether data without a column `group` are refused; otherwise every image has the group `ONE_GROUP`.
        Without another column that the caller names they always are.
      has_files: Whether a manifest's images must be there; evidence has only the manifest.

    Returns:
      A manifest's samples in its own order, a tree's in natural order (img2 before img10), without hidden files and
      files that are no pictures; those that are, but of a format that is not read, are samples. What is left out of
      class folders is said.

    Raises:
      DatasetError: no such folder, no images, a manifest without the columns needed, an empty path or class, a path
        given twice, outside the root, not in its shortest form, or absent, more than `MAX_GROUPS` groups, a tree with
        images at several depths. Rows are counted from 1, under the header.
    """
    root = Path(root)
    manifest = root / MANIFEST
    if not root.is_dir():
        raise DatasetError(f"{root}: {'is no folder' if root.exists() else 'no such folder'}, expected a data set")
    if manifest.exists():
        needs_group |= group_column != GROUP_COLUMN
        return _read_manifest(manifest, label_column, group_column, needs_group=needs_group, has_files=has_files)
    if (label_column, group_column) != ("class", GROUP_COLUMN):
        column = label_column if label_column != "class" else group_column
        raise DatasetError(f"{root}: no {MANIFEST}, expected one with the column {column!r}")
    samples = _scan_tree(root)
    if needs_group and samples[0].path.count("/") == 1:
        raise DatasetError(f"{root}: images lie in <class>/, expected <group>/<class>/ or a {MANIFEST} with groups")
    return samples


def as_text(sample: Sample) -> Sample:
    r"""The sample with its names as a predictions file writes them: bytes that are no UTF-8 as \xNN."""
    try:
        sample.path.encode()  # in a tree it holds all names; a manifest is UTF-8
    except UnicodeEncodeError:
        return Sample(*map(path_text, astuple(sample)))
    return replace(sample, path=path_text(sample.path)) if "\\x" in sample.path else sample


def groups_by_path(root: str | os.PathLike[str], column: str, *, label_column: str = "class") -> dict[str, str]:
    """Path of every sample -> its group by another column than that of `index`, both as a predictions file has them.

    Raises:
      DatasetError: as for `index`, which has looked for the files already.
    """
    samples = index(root, label_column=label_column, group_column=column, needs_group=True, has_files=False)
    return {sample.path: sample.group for sample in map(as_text, samples)}


def classes_of(samples: Iterable[Sample]) -> tuple[str, ...]:
    """The class names, sorted without regard to case, as the contest's six are."""
    return tuple(sorted({sample.label for sample in samples}, key=lambda name: (name.lower(), name)))


def malignant_classes(samples: Iterable[Sample]) -> tuple[str, ...]:
    """The classes that must not be missed, sorted.

    With a column `coarse` those whose every image is "malignant" there: a class that mixes kinds, as the contest's
    "unknown" does, is none. Without it those of `MALIGNANT`.
    """
    kinds: dict[str, set[str]] = {}
    for label, coarse in {(sample.label, sample.coarse) for sample in samples}:
        kinds.setdefault(label, set()).add(coarse)
    if any(kind != {""} for kind in kinds.values()):
        return tuple(sorted(name for name, kind in kinds.items() if kind == {"malignant"}))
    return tuple(sorted(name for name in kinds if plain_name(name) in MALIGNANT))


def plain_name(label: str) -> str:
    """The name of a class in small letters, with one blank between words: "Basal_Cell-Carcinoma" is the same class."""
    return " ".join(label.lower().replace("_", " ").replace("-", " ").split())


def read_subset(path: Path) -> list[str]:
    """The paths of a list of images, one a line, as the heldout.txt of a run.

    Raises:
      DatasetError: cannot be read, or names none.
    """
    try:
        names = list_entries(path.read_bytes(), str(path))
        names = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error}, expected paths of images, one a line") from error
    if not names:
        raise DatasetError(f"{path}: is empty, expected paths of images, one a line")
    return names


def choose(samples: Sequence[Sample], names: Collection[str]) -> list[Sample]:
    """The samples of these paths, written as a predictions file writes them, in the order of the data set.

    Raises:
      DatasetError: no path, or one that is no image of the data.
    """
    if not names:
        raise DatasetError("a subset names no image, expected at least one")
    by_name = {path_text(sample.path): sample for sample in samples}
    wanted = {*names}
    if unknown := sorted(wanted - by_name.keys()):
        raise DatasetError(f"the subset names {len(unknown)} paths that are no image of the data, first {unknown[0]}")
    return [sample for name, sample in by_name.items() if name in wanted]


def _read_manifest(
    manifest: Path, label_column: str, group_column: str, *, needs_group: bool, has_files: bool
) -> list[Sample]:
    rows = csv_rows(manifest)
    columns = next(rows, [])
    remark_lookalikes("columns", {*columns, label_column, group_column})
    needed = ("path", label_column, *([group_column] if needs_group else []))
    if missing := [name for name in dict.fromkeys(needed) if name not in columns]:
        raise DatasetError(f"{manifest}: no column {', '.join(missing)}; got {', '.join(columns) or 'nothing'}")
    place = {name: i for i, name in enumerate(columns)}
    of_path, of_label = place["path"], place[label_column]
    optional = (group_column, "cluster", "split", "coarse")
    of_group, of_cluster, of_split, of_coarse = (place.get(name) for name in optional)
    samples: list[Sample] = []
    first_row: dict[str, int] = {}
    files_in: dict[str, set[str]] = {}
    for number, row in enumerate(rows, start=1):  # a million: positions, and messages only where they are needed
        if not row:
            continue
        if len(row) != len(columns):
            raise DatasetError(f"{manifest}: row {number}: got {len(row)} fields, expected {len(columns)}")
        path, label, group = row[of_path], row[of_label], ONE_GROUP if of_group is None else row[of_group]
        if not (path.strip() and label.strip()):
            empty = "path" if not path.strip() else label_column
            raise DatasetError(f"{manifest}: row {number}: {empty} is empty")
        if (first := first_row.setdefault(path, number)) != number:
            raise DatasetError(f"{manifest}: row {number}: {path} was in row {first} already, expected each path once")
        folder, slash, name = path.rpartition("/")
        folder += slash
        if folder not in files_in:
            if not {"", ".", ".."}.isdisjoint(folder.split("/")[:-1]):
                expected = "one inside the manifest's folder, without empty, . or .. parts"
                raise DatasetError(f"{manifest}: row {number}: got path {path}, expected {expected}")
            files_in[folder] = _files_in(manifest.parent / folder)
        # A folder that may be entered but not listed still has its files.
        if has_files and name not in files_in[folder] and not os.path.isfile(manifest.parent / path):
            raise DatasetError(f"{manifest}: row {number}: no such file: {path}")
        cluster = path if of_cluster is None else row[of_cluster] or path
        split = "" if of_split is None else sys.intern(row[of_split])
        coarse = "" if of_coarse is None else sys.intern(row[of_coarse])
        # A million rows have a handful of classes and groups: each name is held once.
        group = sys.intern(group if group.strip() else NOT_STATED)
        samples.append(Sample(path, sys.intern(label), group, cluster, split, coarse))
    if not samples:
        raise DatasetError(f"{manifest}: no images, expected at least one row")
    groups = {sample.group for sample in samples}
    if groups == {NOT_STATED} and not needs_group:  # a column that nobody filled in
        samples = [replace(sample, group=ONE_GROUP) for sample in samples]
    if (num_groups := len(groups)) > MAX_GROUPS:
        got = f"got {num_groups} different values in the column {group_column}"
        raise DatasetError(f"{manifest}: {got}, expected at most {MAX_GROUPS} groups")
    return _remarked(samples)


def _files_in(folder: Path) -> set[str]:
    """Names of a folder's files: one look at the folder instead of one at each of a million files."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return set()


def csv_rows(path: Path, failure: type[EdgeError] = DatasetError) -> Iterator[list[str]]:
    """Fields of each line of a CSV file; a `failure` where it cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        yield from csv.reader(io.StringIO(text, newline=""), strict=True)
    except UnicodeDecodeError as error:
        raise failure(f"{path}: got byte {error.start} that is no UTF-8, expected UTF-8 text") from error
    except OSError as error:
        raise failure(f"{path}: cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise failure(f"{path}: no valid CSV: {error}") from error


_LAYOUTS = {1: "file", 2: "<class>/file", 3: "<group>/<class>/file", 4: "<group>/<class>/<folder>/file"}


def _scan_tree(root: Path) -> list[Sample]:
    """Where the images lie decides whether there are groups: all at the second level, or all at the third."""
    found: dict[int, list[str]] = {}
    listed: dict[int, list[tuple[str, Folder]]] = {}
    folders = [""]
    for depth in _LAYOUTS:
        listed[depth] = [(folder, _look_into(root / folder)) for folder in folders]
        folders = [f"{folder}{name}/" for folder, inside in listed[depth] for name in inside.folders]
        if paths := [folder + name for folder, inside in listed[depth] for name in inside.pictures]:
            found[depth] = paths
    if not found:
        raise DatasetError(f"{root}: no images, expected a {MANIFEST}, <class>/ or <group>/<class>/ folders of images")
    depth, paths = found.popitem()
    if found or depth not in (2, 3):
        found[depth] = paths
        got = ", ".join(f"{len(paths)} as {_LAYOUTS[at]} (first {path_text(paths[0])})" for at, paths in found.items())
        expected = f"all as {_LAYOUTS[2]} or all as {_LAYOUTS[3]}, or a {MANIFEST}"
        raise DatasetError(f"{root}: got images {got}; expected {expected}")
    samples = []
    for path in paths:
        *group, label, _ = path.split("/")
        samples.append(Sample(path, label, group[0] if group else ONE_GROUP, path))
    labels, others = {sample.label for sample in samples}, Counter[str]()
    for folder, inside in listed[depth]:
        others += inside.others
        if inside.others and (label := folder.split("/")[-2]) not in labels:
            remark(f"no picture in {path_text(folder)}, so there is no class {path_text(label)}")
    if others:
        remark(left_out_line(others))
    return _remarked(samples)


def _remarked(samples: list[Sample]) -> list[Sample]:
    """The samples; what looks odd in their names is said."""
    remark_lookalikes("classes", {sample.label for sample in samples})
    remark_lookalikes("groups", {sample.group for sample in samples})
    return samples


def _look_into(folder: Path) -> Folder:
    try:
        return look_into(folder)
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read: {error.strerror}") from error
