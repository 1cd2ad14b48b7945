"""Writing the predictions file, and continuing it after a crash.

Rows go to NAME.part with one write each, so a kill loses at most the row in flight; the end gives the file its
name. A file under its final name is therefore always complete.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from .errors import ModelError, PredictionsError
from .output_files import naming, write_output
from .predictions import (
    TOTALS,
    UNCERTAIN_INDEX,
    Layout,
    Prediction,
    csv_fields,
    esfair_path,
    json_object,
    meta_path,
    read_meta,
    records,
)

_RESUME = "; the rows before it are kept, --resume continues"


class PredictionsWriter:
    """Writes rows to standard output, or to a file that appears under its name when it is complete."""

    def __init__(self, layout: Layout, meta: dict[str, object], path: Path | None, file: IO[bytes]) -> None:
        """Use `create` or `resume`."""
        self._layout = layout
        self._meta = meta
        self._path = path
        self._file = file
        self._size = 0  # bytes of complete rows

    @classmethod
    def create(
        cls, layout: Layout, meta: dict[str, object], path: Path | None, *, force: bool = False
    ) -> PredictionsWriter:
        """Starts a new file.

        Args:
          layout: The columns.
          meta: What the file says of itself, JSON-ready.
          path: The file; None for standard output.
          force: Whether an existing file, or the rest of an interrupted run, may be replaced.

        Raises:
          FileExistsError: there is one and `force` is false, or another run is writing it.
          OSError: the place cannot be written.
        """
        if path is None:
            if sys.stdout is None:
                raise OSError(errno.EBADF, "is closed", "standard output")
            writer = cls(layout, meta, None, sys.stdout.buffer)
        else:
            path = _place_for(path)
            part = part_path(path)
            for existing, hint in (
                (path, "--force replaces it"),
                (part, "--resume continues that run, --force starts over"),
                (meta_path(path), "--force replaces it"),
            ):
                if existing.exists() and not force:
                    raise FileExistsError(errno.EEXIST, f"exists already ({hint})", str(existing))
            writer = cls(layout, meta, path, _open_locked(part))
            writer._file.truncate(0)
            writer._write_meta(meta)
        writer._put(layout.header(meta))
        return writer

    @classmethod
    def resume(
        cls,
        layout: Layout,
        meta: dict[str, object],
        path: Path,
        names: Sequence[str],
        *,
        count: Callable[[Prediction], object],
    ) -> tuple[PredictionsWriter, int]:
        """Continues an interrupted file, or starts one where there is none.

        Args:
          layout: The columns, as in the first run.
          meta: The meta, as in the first run.
          path: The file.
          names: Paths of all rows the complete file will have.
          count: Takes each row that is kept: its path, label, status and size, as far as the form has them.

        Returns:
          The writer, and the number of rows kept.

        Raises:
          ModelError: the rows there are another model's.
          PredictionsError: they belong to another list of images or other settings, or are damaged.
          OSError: the file cannot be read or written.
        """
        path = _place_for(path)
        part = part_path(path)
        is_copy = not part.exists()
        if is_copy:
            if not path.exists():
                return cls.create(layout, meta, path, force=True), 0
            shutil.copyfile(path, part)
        file = _open_locked(part)
        writer = cls(layout, meta, path, file)
        try:
            kept, size = writer._check_kept(names, count)
            file.truncate(size)
            file.seek(size)
        except BaseException:
            file.close()
            if is_copy:
                part.unlink(missing_ok=True)
            raise
        writer._write_meta(meta)
        writer._size = size
        if size == 0:
            writer._put(layout.header(meta))
        return writer, kept

    def write(self, prediction: Prediction) -> None:
        """Appends one row; it is in the file when this returns.

        Raises:
          OSError: the disk is full, or the pipe is closed. The file keeps its complete rows.
        """
        self._put(self._layout.encode(prediction))

    def finish(self, totals: dict[str, object] | None = None) -> None:
        """Gives a complete file its name.

        Args:
          totals: What all rows come to, by the names of `TOTALS`: for the meta beside a CSV.
        """
        if self._path is None:
            return
        with naming(self._path, _RESUME):
            os.fsync(self._file.fileno())
        if totals and self._layout.format == "csv":  # esfair rows do not tell them to a run that continues
            self._write_meta({**self._meta, **totals})
        if self._layout.format != "jsonl":
            self._path.unlink(missing_ok=True)  # rows of an older run must not stand beside this run's meta
            os.replace(part_path(meta_path(self._path)), meta_path(self._path))
        os.replace(part_path(self._path), self._path)
        self.close()

    def close(self) -> None:
        """Leaves the file as it is: under its own name after `finish`, to be resumed otherwise."""
        if self._path is not None:
            self._file.close()

    def _put(self, row: bytes) -> None:
        view = memoryview(row)
        try:
            while view:
                view = view[self._file.write(view) :]
            self._file.flush()
        except OSError:
            if self._path is None:
                raise
            with naming(self._path, _RESUME):
                self._file.truncate(self._size)  # half a row would look like a damaged one
                raise
        self._size += len(row)

    def _write_meta(self, meta: dict[str, object]) -> None:
        if self._path is not None and self._layout.format != "jsonl":
            text = json.dumps(meta, ensure_ascii=False, indent=1) + "\n"
            write_output(part_path(meta_path(self._path)), text)  # at once: without it the rows could not be continued

    def _check_kept(self, names: Sequence[str], count: Callable[[Prediction], object]) -> tuple[int, int]:
        """(rows kept, bytes they take) of an interrupted file."""
        assert self._path is not None
        part = part_path(self._path)
        with open(part, "rb") as file:
            rows = records(file) if self._layout.format == "csv" else (row for row in file if row.endswith(b"\n"))
            size = 0
            if self._layout.format != "esfair":  # the others have a header
                header = next(rows, b"")
                if not header:
                    return 0, 0
                size = len(header)
            if self._layout.format == "jsonl":
                kept_meta = json_object(header, f"{part}: line 1")
            else:
                meta_part = part_path(meta_path(self._path))  # absent when the run was killed while finishing
                kept_meta = read_meta(meta_part if meta_part.exists() else meta_path(self._path))
            _compare_meta(part, kept_meta, self._meta)
            kept = 0
            for row in rows:
                prediction = self._read_row(row, f"{part}: row {kept + 1}")
                path = prediction.path
                expected = names[kept] if kept < len(names) else None
                if expected is None or path != (esfair_path(expected) if self._layout.format == "esfair" else expected):
                    raise PredictionsError(
                        f"{part}: row {kept + 1} is {path}, but the images given now have {expected or 'no more'} "
                        "there; resume with the list of the first run, or start over with --force"
                    )
                count(prediction)
                kept += 1
                size += len(row)
            return kept, size

    def _read_row(self, record: bytes, where: str) -> Prediction:
        """Reads one row, as far as its form has the fields."""
        if self._layout.format == "esfair":
            path, _, index = record.decode("utf-8", "replace").rstrip("\n").rpartition(" ")
            if index == str(UNCERTAIN_INDEX):
                return Prediction(path, status="error")
            labels = {str(i): label for i, label in enumerate(self._layout.classes)}
            if index not in labels:
                raise PredictionsError(f"{where}: got the index {index[:20]!r}, expected -1 to {len(labels) - 1}")
            return Prediction(path, labels[index])
        values: dict[str, Any]
        if self._layout.format == "jsonl":
            values = json_object(record, where)
        else:
            fields, columns = csv_fields(record), self._layout.columns
            if len(fields) != len(columns):
                raise PredictionsError(f"{where}: got {len(fields)} fields, expected {len(columns)}")
            values = dict(zip(columns, fields, strict=True))
        return Prediction(
            str(values.get("path")),
            str(values.get("label")),
            status=str(values.get("status")),
            width=_pixels(values.get("width"), where),
            height=_pixels(values.get("height"), where),
        )


def part_path(path: Path) -> Path:
    """Where a file lies until it is complete."""
    return path.with_name(path.name + ".part")


def _pixels(value: object, where: str) -> int | None:
    if value in (None, ""):
        return None
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text)):
        raise PredictionsError(f"{where}: got a side of {text[:20]!r}, expected pixels")
    return int(text)


def _compare_meta(part: Path, kept: dict[str, Any], meta: dict[str, object]) -> None:
    now = json.loads(json.dumps(meta))  # tuples become lists, as in the file
    differing = [key for key in sorted({*kept, *now} - {*TOTALS}) if kept.get(key) != now.get(key)]
    if "model_sha256" in differing:
        raise ModelError(
            f"{part}: its rows were made by the model {str(kept.get('model_sha256'))[:12]}..., "
            f"got {str(now.get('model_sha256'))[:12]}...; start over with --force"
        )
    if differing:
        changes = "; ".join(f"{key} was {kept.get(key)!r}, is {now.get(key)!r}" for key in differing)
        raise PredictionsError(f"{part}: made with other settings ({changes[:300]}); start over with --force")


def _place_for(path: Path) -> Path:
    """Where the file will really lie: a link is followed, a folder or device refused."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file name", str(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "is no regular file (leave -o out for standard output)", str(path))
    place = path.resolve()
    if not place.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(place.parent if path.is_symlink() else path.parent))
    return place


def _open_locked(path: Path) -> IO[bytes]:
    """Opens for unbuffered writing at its start, refusing a file that another run is writing."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise FileExistsError(errno.EEXIST, "is being written by another run", str(path)) from error
    except OSError:
        pass  # a file system without locks
    return os.fdopen(fd, "r+b", buffering=0)
