"""What the activations of a network look like on calibration images, and the range that int8 gives each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort

PERCENTILE = 99.999
_NUM_BINS = 2048
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


def clipped_range(histogram: Histogram) -> tuple[float, float]:
    """The (low, high) that int8 gives a tensor, low <= 0 <= high: 99.999 % of its values, the others are clipped.

    As onnxruntime's percentile: half of what is cut lies at either end, where there are values of either sign.
    """
    share = np.cumsum(histogram.counts) / max(1, histogram.counts.sum())
    cut = (1 - PERCENTILE / 100) / 2
    centres = histogram.centres()
    low = centres[np.searchsorted(share, cut)] if histogram.low < 0 else 0.0
    high = centres[min(int(np.searchsorted(share, 1 - cut)), _NUM_BINS - 1)]
    return min(0.0, float(low)), max(0.0, float(high))
