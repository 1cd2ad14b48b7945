"""What others do with the same photos, for comparison in the same run (extra `baseline`).

    python -m bench.speed.peers NAME MODEL LIST WORKERS

runs one contender as a process of its own, imports and model loading included, and prints a class index per path of
LIST. `ours` is the shipped edge-infer. The others are written from descriptions, on one engine (onnxruntime, which is
faster than MNN on x86-64) and one network, so that what differs is what happens before the network:

    winners         the 2023 winners' runtime: OpenCV, full size, rotation, aliased bilinear letterbox, float
                    normalisation, batch 1; every thread its own session and a fixed quarter of the files, the
                    remainder after the join
    organisers      the sample code: Pillow, full size, Resize and CenterCrop, float normalisation, batches of 64
    opencv-reduced  OpenCV's own scaled decoding to the needed size, area resize, a shared session
    naive           a tutorial: Pillow, full size, convert, resize, normalise, one by one in a thread pool

Each network call gets the resized uint8 image, since the model's graph starts there: the float normalisation is done
and paid for, as in the originals, and not used. That favours the peers by nothing but a Cast.
Source: slides and repositories of the ESFair 2023 winners and organisers; nothing of theirs is copied.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from edge.errors import EdgeError
from edge.exit import DONE, ENVIRONMENT, SOME_FAILED

from . import process_cost

PEERS = ("winners", "organisers", "opencv-reduced", "naive")
_WITH_OPENCV = ("winners", "opencv-reduced")
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet, 0 to 255


def check(names: Sequence[str]) -> None:
    """Says before minutes of measuring that a peer cannot run here.

    Raises:
      EdgeError: what it imports is not installed, or broken.
    """
    for name in names:
        if name in _WITH_OPENCV:
            cost = process_cost.run([sys.executable, "-c", "import cv2"])  # apart: what is broken may die, not raise
            if cost.status != DONE:
                raise _failure(f"{name} cannot run", cost)


def interleaved(
    names: Sequence[str], model: Path, paths: Sequence[str], *, workers: int, batch_size: int, runs: int
) -> dict[str, dict[str, Any]]:
    """Runs ours, with `batch_size`, and the peers in turn (A B C A B C), each a whole process over the same files.

    Returns:
      Name -> JSON-ready figures: wall and CPU seconds of every run, peak memory in MB, the ratios to ours of the same
      turn (quartiles), and the share of labels equal to ours.

    Raises:
      EdgeError: a contender failed.
    """
    from .latency import quartiles  # not at the top: this module is also the program of every peer

    with TemporaryDirectory() as scratch:
        list_path = Path(scratch) / "images.list"
        # Zero bytes and raw names: a name may hold a line end, and need not be UTF-8.
        list_path.write_bytes(b"".join(os.fsencode(os.path.abspath(path)) + b"\0" for path in paths))
        shipped = ["edge", "-q", "--format", "esfair", "-m", str(model), "-w", str(workers), "-b", str(batch_size)]
        programs = {"ours": [*shipped, f"@{list_path}"]}
        programs |= {name: ["bench.speed.peers", name, str(model), str(list_path), str(workers)] for name in names}
        costs: dict[str, list[process_cost.Cost]] = {name: [] for name in programs}
        for _ in range(runs):
            for name, program in programs.items():
                cost = process_cost.run([sys.executable, "-m", *program])
                if cost.status not in ((DONE, SOME_FAILED) if name == "ours" else (DONE,)):
                    raise _failure(f"{name} failed", cost)
                costs[name].append(cost)
    labels = {name: _labels(found[0].output) for name, found in costs.items()}
    ours = costs["ours"]
    return {
        name: {
            "wall_s": [cost.wall_s for cost in found],
            "cpu_s": [cost.cpu_s for cost in found],
            "peak_mb": max(cost.peak_mb for cost in found),
            "wall_ratio": quartiles([a.wall_s / b.wall_s for a, b in zip(found, ours, strict=True)]),
            "cpu_ratio": quartiles([a.cpu_s / b.cpu_s for a, b in zip(found, ours, strict=True)]),
            "equal_labels": sum(a == b for a, b in zip(labels[name], labels["ours"], strict=True)) / len(paths),
        }
        for name, found in costs.items()
    }


def table(figures: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The lines a person reads, from a results file alone."""
    if not figures:
        return
    yield "whole commands     wall s   times ours (quartiles)     CPU times ours   peak MB   labels as ours"
    for name, row in figures.items():
        wall, cpu = row["wall_ratio"], row["cpu_ratio"]
        yield (
            f"  {name:15} {median(row['wall_s']):7.2f} {wall['median']:8.2f} ({wall['low']:.2f} to {wall['high']:.2f})"
            f" {cpu['median']:16.2f} {row['peak_mb']:12.0f} {row['equal_labels']:12.0%}"
        )


def _failure(what: str, cost: process_cost.Cost) -> EdgeError:
    is_missing = cost.error.startswith("ModuleNotFoundError")
    hint = " (pip install -e '.[baseline]' in the checkout)" if is_missing else ""
    return EdgeError(f"{what}: {cost.error}{hint}", exit_status=ENVIRONMENT)


def _labels(output: bytes) -> list[int]:
    return [int(line.rsplit(b" ", 1)[-1]) for line in output.splitlines()]


def bare_network(model: str | bytes, threads: int) -> tuple[int, Callable[[Any], Any]]:
    """The engine without anything of ours: side S of its input, and (N, S, S, 3) uint8 -> (N, C) float32 logits.

    `model` is a path, or the content of the file: the engine takes no path that is not UTF-8.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.get_inputs()[0].shape[1], lambda batch: session.run(["logits"], {"images": batch})[0]


def _imread(path: str, flags: int) -> Any:
    import cv2

    read: Any = cv2.imread
    return read(os.fsencode(path), flags)  # a str that is no UTF-8 makes OpenCV 4.13 crash; bytes it takes as they are


def _letterbox(image: Any, side: int, interpolation: int) -> Any:
    """(H, W, 3) uint8 BGR -> (S, S, 3) uint8 RGB: long side to S with truncation, centred on black."""
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    factor = side / max(height, width)
    new = (max(1, int(width * factor)), max(1, int(height * factor)))
    small = cv2.cvtColor(cv2.resize(image, new, interpolation=interpolation), cv2.COLOR_BGR2RGB)
    canvas = np.zeros((side, side, 3), np.uint8)
    left, top = (side - new[0]) // 2, (side - new[1]) // 2
    canvas[top : top + new[1], left : left + new[0]] = small
    return canvas


def _normalize(pixels: Any) -> None:
    """(S, S, 3) uint8 -> (3, S, S) float32, as the original programs feed their engines; thrown away here."""
    import numpy as np

    mean, std = np.array(_MEAN, np.float32), np.array(_STD, np.float32)
    np.ascontiguousarray(((pixels.astype(np.float32) - mean) / std).transpose(2, 0, 1))


def winners_pixels(path: str, side: int) -> Any:
    """What `winners` does to one photo before the network: (S, S, 3) uint8 RGB."""
    import cv2

    pixels = _letterbox(_imread(path, cv2.IMREAD_COLOR), side, cv2.INTER_LINEAR)
    _normalize(pixels)
    return pixels


def _winners(model: str, paths: Sequence[str], workers: int) -> list[int]:
    """Static quarters, one session a thread, full decode, batch 1."""
    labels = [-1] * len(paths)

    def work(indices: Iterable[int]) -> None:
        side, logits = bare_network(model, 1)
        for i in indices:
            labels[i] = int(logits(winners_pixels(paths[i], side)[None]).argmax())

    share = len(paths) // workers
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, [range(k * share, (k + 1) * share) for k in range(workers)]))
    work(range(workers * share, len(paths)))
    return labels


def _organisers(model: str, paths: Sequence[str], workers: int) -> list[int]:
    """Full decode, Resize and CenterCrop, batches of 64."""
    import numpy as np
    from PIL import Image

    side, logits = bare_network(model, workers)

    def load(path: str) -> Any:
        image = Image.open(path).convert("RGB")
        factor = side * 72 / 64 / min(image.size)  # the sample code resizes to 72 and crops 64
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        pixels = np.asarray(image.crop((left, top, left + side, top + side)))
        _normalize(pixels)
        return pixels

    labels: list[int] = []
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(paths), 64):
            batch = np.stack(list(pool.map(load, paths[first : first + 64])))
            labels += logits(batch).argmax(axis=1).tolist()
    return labels


def _reduced_pixels(path: str, side: int) -> Any:
    """OpenCV's scaled decoding at the largest of 1/8, 1/4, 1/2 that keeps twice the needed size."""
    import cv2
    from PIL import Image

    flags = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    with Image.open(path) as header:
        longest = max(header.size)
    flag = next((flag for factor, flag in flags.items() if longest // factor >= 2 * side), cv2.IMREAD_COLOR)
    return _letterbox(_imread(path, flag), side, cv2.INTER_AREA)


def _naive_pixels(path: str, side: int) -> Any:
    """Full decode, convert, resize."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB").resize((side, side)))
    _normalize(pixels)
    return pixels


def _one_by_one(pixels: Callable[[str, int], Any], model: str, paths: Sequence[str], workers: int) -> list[int]:
    """A shared session and one image at a time, in a thread pool."""
    side, logits = bare_network(model, 1)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda path: int(logits(pixels(path, side)[None]).argmax()), paths))


_RUNNERS: dict[str, Callable[[str, Sequence[str], int], list[int]]] = {
    "winners": _winners,
    "organisers": _organisers,
    "opencv-reduced": partial(_one_by_one, _reduced_pixels),
    "naive": partial(_one_by_one, _naive_pixels),
}


def main(arguments: Sequence[str]) -> int:
    """Runs one peer; see the module's first lines."""
    name, model, list_path, workers = arguments
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    if name in _WITH_OPENCV:
        import cv2

        cv2.setNumThreads(1)
    paths = [os.fsdecode(path) for path in Path(list_path).read_bytes().split(b"\0")[:-1]]
    for label in _RUNNERS[name](model, paths, int(workers)):
        sys.stdout.write(f"{label}\n")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
