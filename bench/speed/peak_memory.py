"""Peak memory of edge-infer by kind of photo and number of workers, and whether it grows with the number of photos.

Each figure is a whole edge-infer process of its own over links to a few generated photos, as the kernel accounts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

import psutil

from ..photos import images, scene
from . import process_cost

KINDS: dict[str, dict[str, Any]] = {
    "24 MP baseline": {"size": (6000, 4000)},
    "24 MP progressive": {"size": (6000, 4000), "progressive": True},
    "24 MP progressive 4:4:4": {"size": (6000, 4000), "progressive": True, "subsampling": "4:4:4"},
    "5 MP baseline": {"size": (2592, 1936)},
    "12 MP PNG": {"size": (4000, 3000), "png": True},
    "600x450 baseline": {"size": (600, 450)},
}


def photo(kind: str) -> bytes:
    """The file of one kind of `KINDS`."""
    options = dict(KINDS[kind])
    picture = scene.draw(*options.pop("size"))
    if options.pop("png", False):
        buffer = BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    return images.encode(picture, **options)


def by_kind(model: Path, *, workers: tuple[int, ...], count: int) -> Iterator[tuple[str, int, float]]:
    """Yields (kind, workers, peak MB) over `count` links to one photo of each kind."""
    with TemporaryDirectory() as scratch:
        for kind in KINDS:
            folder = _links(Path(scratch) / kind.replace(" ", "-").replace(":", ""), photo(kind), count)
            for num_workers in workers:
                cost = process_cost.run(_command(folder, model, num_workers))
                if cost.status:
                    raise RuntimeError(f"edge-infer failed: {cost.error}")
                yield kind, num_workers, cost.peak_mb


def growth(model: Path, *, workers: int, count: int) -> tuple[float, float]:
    """Median resident set, MB, in the second and in the last tenth of a run over `count` small photos."""
    with TemporaryDirectory() as scratch:
        folder = _links(Path(scratch) / "many", photo("600x450 baseline"), count)
        samples = []
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


def _command(folder: Path, model: Path, workers: int) -> list[str]:
    return [sys.executable, "-m", "edge", "-q", "-m", str(model), "-w", str(workers), "--no-timing", str(folder)]


def _links(folder: Path, content: bytes, count: int) -> Path:
    folder.mkdir()
    suffix = ".png" if content.startswith(b"\x89PNG") else ".jpg"
    original = folder.with_suffix(suffix)
    original.write_bytes(content)
    for i in range(count):
        os.symlink(original, folder / f"img{i}{suffix}")
    return folder
