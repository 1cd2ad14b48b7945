"""Peak memory of edge-infer by kind of photo, and whether it grows with the number of photos.

Each figure is a whole edge-infer process of its own over links to one generated photo, as the kernel accounts it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

import psutil

from bench.photos import scene
from bench.speed import process_cost
from edge.arguments import ArgumentParser, positive, workers
from edge.classifier import DEFAULT_MODEL
from edge.exit import DONE

HELP = "measure the peak memory of edge-infer by kind of photo"

_JPEG = {"format": "JPEG", "quality": 90, "subsampling": "4:2:0"}
KINDS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "24 MP baseline": (6000, 4000, _JPEG),
    "24 MP progressive": (6000, 4000, {**_JPEG, "progressive": True}),
    "24 MP progressive 4:4:4": (6000, 4000, {**_JPEG, "progressive": True, "subsampling": "4:4:4"}),
    "5 MP baseline": (2592, 1936, _JPEG),
    "12 MP PNG": (4000, 3000, {"format": "PNG", "compress_level": 1}),
    "600x450 baseline": (600, 450, _JPEG),
}
"""Width, height and how Pillow writes it."""


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("-m", "--model", type=Path, metavar="FILE", help="model (.onnx); default: the bundled one")
    add("-w", "--workers", type=workers, nargs="+", default=[1, 2, 4], metavar="N", help="threads (default 1 2 4)")
    add("-n", "--count", type=positive, default=24, metavar="N", help="photos of each kind (default 24)")
    add("--many", type=positive, default=10_000, metavar="N", help="small photos for the growth (default 10000)")


def run(arguments: argparse.Namespace, _: str) -> int:
    """Measures peak memory."""
    model, threads = arguments.model or DEFAULT_MODEL, arguments.workers
    print(f"{'photos':26} workers  peak MB")
    for kind, num_threads, peak_mb in by_kind(model, workers=threads, count=arguments.count):
        print(f"{kind:26} {num_threads:7} {peak_mb:8.0f}", flush=True)
    early_mb, late_mb = growth(model, workers=max(threads), count=arguments.many)
    print(f"{arguments.many} photos of 600x450: {early_mb:.0f} MB in the second tenth, {late_mb:.0f} MB in the last")
    return DONE


def by_kind(model: Path, *, workers: list[int], count: int) -> Iterator[tuple[str, int, float]]:
    """Yields (kind, workers, peak MB) over `count` links to one photo of each kind."""
    for kind in KINDS:
        with _links(kind, count) as folder:
            for num_workers in workers:
                cost = process_cost.run(_command(folder, model, num_workers))
                if cost.status:
                    raise RuntimeError(f"edge-infer failed: {cost.error}")
                yield kind, num_workers, cost.peak_mb


def growth(model: Path, *, workers: int, count: int) -> tuple[float, float]:
    """Median resident set, MB, in the second and in the last tenth of a run over `count` small photos."""
    samples = []
    with _links("600x450 baseline", count) as folder:
        with subprocess.Popen(_command(folder, model, workers), stdout=subprocess.DEVNULL) as running:
            watched = psutil.Process(running.pid)
            while running.poll() is None:
                if (rss := watched.memory_info().rss) > 0:  # it has none when it has just ended
                    samples.append(rss / 1e6)
                sleep(0.1)
    if running.returncode:
        raise RuntimeError(f"edge-infer failed with exit status {running.returncode}")
    tenth = max(1, len(samples) // 10)
    return median(samples[tenth : 2 * tenth] or samples), median(samples[-tenth:])


def photo(kind: str) -> bytes:
    """The file of one kind of `KINDS`."""
    width, height, options = KINDS[kind]
    buffer = BytesIO()
    scene.draw(width, height).save(buffer, **options)
    return buffer.getvalue()


@contextmanager
def _links(kind: str, count: int) -> Iterator[str]:
    """A folder with that many links to one photo."""
    suffix = ".png" if "PNG" in kind else ".jpg"
    with TemporaryDirectory() as scratch, TemporaryDirectory() as folder:
        original = Path(scratch) / f"photo{suffix}"
        original.write_bytes(photo(kind))
        for i in range(count):
            os.symlink(original, os.path.join(folder, f"img{i}{suffix}"))
        yield folder


def _command(folder: str, model: Path, workers: int) -> list[str]:
    return [sys.executable, "-m", "edge", "-q", "-m", str(model), "-w", str(workers), "--no-timing", folder]
