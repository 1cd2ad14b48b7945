"""Writing the predictions file, and continuing it after a crash.

Rows go to NAME.part with one write each, so a kill loses at most the row in flight; the end gives the file its
name. A file under its final name is therefore always complete. Until then NAME.stamps.part has a line for each row:
size and time of its photo, by which a photo that was replaced is noticed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from .errors import ModelError, PredictionsError
from .output_files import lock, naming, refuse_input, write_output
from .predictions import TOTALS, Layout, Prediction, json_object, meta_path, read_meta, records, stamp_of

_RESUME = "; the rows before it are kept, --resume continues"
_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class PredictionsWriter:
    """Writes rows to standard output, or to a file that appears under its name when it is complete."""

    def __init__(self, layout: Layout, meta: dict[str, object], path: Path | None, file: IO[bytes]) -> None:
        """Use `create` or `resume`."""
        self._layout, self._meta = layout, meta
        self._path, self._file = path, file
        self._size = 0  # bytes of complete rows
        self._stamps: IO[bytes] | None = None
        self._line_end = b"\n"
        self.replaced = ""
        """Name of the first photo that was changed since its row was written; its row and those after it are gone."""

    @classmethod
    def create(
        cls, layout: Layout, meta: dict[str, object], path: Path | None, *, force: bool = False
    ) -> PredictionsWriter:
        """Starts a new file, or standard output where `path` is None.

        `meta` is what the file says of itself, JSON-ready; with `force` an existing file, or the rest of an interrupted
        run, is replaced.

        Raises:
          FileExistsError: there is one and `force` is false, or another run is writing it.
          OSError: the place cannot be written.
        """
        if path is None:
            if sys.stdout is None:
                raise OSError(errno.EBADF, "is closed", "standard output")
            writer = cls(layout, meta, None, sys.stdout.buffer)
            writer._put(layout.header(meta))
            return writer
        path = _place_for(path)
        for existing, hint in (
            (path, "--force replaces it"),
            (part_path(path), "--resume continues that run, --force starts over"),
            (meta_path(path), "--force replaces it"),
        ):
            if existing.exists() and not force:
                raise FileExistsError(errno.EEXIST, f"exists already ({hint})", str(existing))
        writer = cls(layout, meta, path, _open_locked(part_path(path)))
        writer._continue_after(0, [])
        return writer

    @classmethod
    def resume(
        cls, layout: Layout, meta: dict[str, object], path: Path, names: Sequence[str], photos: Sequence[str], *,
        count: Callable[[Prediction], object],
    ) -> tuple[PredictionsWriter, int]:
        """Continues an interrupted file, or starts one where there is none; returns the number of rows kept as well.

        Kept are the rows up to the first photo that was changed since: `replaced`.

        Args:
          layout, meta, path: As in the first run.
          names: Paths of all rows the complete file will have.
          photos: Their files.
          count: Takes each row that is kept, as far as the form has its fields.

        Raises:
          ModelError: the rows there are another model's.
          PredictionsError: they belong to another list of images or other settings, or are damaged.
          OSError: the file cannot be read or written.
        """
        path = _place_for(path)
        part = part_path(path)
        is_copy = not part.exists()
        if is_copy and not path.exists():
            return cls.create(layout, meta, path, force=True), 0
        shown = path if is_copy else part
        written_ns = shown.stat().st_mtime_ns
        if is_copy:
            shutil.copyfile(path, part)
        writer = cls(layout, meta, path, _open_locked(part))
        try:
            unchanged = _unchanged(part_path(_stamps_path(path)), photos, written_ns)
            kept, size = writer._check_kept(path, str(shown), names, unchanged, count)
            writer._continue_after(size, [_line_of(stamp_of(photo)) for photo in photos[:kept]])
        except BaseException:
            writer.close()
            if is_copy:
                part.unlink(missing_ok=True)
            raise
        return writer, kept

    def write(self, prediction: Prediction) -> None:
        """Appends one row; it is in the file when this returns.

        Raises:
          OSError: the disk is full, or the pipe is closed. The file keeps its complete rows.
        """
        if self._stamps is not None and self._path is not None:
            with naming(self._path, _RESUME):
                self._stamps.write(_line_of(prediction.stamp))
        row = self._layout.encode(prediction)
        self._put(row if self._line_end == b"\n" else row[:-1] + self._line_end)

    def finish(self, totals: dict[str, object] | None = None) -> None:
        """Gives a complete file its name; `totals` are for the meta beside a CSV, by the names of `TOTALS`."""
        if self._path is None:
            return
        with naming(self._path, _RESUME):
            os.fsync(self._file.fileno())
        if totals and self._layout.format == "csv":  # a run that continues cannot count them from rows of esfair
            self._write_meta(self._path, {**self._meta, **totals})
        if self._layout.format != "jsonl":
            self._path.unlink(missing_ok=True)  # rows of an older run must not stand beside this run's meta
            os.replace(part_path(meta_path(self._path)), meta_path(self._path))
        os.replace(part_path(self._path), self._path)
        part_path(_stamps_path(self._path)).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leaves the file as it is: under its own name after `finish`, to be resumed otherwise."""
        if self._path is not None:
            self._file.close()
        if self._stamps is not None:
            self._stamps.close()

    def _continue_after(self, size: int, stamps: Sequence[bytes]) -> None:
        """Keeps so many bytes of rows, of photos with these stamps, and writes what has to stand before the next."""
        assert self._path is not None
        self._stamps = open(part_path(_stamps_path(self._path)), "wb", buffering=0)
        self._stamps.write(b"".join(stamps))
        self._file.truncate(size)
        self._file.seek(size)
        self._write_meta(self._path, self._meta)
        self._size = size
        if size == 0:
            self._put(self._layout.header(self._meta))

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

    def _write_meta(self, path: Path, meta: dict[str, object]) -> None:
        if self._layout.format != "jsonl":
            text = json.dumps(meta, ensure_ascii=False, indent=1) + "\n"
            write_output(part_path(meta_path(path)), text)  # at once: without it the rows could not be continued

    def _check_kept(
        self, path: Path, shown: str, names: Sequence[str], unchanged: Callable[[int], bool],
        count: Callable[[Prediction], object],
    ) -> tuple[int, int]:
        """(rows kept, bytes they take) of an interrupted file, in messages `shown`."""
        layout, part = self._layout, part_path(path)
        size = kept = size_kept = 0

        def complete(file: IO[bytes]) -> Iterator[bytes]:
            nonlocal size
            for record in records(file) if layout.format == "csv" else file:
                if record.endswith(b"\n"):
                    line_end = b"\r\n" if record.endswith(b"\r\n") else b"\n"
                    if size and line_end != self._line_end:
                        raise PredictionsError(f"{shown}: has LF and CRLF as line ends; start over with --force")
                    self._line_end = line_end
                    size += len(record)
                    yield record

        with open(part, "rb") as file:
            rows = complete(file)
            header = b"" if layout.format == "esfair" else next(rows, b"")
            if not header and layout.format != "esfair":
                return 0, 0
            if layout.format == "jsonl":
                kept_meta = json_object(header, f"{shown}: line 1")
            else:
                meta_part = part_path(meta_path(path))  # absent when the run was killed while finishing
                kept_meta = read_meta(meta_part if meta_part.exists() else meta_path(path))
            _compare_meta(shown, kept_meta, self._meta)
            size_kept = size
            for prediction in layout.parse(rows, shown):
                expected = layout.written_path(names[kept]) if kept < len(names) else None
                if prediction.path != expected:
                    raise PredictionsError(
                        f"{shown}: row {kept + 1} is {prediction.path}, but the images given now have "
                        f"{expected or 'no more'} there; resume with the list of the first run, or start over with "
                        "--force"
                    )
                if not unchanged(kept):
                    self.replaced = names[kept]
                    break
                count(prediction)
                kept, size_kept = kept + 1, size
        return kept, size_kept


def format_of(path: Path | None, wanted: str | None) -> str:
    """The format of a file by its name, if no other is wanted: "csv", "jsonl" or "esfair".

    Raises:
      PredictionsError: the suffix promises what the file would not be (exit status 2).
    """
    suffix = "" if path is None else path.suffix.lower()
    chosen = wanted or _FORMATS.get(suffix, "csv")
    may_be_text = wanted is not None and suffix == ".txt"
    if _FORMATS.get(suffix) == chosen or may_be_text or not any(c.isalpha() for c in suffix):
        return chosen
    of_chosen = [name for name, format in _FORMATS.items() if format == chosen] if wanted else _FORMATS
    expected = f"{', '.join(of_chosen)} or none" if of_chosen else "none"
    raise PredictionsError(
        f"{path}: got the suffix {suffix} for {chosen}, expected {expected}, or .txt with --format", exit_status=2
    )


def part_path(path: Path) -> Path:
    """Where a file lies until it is complete."""
    return path.with_name(path.name + ".part")


def _stamps_path(path: Path) -> Path:
    return path.with_name(path.name + ".stamps")


def _line_of(stamp: tuple[int, int] | None) -> bytes:
    return b"%d %d\n" % stamp if stamp else b"-\n"


def _unchanged(stamps: Path, photos: Sequence[str], written_ns: int) -> Callable[[int], bool]:
    """Index of a row -> whether its photo is as it was; of a file without stamps, finished at `written_ns`, by time."""
    lines = stamps.read_bytes().splitlines(keepends=True) if stamps.exists() else None

    def by_stamp(row: int) -> bool:
        return lines is not None and row < len(lines) and lines[row] == _line_of(stamp_of(photos[row]))

    def by_time(row: int) -> bool:
        try:
            status = os.stat(photos[row])
        except (OSError, ValueError):
            return True
        return max(status.st_mtime_ns, status.st_ctime_ns) <= written_ns

    return by_time if lines is None else by_stamp


def _compare_meta(part: str, kept: dict[str, Any], meta: dict[str, object]) -> None:
    now = json.loads(json.dumps(meta))  # tuples become lists, as in the file
    # The model's digest says whether it is the same; files of earlier versions lack what it says of itself.
    compared = {*kept, *now} - {*TOTALS, "intended_use", "model"}
    differing = [key for key in sorted(compared) if kept.get(key) != now.get(key)]
    if "model_sha256" in differing:
        raise ModelError(
            f"{part}: its rows were made by the model {str(kept.get('model_sha256'))[:12]}..., "
            f"got {str(now.get('model_sha256'))[:12]}...; start over with --force"
        )
    if differing:
        changes = "; ".join(f"{key} was {kept.get(key)!r}, is {now.get(key)!r}" for key in differing)
        raise PredictionsError(f"{part}: made with other settings ({changes[:300]}); start over with --force")


def _place_for(path: Path) -> Path:
    """Where the file will really lie: a link is followed, a folder, a device or an input refused."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file name", str(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "is no regular file (leave -o out for standard output)", str(path))
    place = path.resolve()
    beside = (part_path(place), meta_path(place), part_path(meta_path(place)), part_path(_stamps_path(place)))
    for name in (place, *beside):
        refuse_input(name)
    if not place.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(place.parent if path.is_symlink() else path.parent))
    return place


def _open_locked(path: Path) -> IO[bytes]:
    """Opens for unbuffered writing at its start, refusing a file that another run is writing."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    try:
        lock(file.fileno(), path)
    except FileExistsError:
        file.close()
        raise
    return file
