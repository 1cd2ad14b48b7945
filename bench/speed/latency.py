"""Latency the contest's way: seconds per 100 photos, from file path to label, over the shipped pipeline.

What is timed is `edge.pipeline.run` itself, the same object `edge-infer` calls. In the same loop stands the bound:
bare Pillow scaled decoding and the bare session on the same bytes, one after the other, divided by the workers.
What lies between the two is ours to lose.

Source: ESFair 2023, problem page: mean of 10 iterations over 100 random images, score 1 - L / 100 with L in seconds.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image

from edge.classifier import Classifier
from edge.errors import EdgeError
from edge.pipeline import RunOptions, run
from edge.predictions import Prediction

SIZE_CLASSES = (("small", 1_000_000), ("medium", 9_000_000), ("large", math.inf))
"""Name and upper bound in pixels. Source: the winners' slides count images below 1000^2, between, above 3000^2."""

MAX_LATENCY_S = 100.0
"""Seconds per 100 images that score 0. Source: ESFair 2023, problem page."""


@dataclass(frozen=True)
class Protocol:
    """How a latency is measured."""

    sample: int = 100
    """Images drawn, each once."""
    runs: int = 10
    """Timed iterations over the sample."""
    seed: int = 0
    """Of the draw."""
    workers: int = 1
    """Threads of the pipeline."""
    batch_size: int = 4
    """Images per call of the network."""


@dataclass
class Timing:
    """One timed iteration."""

    wall_s: float
    cpu_s: float
    bound_s: float
    """CPU-bound time of bare decoding and bare inference, one thread, not divided."""
    predictions: list[Prediction]


class NullClassifier(Classifier):
    """A classifier whose network does nothing: what remains is the harness's own cost."""

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) uint8 -> (N, C) float32 zeros."""
        return np.zeros((len(batch), len(self.classes)), np.float32)


def latency_score(seconds_per_100: float) -> float:
    """1 - L / 100, held in 0 to 1: the page does not say what L above 100 s gives."""
    return min(1.0, max(0.0, 1 - seconds_per_100 / MAX_LATENCY_S))


def draw(classifier: Classifier, paths: Sequence[str], protocol: Protocol) -> tuple[list[str], list[Prediction], float]:
    """Draws the sample and runs it once, as warm-up and to leave out what cannot be decoded.

    Returns:
      The usable paths in drawn order, the error rows met, and the seconds until the first result.

    Raises:
      EdgeError: no image can be used.
    """
    order = np.random.default_rng(protocol.seed).permutation(len(paths))
    waiting = [paths[i] for i in order]
    usable: list[str] = []
    errors: list[Prediction] = []
    first_s: float | None = None
    while waiting and len(usable) < protocol.sample:
        tried, waiting = waiting[: protocol.sample - len(usable)], waiting[protocol.sample - len(usable) :]
        start = perf_counter()
        for prediction in run(classifier, tried, RunOptions(protocol.workers, protocol.batch_size)):
            first_s = perf_counter() - start if first_s is None else first_s
            if prediction.status == "ok":
                usable.append(prediction.path)
            else:
                errors.append(prediction)
    if not usable:
        raise EdgeError(f"none of {len(paths)} images can be used; first: {errors[0].error if errors else 'none'}")
    return usable, errors, first_s or 0.0


def timings(classifier: Classifier, paths: Sequence[str], protocol: Protocol) -> Iterator[Timing]:
    """Yields one `Timing` per run, ours and the bound in turn (A B A B), so that a drift of the machine hits both."""
    session = _bare_session(classifier)
    contents = [Path(path).read_bytes() for path in paths]
    _bound_s(classifier, session, contents[:1], protocol.batch_size)
    for _ in range(protocol.runs):
        gc.collect()
        wall, cpu = perf_counter(), process_time()
        predictions = list(run(classifier, paths, RunOptions(protocol.workers, protocol.batch_size)))
        wall, cpu = perf_counter() - wall, process_time() - cpu
        yield Timing(wall, cpu, _bound_s(classifier, session, contents, protocol.batch_size), predictions)


def summarize(
    runs: Sequence[Timing], paths: Sequence[str], errors: Sequence[Prediction], protocol: Protocol, first_s: float
) -> dict[str, Any]:
    """The `latency` part of a results file, JSON-ready; seconds unless a name says otherwise."""
    scale = 100 / len(paths)
    walls = [timing.wall_s for timing in runs]
    seconds = statistics.fmean(walls) * scale
    bounds = [timing.bound_s for timing in runs]
    return {
        "seconds_per_100": seconds,
        "score": latency_score(seconds),
        "samples": {"wall_s": walls, "cpu_s": [t.cpu_s for t in runs], "bound_cpu_s": bounds},
        "spread": (max(walls) - min(walls)) / statistics.median(walls),
        "images": len(paths),
        "scaled_to_100": len(paths) != 100,
        "unusable": [{"path": os.path.basename(p.path), "error": p.error} for p in errors],
        "protocol": asdict(protocol),
        "first_result_s": first_s,
        "stages_ms": _stages_ms(runs, paths, protocol),
        "by_size": _by_size(runs),
        "ratio_to_bound": {
            "wall": quartiles([t.wall_s * protocol.workers / t.bound_s for t in runs]),
            "cpu": quartiles([t.cpu_s / t.bound_s for t in runs]),
        },
    }


def cold_start(model: Path, image: str, *, runs: int = 5) -> dict[str, float]:
    """Median wall milliseconds of a whole edge-infer command on one image, and of its parts, in fresh processes."""
    imports = "import numpy, onnxruntime, PIL.JpegImagePlugin"
    load = f"{imports}; onnxruntime.InferenceSession({str(model)!r}, providers=['CPUExecutionProvider'])"
    commands = {
        "command_ms": ["-m", "edge", "-q", "-m", str(model), image],
        "python_ms": ["-c", "pass"],
        "python_and_imports_ms": ["-c", imports],
        "python_imports_and_session_ms": ["-c", load],
    }
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            start = perf_counter()
            subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            samples[name].append(1e3 * (perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in samples.items()}
    medians["ours_ms"] = medians["command_ms"] - medians["python_imports_and_session_ms"]
    return medians


def peak_memory_mb() -> float | None:
    """Largest resident set of this process so far, MB (10^6 bytes)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    return None


def table(result: dict[str, Any]) -> Iterator[str]:
    """The lines a person reads, from a results file alone."""
    latency = result["latency"]
    protocol = latency["protocol"]
    yield f"{latency['seconds_per_100']:.3f} s per 100 images, latency score {latency['score']:.4f}"
    yield (
        f"  {latency['images']} images x {protocol['runs']} runs, {protocol['workers']} workers, "
        f"batch {protocol['batch_size']}, spread {latency['spread']:.1%}"
        + (", scaled to 100" if latency["scaled_to_100"] else "")
    )
    for name, metric in latency["ratio_to_bound"].items():
        yield f"  {name} / bound: {metric['median']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"
    yield "stage              ms per image   share of the workers' time"
    for name, stage in latency["stages_ms"].items():
        yield f"  {name:16} {stage['per_image']:12.3f} {stage['share']:8.1%}"
    yield "size        images      p50      p90      p99   ms per image, decode to logits"
    for name, row in latency["by_size"].items():
        yield f"  {name:10} {row['images']:5} {row['p50_ms']:8.2f} {row['p90_ms']:8.2f} {row['p99_ms']:8.2f}"
    yield f"first result of the warm-up after {1e3 * latency['first_result_s']:.0f} ms"
    if cold := result.get("cold_start"):
        yield (
            f"cold start: {cold['command_ms']:.0f} ms for one image, of it Python {cold['python_ms']:.0f}, "
            f"imports {cold['python_and_imports_ms'] - cold['python_ms']:.0f}, ours {cold['ours_ms']:.0f}"
        )
    yield f"peak memory: {result['peak_memory_mb']} MB with this harness"
    if latency["unusable"]:
        yield f"left out, not timed: {len(latency['unusable'])} unusable images"
    yield "valid: yes" if result["valid"] else f"valid: NO ({'; '.join(result['reasons'])})"


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median with the lower and upper quartile as low and high."""
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": median, "low": low, "high": high}


def _bare_session(classifier: Classifier) -> Callable[[np.ndarray], object]:
    if isinstance(classifier, NullClassifier):
        return classifier.logits
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(classifier.path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["logits"], {"images": batch})


def _bound_s(
    classifier: Classifier, session: Callable[[np.ndarray], object], contents: Sequence[bytes], batch_size: int
) -> float:
    """Seconds of one thread for what cannot be left out: scaled decoding with one resize, and the network."""
    preprocess = classifier.preprocess
    batch = np.zeros((batch_size, preprocess.size_px, preprocess.size_px, 3), np.uint8)
    start = process_time()
    for content in contents:
        image = Image.open(BytesIO(content))
        width, height = preprocess.fill_size(*image.size)
        drafted = image.draft(None, (preprocess.draft_factor * width, preprocess.draft_factor * height))
        image.resize((width, height), Image.Resampling.BILINEAR, box=drafted[1] if drafted else None)
    for first in range(0, len(contents), batch_size):
        session(batch[: len(contents) - first])
    return process_time() - start


def _stages_ms(runs: Sequence[Timing], paths: Sequence[str], protocol: Protocol) -> dict[str, dict[str, float]]:
    """Milliseconds per image and share of the workers' wall time, stage by stage; they add up to all of it."""
    num_images = len(paths) * len(runs)
    predictions = [p for timing in runs for p in timing.predictions]
    start = perf_counter()
    for path in paths:
        Path(path).read_bytes()
    read = 1e3 * (perf_counter() - start) * len(runs)  # read apart: inside the decoder it comes in small pieces
    resize = sum(p.resize_ms or 0 for p in predictions)
    decode = sum(p.decode_ms or 0 for p in predictions) - resize - read
    infer = sum(p.infer_ms or 0 for p in predictions)
    total = 1e3 * protocol.workers * sum(timing.wall_s for timing in runs)
    sums = {"read": read, "decode": decode, "resize": resize, "infer": infer}
    sums["post and idle"] = total - sum(sums.values())
    return {name: {"per_image": value / num_images, "share": value / total} for name, value in sums.items()}


def _by_size(runs: Sequence[Timing]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    lower = 0.0
    for name, upper in SIZE_CLASSES:
        costs = [
            [(p.decode_ms or 0) + (p.infer_ms or 0) for p in timing.predictions if lower <= _pixels(p) < upper]
            for timing in runs
        ]
        if costs[0]:
            p50, p90, p99 = np.percentile(np.concatenate(costs), (50, 90, 99)).tolist()
            rows[name] = {"images": len(costs[0]), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99}
        lower = upper
    return rows


def _pixels(prediction: Prediction) -> int:
    return (prediction.width or 0) * (prediction.height or 0)
