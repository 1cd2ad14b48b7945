"""Latency the contest's way: seconds per 100 photos, from file path to label, over the shipped pipeline.

What is timed is `edge.pipeline.run` itself, as `edge-infer` calls it. In the same loop stands the bound: bare Pillow
scaled decoding and the bare session on the same bytes, one after the other, divided by the workers. What lies between
the two is ours to lose.

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
import psutil
from PIL import Image

from edge import device
from edge.classifier import Classifier
from edge.errors import EdgeError
from edge.pipeline import RunOptions, run
from edge.predictions import Prediction

from ..metrics.contest import latency_score
from .peers import bare_network

SIZE_CLASSES = (("small", 1_000_000), ("medium", 9_000_000), ("large", math.inf))
"""Name and upper bound in pixels. Source: the winners' slides count images below 1000^2, between, above 3000^2."""


@dataclass(frozen=True)
class Protocol:
    """How a latency is measured."""

    sample: int = 100  # images drawn, each once
    runs: int = 10  # timed iterations over the sample
    seed: int = 0  # of the draw
    workers: int = 1  # threads of the pipeline
    batch_size: int = 4  # images per call of the network


@dataclass(frozen=True)
class Timing:
    """One timed iteration."""

    wall_s: float
    cpu_s: float
    bound_s: float  # CPU time of bare decoding and bare inference, one thread, not divided
    predictions: list[Prediction]


class NullClassifier(Classifier):
    """A classifier whose network does nothing: what remains is the harness's own cost."""

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) uint8 -> (N, C) float32 zeros."""
        return np.zeros((len(batch), len(self.classes)), np.float32)


def draw(classifier: Classifier, paths: Sequence[str], protocol: Protocol) -> tuple[list[str], list[Prediction], float]:
    """Draws the sample and runs it once, as warm-up and to leave out what cannot be decoded.

    Gives the usable paths in drawn order, the error rows met, and the seconds until the first result.

    Raises:
      EdgeError: no image can be used.
    """
    waiting = [paths[i] for i in np.random.default_rng(protocol.seed).permutation(len(paths))]
    usable: list[str] = []
    errors: list[Prediction] = []
    start, first_s = perf_counter(), 0.0
    while waiting and (missing := protocol.sample - len(usable)):
        tried, waiting = waiting[:missing], waiting[missing:]
        for prediction in run(classifier, tried, RunOptions(protocol.workers, protocol.batch_size)):
            first_s = first_s or perf_counter() - start
            if prediction.status == "ok":
                usable.append(prediction.path)
            else:
                errors.append(prediction)
    if not usable:
        raise EdgeError(f"none of {len(paths)} images can be used; first: {errors[0].error if errors else 'none'}")
    return usable, errors, first_s


def timings(classifier: Classifier, paths: Sequence[str], protocol: Protocol) -> Iterator[Timing]:
    """Yields one `Timing` per run, ours and the bound in turn (A B A B), so that a drift of the machine hits both."""
    bare = _bare_network(classifier)
    contents = [Path(path).read_bytes() for path in paths]
    _bound_s(classifier, bare, contents[:1], protocol.batch_size)
    for _ in range(protocol.runs):
        gc.collect()
        wall, cpu = perf_counter(), process_time()
        predictions = list(run(classifier, paths, RunOptions(protocol.workers, protocol.batch_size)))
        wall, cpu = perf_counter() - wall, process_time() - cpu
        yield Timing(wall, cpu, _bound_s(classifier, bare, contents, protocol.batch_size), predictions)


def summarize(
    runs: Sequence[Timing], paths: Sequence[str], errors: Sequence[Prediction], protocol: Protocol, first_s: float
) -> dict[str, Any]:
    """The `latency` part of a results file, JSON-ready; seconds unless a name says otherwise."""
    walls = [timing.wall_s for timing in runs]
    seconds = statistics.fmean(walls) * (100 / len(paths))
    return {
        "seconds_per_100": seconds,
        "score": latency_score(seconds),
        "samples": {"wall_s": walls, "cpu_s": [t.cpu_s for t in runs], "bound_cpu_s": [t.bound_s for t in runs]},
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
    session = f"onnxruntime.InferenceSession({str(model)!r}, providers=['CPUExecutionProvider'])"
    commands = {
        "command_ms": ["-m", "edge", "-q", "-m", str(model), image],
        "python_ms": ["-c", "pass"],
        "python_and_imports_ms": ["-c", imports],
        "python_imports_and_session_ms": ["-c", f"{imports}; {session}"],
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


class Watch:
    """Looks at the machine before and after a timed run, and says what disturbed it."""

    def __init__(self) -> None:
        """Records the state before."""
        self._before, self._others_s, self._start = device.record(), _others_s(), perf_counter()

    def finish(self, latency: dict[str, Any]) -> dict[str, Any]:
        """The `machine`, `valid` and `reasons` parts of a results file."""
        before, after = self._before, device.record()
        others = max(0.0, (_others_s() - self._others_s) / (perf_counter() - self._start))
        reasons = [*_machine_reasons(before, after, others), *_run_reasons(latency)]
        machine = {"before": before, "after": after, "other_load_cores": round(others, 2)}
        return {"machine": machine, "valid": not reasons, "reasons": reasons}


def _others_s() -> float:
    """CPU seconds that all cores of the machine have spent on other processes."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0)
    return float(sum(times) - idle) - process_time()


def _machine_reasons(before: dict[str, Any], after: dict[str, Any], others: float) -> Iterator[str]:
    if now := int(after["throttled"] or 0):
        if now & 0xF or now >> 16 & ~(int(before["throttled"] or 0) >> 16):  # now, or since boot and not before
            yield f"throttled: {', '.join(after['throttled_reasons'])}"
    if after["governor"] not in (None, "performance"):
        yield f"governor is {after['governor']}, expected performance"
    if others > 0.5:
        yield f"other processes used {others:.1f} cores, expected at most 0.5"
    swapped = (after["swap_used_mb"] or 0) - (before["swap_used_mb"] or 0)
    if swapped > 10:
        yield f"{swapped} MB went to swap"


def _run_reasons(latency: dict[str, Any]) -> Iterator[str]:
    if latency["protocol"]["runs"] < 10:
        yield f"{latency['protocol']['runs']} runs, expected at least 10"
    if latency["images"] < 100:
        yield f"{latency['images']} images, expected at least 100"
    if latency["spread"] > 0.1:
        yield f"the runs differ by {latency['spread']:.0%}, expected at most 10 %"
    for name, row in latency["by_size"].items():
        if row["p99_ms"] > 3 * row["p50_ms"] and name != "medium":  # medium spans a factor of 9 in pixels by itself
            yield f"{name} images: p99 is {row['p99_ms'] / row['p50_ms']:.1f} times p50, expected at most 3"


def _bare_network(classifier: Classifier) -> Callable[[np.ndarray], object]:
    if isinstance(classifier, NullClassifier):
        return classifier.logits
    return bare_network(classifier.path.read_bytes(), 1)[1]


def _bound_s(
    classifier: Classifier, network: Callable[[np.ndarray], object], contents: Sequence[bytes], batch_size: int
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
        network(batch[: len(contents) - first])
    return process_time() - start


def _stages_ms(runs: Sequence[Timing], paths: Sequence[str], protocol: Protocol) -> dict[str, dict[str, float]]:
    """Milliseconds per image and share of the workers' wall time, stage by stage; they add up to all of it."""
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
    num_images = len(paths) * len(runs)
    return {name: {"per_image": value / num_images, "share": value / total} for name, value in sums.items()}


def _by_size(runs: Sequence[Timing]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    lower = 0.0
    for name, upper in SIZE_CLASSES:
        found = [p for t in runs for p in t.predictions if lower <= (p.width or 0) * (p.height or 0) < upper]
        if found:
            costs = [(p.decode_ms or 0) + (p.infer_ms or 0) for p in found]
            p50, p90, p99 = np.percentile(costs, (50, 90, 99)).tolist()
            rows[name] = {"images": len(found) // len(runs), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99}
        lower = upper
    return rows
