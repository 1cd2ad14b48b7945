"""What others do with the same photos, for comparison in the same run (extra `baseline`).

    python -m bench.speed.peers NAME MODEL LIST WORKERS BATCH

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
                raise EdgeError(f"{name} cannot run: {cost.error}{_hint(cost.error)}", exit_status=ENVIRONMENT)


def interleaved(
    names: Sequence[str], model: Path, paths: Sequence[str], *, workers: int, batch_size: int, runs: int
) -> dict[str, dict[str, Any]]:
    """Runs ours and the peers in turn (A B C A B C), each a whole process over the same files.

    Returns:
      Name -> JSON-ready figures: wall and CPU seconds of every run, peak memory in MB, the ratios to ours of the same
      turn (quartiles), and the share of labels equal to ours.

    Raises:
      EdgeError: a contender failed.
    """
    from .latency import quartiles  # not at the top: this module is also the program of every peer

    contenders = ("ours", *names)
    costs: dict[str, list[process_cost.Cost]] = {name: [] for name in contenders}
    with TemporaryDirectory() as scratch:
        list_path = Path(scratch) / "images.list"
        # Zero bytes and raw names: a name may hold a line end, and need not be UTF-8.
        list_path.write_bytes(b"".join(os.fsencode(os.path.abspath(path)) + b"\0" for path in paths))
        for _ in range(runs):
            for name in contenders:
                cost = process_cost.run(command(name, model, list_path, workers, batch_size))
                if cost.status not in ((DONE, SOME_FAILED) if name == "ours" else (DONE,)):
                    raise EdgeError(f"{name} failed: {cost.error}{_hint(cost.error)}", exit_status=ENVIRONMENT)
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


def command(name: str, model: Path, list_path: Path, workers: int, batch_size: int) -> list[str]:
    """The command line of one contender over the paths of a list file."""
    if name != "ours":
        arguments = [name, str(model), str(list_path), str(workers), str(batch_size)]
        return [sys.executable, "-m", "bench.speed.peers", *arguments]
    options = ["-q", "--format", "esfair", "-m", str(model), "-w", str(workers), "-b", str(batch_size)]
    return [sys.executable, "-m", "edge", *options, f"@{list_path}"]


def _hint(error: str) -> str:
    is_missing = error.startswith("ModuleNotFoundError")
    return " (pip install '.[baseline]' in the checkout)" if is_missing else ""


def _labels(output: bytes) -> list[int]:
    return [int(line.rsplit(b" ", 1)[-1]) for line in output.splitlines()]


def _session(model: str, intra_op_threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = intra_op_threads, 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _side(session: Any) -> int:
    return int(session.get_inputs()[0].shape[1])


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


def _normalized(pixels: Any) -> Any:
    """(S, S, 3) uint8 -> (3, S, S) float32, as the original programs feed their engines."""
    import numpy as np

    mean, std = np.array(_MEAN, np.float32), np.array(_STD, np.float32)
    return np.ascontiguousarray(((pixels.astype(np.float32) - mean) / std).transpose(2, 0, 1))


def winners_pixels(path: str, side: int) -> Any:
    """What `winners` does to one photo before the network: (S, S, 3) uint8 RGB."""
    import cv2

    pixels = _letterbox(_imread(path, cv2.IMREAD_COLOR), side, cv2.INTER_LINEAR)
    _normalized(pixels)
    return pixels


def winners(model: str, paths: Sequence[str], workers: int, batch_size: int) -> list[int]:
    """Static quarters, one session a thread, full decode, batch 1."""
    import cv2

    cv2.setNumThreads(1)
    labels = [-1] * len(paths)

    def work(indices: Iterable[int]) -> None:
        session = _session(model, 1)
        side = _side(session)
        for i in indices:
            pixels = winners_pixels(paths[i], side)
            labels[i] = int(session.run(["logits"], {"images": pixels[None]})[0].argmax())

    share = len(paths) // workers
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, [range(k * share, (k + 1) * share) for k in range(workers)]))
    work(range(workers * share, len(paths)))
    return labels


def organisers(model: str, paths: Sequence[str], workers: int, batch_size: int) -> list[int]:
    """Full decode, Resize and CenterCrop, batches of 64."""
    import numpy as np
    from PIL import Image

    session = _session(model, workers)
    side = _side(session)

    def load(path: str) -> Any:
        image = Image.open(path).convert("RGB")
        short = side * 72 / 64  # the sample code resizes to 72 and crops 64
        factor = short / min(image.size)
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        pixels = np.asarray(image.crop((left, top, left + side, top + side)))
        _normalized(pixels)
        return pixels

    labels: list[int] = []
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(paths), 64):
            batch = np.stack(list(pool.map(load, paths[first : first + 64])))
            labels += session.run(["logits"], {"images": batch})[0].argmax(axis=1).tolist()
    return labels


def opencv_reduced(model: str, paths: Sequence[str], workers: int, batch_size: int) -> list[int]:
    """OpenCV's scaled decoding at the largest of 1/8, 1/4, 1/2 that keeps twice the needed size."""
    import cv2
    from PIL import Image

    cv2.setNumThreads(1)
    session = _session(model, 1)
    side = _side(session)
    flags = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}

    def work(path: str) -> int:
        with Image.open(path) as header:
            longest = max(header.size)
        scale = next((d for d in flags if longest // d >= 2 * side), 1)
        image = _imread(path, flags.get(scale, cv2.IMREAD_COLOR))
        pixels = _letterbox(image, side, cv2.INTER_AREA)
        return int(session.run(["logits"], {"images": pixels[None]})[0].argmax())

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, paths))


def naive(model: str, paths: Sequence[str], workers: int, batch_size: int) -> list[int]:
    """Full decode and one image at a time, in a thread pool of equal size."""
    import numpy as np
    from PIL import Image

    session = _session(model, 1)
    side = _side(session)

    def work(path: str) -> int:
        pixels = np.asarray(Image.open(path).convert("RGB").resize((side, side)))
        _normalized(pixels)
        return int(session.run(["logits"], {"images": pixels[None]})[0].argmax())

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, paths))


_RUNNERS: dict[str, Callable[[str, Sequence[str], int, int], list[int]]] = {
    "winners": winners,
    "organisers": organisers,
    "opencv-reduced": opencv_reduced,
    "naive": naive,
}


def main(arguments: Sequence[str]) -> int:
    """Runs one peer; see the module's first lines."""
    name, model, list_path, workers, batch_size = arguments
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    paths = [os.fsdecode(path) for path in Path(list_path).read_bytes().split(b"\0")[:-1]]
    for label in _RUNNERS[name](model, paths, int(workers), int(batch_size)):
        sys.stdout.write(f"{label}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
