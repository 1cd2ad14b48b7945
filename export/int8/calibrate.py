"""What the activations of a network look like on calibration images, and the range that int8 gives each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from ..graph import readers_of, session_of

PERCENTILE = 99.999
_NUM_BINS = 2048
_BATCH = 4  # every activation of a batch is in memory at once: 300 MB with the largest network at 224 px


def choose_calibration(labels: Sequence[str], groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Draws calibration images evenly from the cells of class x group.

    Drawn evenly over images, a range would be set by the commonest class and the largest group, and clip the others'.

    Args:
      labels: (N,) class of each image.
      groups: (N,) group of each image.
      count: Images to choose; cells with too few give all of theirs, and the others make up for it.
      seed: Of the drawing.

    Returns:
      (min(count, N),) int64 indices, ascending.
    """
    rng = np.random.default_rng(seed)
    cells: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(zip(labels, groups, strict=True)):
        cells.setdefault(cell, []).append(i)
    shuffled = [rng.permutation(cells[cell]) for cell in sorted(cells)]
    # (turn, lot, index): a cell's k-th image comes in turn k, and lots decide between cells in the last one.
    turns = [(turn, rng.random(), int(i)) for cell in shuffled for turn, i in enumerate(cell)]
    return np.array(sorted(i for _, _, i in sorted(turns)[:count]), np.int64)


def measure(
    model: onnx.ModelProto,
    names: Sequence[str],
    images: np.ndarray,
    figure: Callable[[int, np.ndarray], np.ndarray],
    combine: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.add,
) -> list[np.ndarray]:
    """A figure of each of some inner tensors over all images.

    Args:
      model: Input `images`.
      names: Of the tensors.
      images: (N, S, S, 3) uint8 RGB.
      figure: Of a tensor's index in `names` and its values for a few images.
      combine: Of the figures of two parts of the images.
    """
    if not names:
        return []  # onnxruntime takes no name for all
    session = session_of(model, names)
    found: list[np.ndarray] = []
    for start in range(0, len(images), _BATCH):
        values = session.run(names, {"images": images[start : start + _BATCH]})
        figures = [figure(i, value) for i, value in enumerate(values)]
        found = [combine(a, b) for a, b in zip(found, figures, strict=True)] if found else figures
    return found


def activation_ranges(model: onnx.ModelProto, images: np.ndarray) -> dict[str, tuple[float, float]]:
    """The (low, high) that int8 gives every float tensor but constants and outputs, by name, low <= 0 <= high.

    A tensor that only goes into a ReLU or a Clip has that one's: what is cut off afterwards needs no room.
    """
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    readers = readers_of(model)
    clips = [node for node in nodes if node.op_type in ("Relu", "Clip") and len(readers[node.input[0]]) == 1]
    clipped = {node.input[0]: node.output[0] for node in clips}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*inferred.value_info, *inferred.output)}
    names = [name for node in nodes for name in node.output if types.get(name) == onnx.TensorProto.FLOAT]
    own = {output.name for output in model.graph.output}
    inner = [name for name in names if name not in clipped and name not in own]

    # A quantised tensor must hold zero exactly, because convolutions pad with it.
    ends = measure(  # (-low, high)
        model, inner, images,
        lambda _, values: np.array([-values.min(), values.max()], np.float64).clip(0), np.maximum,
    )

    def histogram(index: int, values: np.ndarray) -> np.ndarray:
        low, high = -ends[index][0], ends[index][1]
        place = (values.ravel() - np.float32(low)) * np.float32(_NUM_BINS / max(high - low, 1e-30))
        return np.bincount(np.minimum(place, _NUM_BINS - 1).astype(np.int32), minlength=_NUM_BINS)

    counts = measure(model, inner, images, histogram)
    found = {name: clipped_range(-low, high, n) for name, (low, high), n in zip(inner, ends, counts, strict=True)}
    for name in reversed(names):  # backwards: a Clip may follow a ReLU
        if clipped.get(name) in found:
            found[name] = found[clipped[name]]
    return found


def clipped_range(low: float, high: float, counts: np.ndarray) -> tuple[float, float]:
    """The ends between which 99.999 % of a tensor's values lie; the others are clipped.

    As onnxruntime's percentile: half of what is cut lies at either end, where there are values of either sign.

    Args:
      low: Smallest value, at most 0.
      high: Largest value, at least 0.
      counts: (2048,) values in equal bins from `low` to `high`.
    """
    share = np.cumsum(counts) / max(1, counts.sum())
    cut = (1 - PERCENTILE / 100) / 2
    edges = np.linspace(low, high, _NUM_BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    first = centres[np.searchsorted(share, cut)] if low < 0 else 0.0
    last = centres[min(int(np.searchsorted(share, 1 - cut)), _NUM_BINS - 1)]
    return min(0.0, float(first)), max(0.0, float(last))
