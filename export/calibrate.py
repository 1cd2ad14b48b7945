"""What the activations of a network look like on calibration images, and the range that int8 gives each of them.

One histogram per tensor serves every way to choose a range, so a search over them runs the network once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort

_NUM_BINS = 2048
_LEVELS = 255  # steps of a uint8
_BATCH = 4  # every activation of a batch is in memory at once: 300 MB with the largest network at 224 px


@dataclass(frozen=True)
class Histogram:
    """All values of one activation tensor."""

    low: float
    """Smallest value, at most 0: a quantised tensor must hold zero exactly, because convolutions pad with it."""
    high: float
    """Largest value, at least 0."""
    counts: np.ndarray
    """(2048,) int64 values in equal bins from `low` to `high`."""

    def centres(self) -> np.ndarray:
        """(2048,) float64 middles of the bins."""
        edges = np.linspace(self.low, self.high, _NUM_BINS + 1)
        return np.asarray((edges[:-1] + edges[1:]) / 2)


def choose_calibration(labels: Sequence[str], groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Draws calibration images evenly from the cells of class x group.

    Drawn evenly over images, a range would be set by the commonest class and the largest group, and clip the others'.

    Args:
      labels: (N,) class of each image.
      groups: (N,) group of each image.
      count: Images to choose; cells with too few give all of theirs, and the others make up for it.
      seed: Of the drawing.

    Returns:
      min(count, N) indices, ascending.
    """
    rng = np.random.default_rng(seed)
    cells: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(zip(labels, groups, strict=True)):
        cells.setdefault(cell, []).append(i)
    shuffled = [rng.permutation(cells[cell]) for cell in sorted(cells)]
    # (turn, lot, index): a cell's k-th image comes in turn k, and lots decide between cells in the last one.
    turns = [(turn, rng.random(), int(i)) for cell in shuffled for turn, i in enumerate(cell)]
    return np.array(sorted(i for _, _, i in sorted(turns)[:count]), np.int64)


def session_of(model: onnx.ModelProto, outputs: Sequence[str] = (), *, optimize: bool = True) -> ort.InferenceSession:
    """A session of one thread that also returns inner tensors.

    Args:
      model: Not changed.
      outputs: Names of inner tensors, returned after the model's own outputs.
      optimize: False keeps every node as written, and so computes with integers as floats: without the saturation of
        some processors' int8 instructions, and with every tensor of the file in place.
    """
    if outputs:
        model = _with_outputs(model, outputs)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def batches(session: ort.InferenceSession, outputs: Sequence[str], images: np.ndarray) -> Iterator[list[np.ndarray]]:
    """The outputs of these names of a session, a few images at a time."""
    for start in range(0, len(images), _BATCH):
        batch = np.ascontiguousarray(images[start : start + _BATCH])
        yield session.run(outputs, {"images": batch}) if outputs else []  # onnxruntime takes no name for all


def collect(model: onnx.ModelProto, images: np.ndarray) -> dict[str, Histogram]:
    """The histogram of every float tensor but constants, in the order of the graph.

    Args:
      model: float32, input `images`.
      images: (N, S, S, 3) uint8 RGB.

    Returns:
      Histogram by name. A tensor that goes into a ReLU or a Clip alone has that one's: what is cut off afterwards needs
      no room.
    """
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    consumers = consumers_of(model)
    clipped = {
        node.input[0]: node.output[0]
        for node in nodes
        if node.op_type in ("Relu", "Clip") and len(consumers[node.input[0]]) == 1
    }
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*inferred.value_info, *inferred.output)}
    names = [name for node in nodes for name in node.output if types.get(name) == onnx.TensorProto.FLOAT]
    own = {output.name for output in model.graph.output}
    inner = [name for name in names if name not in clipped and name not in own]
    session = session_of(model, inner)
    bounds = {name: (0.0, 0.0) for name in inner}
    for values in batches(session, inner, images):
        for name, value in zip(inner, values, strict=True):
            low, high = bounds[name]
            bounds[name] = min(low, float(value.min())), max(high, float(value.max()))
    counts = {name: np.zeros(_NUM_BINS, np.int64) for name in inner}
    for values in batches(session, inner, images):
        for name, value in zip(inner, values, strict=True):
            low, high = bounds[name]
            place = (value.ravel() - np.float32(low)) * np.float32(_NUM_BINS / max(high - low, 1e-30))
            bins = np.minimum(place, _NUM_BINS - 1).astype(np.int32)
            counts[name] += np.bincount(bins, minlength=_NUM_BINS)
    histograms = {name: Histogram(*bounds[name], counts[name]) for name in inner}
    for name in reversed(names):  # backwards: a Clip may follow a ReLU
        if name in clipped and clipped[name] in histograms:
            histograms[name] = histograms[clipped[name]]
    return {name: histograms[name] for name in names if name in histograms}


def mean_outputs(session: ort.InferenceSession, outputs: Sequence[str], images: np.ndarray) -> list[np.ndarray]:
    """The mean over images and positions of the outputs of these names of a session, float64, one (D,) each."""
    sums: list[np.ndarray] = []
    for values in batches(session, outputs, images):
        means = [value.mean(axis=tuple(range(2, value.ndim)), dtype=np.float64).sum(axis=0) for value in values]
        sums = [a + b for a, b in zip(sums, means, strict=True)] if sums else means
    return [total / len(images) for total in sums]


def consumers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    return consumers


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    own = {output.name for output in model.graph.output}
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)
    return extended


# Ranges


def _minmax(histogram: Histogram) -> tuple[float, float]:
    return histogram.low, histogram.high


def _percentile(percent: float) -> Callable[[Histogram], tuple[float, float]]:
    """As onnxruntime's: half of what is cut lies at either end, where there are values of either sign."""

    def choose(histogram: Histogram) -> tuple[float, float]:
        share = np.cumsum(histogram.counts) / max(1, histogram.counts.sum())
        cut = (1 - percent / 100) / 2
        centres = histogram.centres()
        low = centres[np.searchsorted(share, cut)] if histogram.low < 0 else 0.0
        high = centres[min(int(np.searchsorted(share, 1 - cut)), _NUM_BINS - 1)]
        return min(0.0, float(low)), max(0.0, float(high))

    return choose


def _cheapest(cost: Callable[[Histogram, float, float], float]) -> Callable[[Histogram], tuple[float, float]]:
    """Both ends drawn in together, one hundredth of the whole range at a time."""

    def choose(histogram: Histogram) -> tuple[float, float]:
        shares = np.arange(100, 19, -1) / 100
        costs = [cost(histogram, histogram.low * share, histogram.high * share) for share in shares]
        best = float(shares[int(np.argmin(costs))])
        return histogram.low * best, histogram.high * best

    return choose


def _levels(histogram: Histogram, low: float, high: float) -> np.ndarray:
    """(2048,) the level from 0 to 255 that each bin gets."""
    step = max(high - low, 1e-30) / _LEVELS
    return np.asarray(np.clip(np.round((histogram.centres() - low) / step), 0, _LEVELS).astype(np.int64))


def _squared_error(histogram: Histogram, low: float, high: float) -> float:
    restored = low + _levels(histogram, low, high) * ((high - low) / _LEVELS)
    return float(np.dot(histogram.counts, (histogram.centres() - restored) ** 2))


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """Kullback-Leibler divergence of the clipped values from the quantised ones.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017: values beyond the range count at its ends in the first
    distribution, and are left out before the second is merged into levels and spread over the bins in use. Zeros, of
    which a ReLU makes many and which every range holds exactly, do not count.
    """
    centres = histogram.centres()
    inside = (centres >= low) & (centres <= high)
    counts = np.where(np.abs(centres) < (histogram.high - histogram.low) / _NUM_BINS, 0, histogram.counts)
    kept = np.where(inside, counts, 0).astype(np.float64)
    clipped = kept.copy()
    first, last = np.flatnonzero(inside)[[0, -1]]  # zero is always inside
    clipped[first] += counts[:first].sum()
    clipped[last] += counts[last + 1 :].sum()
    used = (clipped > 0) & inside
    levels = _levels(histogram, low, high)
    merged = np.bincount(levels, kept, minlength=_LEVELS + 1)
    width = np.bincount(levels[used], minlength=_LEVELS + 1)
    spread = merged[levels[used]] / width[levels[used]]
    if not kept.any():
        return np.inf
    p, q = clipped[used] / clipped.sum(), np.maximum(spread, 1e-9) / max(kept.sum(), 1e-9)
    return float(np.dot(p, np.log(p / q)))


RANGES: dict[str, Callable[[Histogram], tuple[float, float]]] = {
    "minmax": _minmax,
    "percentile-99.999": _percentile(99.999),
    "percentile-99.99": _percentile(99.99),
    "entropy": _cheapest(_divergence),
    "mse": _cheapest(_squared_error),
}
"""Ways to choose the (low, high) of a tensor, low <= 0 <= high. Values beyond it are clipped, those within get finer
steps."""
