"""One .onnx file -> a classifier: the session, the classes and the preprocessing that belong together.

The file describes itself: `metadata_props` carries `fairedge.schema`, `classes` and `preprocess`. A file without
them is refused, because guessing the class order or the pixel scale gives plausible, wrong answers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from .errors import ModelError
from .output_files import protect
from .photo.decode import FILE_TYPES, PixelLimits, Source, check_source
from .photo.preprocess import Preprocess
from .pipeline import RunOptions, run
from .predictions import UNCERTAIN, Prediction, path_text
from .profile import Profile

DEFAULT_MODEL = Path(__file__).parent / "models" / "efficientnet_lite0_ham10_128.int8.onnx"
"""The model that comes with the package, and runs where none is named; its card lies beside it."""

SCHEMA = "edge-model/1"
_INPUT, _OUTPUT = "images", "logits"

_PROBABILITIES = ("Softmax", "Sigmoid", "HardSigmoid", "Exp")
"""Operators that give no logits. LogSoftmax is none of them: softmax makes the same of its result."""

_PASSING = "Identity Cast Reshape Flatten Squeeze Unsqueeze Transpose Clip QuantizeLinear DequantizeLinear Div".split()

_IN_WORDS = (
    (r"model IR version: (\d+), max supported IR version: (\d+)",
     r"made for a newer onnxruntime: IR version \1, this one reads up to \2"),
    (r"Opset (\d+) is under development.*?till opset (\d+)",
     r"made for a newer onnxruntime: opset \1, this one reads up to \2"),
    (r"[Ee]xternal data path.*?(\"[^\"]*\"|$)", r"keeps its weights in another file \1, expected all in one file"),
    (r"protobuf parsing failed", r"damaged, or no ONNX file (protobuf parsing failed)"),
    (r"([\w.:]+)\(-?\d+\) is not a registered function/op", r"needs the operator \1, which this one does not have"),
    (r"No Op registered for (\S+)", r"needs the operator \1, which this one does not have"),
)  # fmt: skip

_PLACE = r"\S+\.(cc|h|cpp|hpp|cuh):\d+ ([\w:<>~*&, ]*::[^ (]+(\([^()]*(\([^()]*\)[^()]*)*\))*( const)? )?"
"""File, line and signature of the C++ that gave a reason, before it."""


class Classifier:
    """A loaded model. Safe to call from several threads at once.

    Attributes:
      path: The model file.
      sha256: Hex digest of its bytes.
      classes: Class names in the order of the logits.
      preprocess: How an image becomes the network's input.
      temperature: Divides the logits before softmax; 1 when the file states none.
      profile: What pictures it learned from; None when the file does not state it.
      metadata: All of the file's metadata, text by name.
    """

    def __init__(self, path: Path, content: bytes, *, intra_op_threads: int = 1) -> None:
        """Builds the session; use `load` for files."""
        self.path = path
        self.sha256, self._num_bytes = hashlib.sha256(content).hexdigest(), len(content)
        self._session = _session(path, content, intra_op_threads)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.classes, self.preprocess, self.temperature, self.profile = _read_metadata(path, self.metadata)
        _check_signature(path, self._session, self.preprocess.size_px, len(self.classes))
        if operator := operator_of_probabilities(content):
            problem = f"gives the result of {operator} as {_OUTPUT}, expected the values before it"
            raise ModelError(f"{path}: {problem}: softmax is done here, and a second one flattens every confidence")

    @classmethod
    def load(cls, path: str | os.PathLike[str] = DEFAULT_MODEL, *, intra_op_threads: int = 1) -> Classifier:
        """Reads a model file.

        Args:
          path: An .onnx file that describes itself (written by `edge-export onnx`).
          intra_op_threads: Threads inside one call. 1 suits many images, where `predict` calls the one session from a
            worker per core (1.98 times on 2 cores, against 1.47 for two threads inside); all cores suit one image.

        Raises:
          ModelError: no such file, no ONNX model, no metadata, or another input or output than the contract's, also
            probabilities in place of logits.
        """
        path = Path(path)
        protect([str(path)])
        try:
            if path.exists() and not path.is_file():  # a pipe would be waited for, a device read for ever
                raise ModelError(f"{path}: model cannot be read: is no regular file")
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise ModelError(f"{path}: no such model file") from error
        except OSError as error:
            raise ModelError(f"{path}: model cannot be read: {error.strerror}") from error
        return cls(path, content, intra_op_threads=intra_op_threads)

    @property
    def training(self) -> dict[str, Any]:
        """What the file says of its training; {} where it says nothing that can be read: it is anybody's text."""
        return _object(self.metadata.get("training"))

    @property
    def description(self) -> dict[str, object]:
        """What people ask of a model, JSON-ready: file, bytes, card beside it, and what its metadata say in short."""
        card = self.path.with_name(f"{self.path.stem.removesuffix('.int8')}.md")
        found: dict[str, object] = {"file": path_text(self.path.name), "bytes": self._num_bytes}
        found |= {"card": path_text(card.name)} if card.is_file() else {}
        found |= {"license": text[:300]} if (text := self.metadata.get("license")) else {}
        for name in ("model", "training"):
            plain = (str, int, float)
            part = _object(self.metadata.get(name)).items()
            found[name] = {key: value for key, value in part if isinstance(value, plain) and len(str(value)) <= 300}
        return found

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Runs the network: (N, S, S, 3) uint8 RGB, as `preprocess` makes them -> (N, C) float32.

        Raises:
          ValueError: `batch` has another shape or dtype.
          ModelError: the network cannot run, or gives another shape.
        """
        side = self.preprocess.size_px
        if batch.ndim != 4 or batch.shape[1:] != (side, side, 3) or batch.dtype != np.uint8:
            raise ValueError(f"batch: got {batch.shape} {batch.dtype}, expected (N, {side}, {side}, 3) uint8")
        try:
            logits: np.ndarray = self._session.run([_OUTPUT], {_INPUT: batch})[0]
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            raise ModelError(f"{self.path}: the model failed to run: {_reason(error)}") from error
        if logits.shape != (expected := (len(batch), len(self.classes))):
            got = f"{_OUTPUT} of shape {logits.shape} for {len(batch)} images"
            raise ModelError(f"{self.path}: got {got}, expected {expected}: a row for each, a number for each class")
        return logits

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(N, C) logits -> (N, C) float32 probabilities, softmax of logits / temperature."""
        with np.errstate(all="ignore"):  # of infinite logits, whose rows are errors
            scaled = logits.astype(np.float64) / self.temperature
            exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
            probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
            return probabilities.astype(np.float32)

    def __call__(self, image: Source, *, limits: PixelLimits = PixelLimits()) -> Prediction:
        """Classifies one image; one that cannot be used has `status == "error"`.

        Args:
          image: A path, the bytes of an image file, a PIL image, or an (H, W, 3) uint8 array of RGB.
          limits: Largest accepted pictures.

        Raises:
          ModelError: the network cannot run.
          TypeError: not an image.
          ValueError: an array of another shape or dtype.
        """
        check_source(image, "image")
        return next(self.predict([image], workers=1, batch_size=1, limits=limits))

    def predict(
        self,
        sources: Iterable[Source],
        *,
        workers: int | None = None,
        batch_size: int = 4,
        limits: PixelLimits = PixelLimits(),
        min_confidence: float = 0.0,
        max_memory_bytes: int | None = None,
    ) -> Generator[Prediction, None, None]:
        """Classifies images, in input order and in bounded memory.

        Args:
          sources: Paths, bytes, PIL images and arrays as above, also mixed. Consumed as needed. The answer to a large
            JPEG's file may differ a little from that to its decoded picture: a file is decoded to no more pixels than
            are needed.
          workers, batch_size, limits, min_confidence, max_memory_bytes: As the fields of `edge.pipeline.RunOptions`.

        Yields:
          One `Prediction` per source; an image that cannot be used has `status == "error"`.

        Raises:
          ModelError: the network cannot run.
          TypeError: `sources` is a single image, or one of them is none.
          ValueError: an array of another shape or dtype, or an option out of its range.
        """
        if isinstance(sources, FILE_TYPES) or hasattr(sources, "__array_interface__"):
            raise TypeError(f"sources: got one {type(sources).__name__}, expected an iterable of images, as [source]")
        return run(self, sources, RunOptions(workers, batch_size, limits, min_confidence, max_memory_bytes))


def _session(path: Path, content: bytes, intra_op_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = intra_op_threads, 1
    options.log_severity_level = 4  # what goes wrong is raised; warnings on stderr are noise to a user
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        raise ModelError(f"{path}: not a usable ONNX model ({len(content)} bytes): {_reason(error)}") from error


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}", parse_constant=lambda _: None)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):  # also half a surrogate pair and 1e999, which no file of ours can hold
        return {}
    return found if isinstance(found, dict) else {}


def _read_metadata(path: Path, metadata: dict[str, str]) -> tuple[tuple[str, ...], Preprocess, float, Profile | None]:
    missing = [key for key in ("fairedge.schema", "classes", "preprocess") if key not in metadata]
    if missing:
        raise ModelError(
            f"{path}: the model does not describe itself: no metadata {', '.join(missing)}; "
            "export it with: edge-export onnx RUN -o model.onnx"
        )
    if metadata["fairedge.schema"] != SCHEMA:
        raise ModelError(f"{path}: got model schema {metadata['fairedge.schema']!r}, expected {SCHEMA!r}")
    try:
        classes: Any = json.loads(metadata["classes"])
        if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
            raise ValueError(f"classes: got {metadata['classes'][:80]!r}, expected a JSON list of names")
        if len(classes) < 2 or len(set(classes)) != len(classes):
            raise ValueError(f"classes: got {classes}, expected at least two, each once")
        if UNCERTAIN in classes or any("\n" in name or "\r" in name for name in classes):
            raise ValueError(f"classes: got {classes}, expected none with a line end or named {UNCERTAIN!r}")
        "".join(classes).encode()
        temperature = float(metadata.get("temperature", "1"))
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature: got {metadata['temperature']!r}, expected a positive number")
        profile = Profile.from_json(metadata["profile"]) if "profile" in metadata else None
        return tuple(classes), Preprocess.from_json(metadata["preprocess"]), temperature, profile
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{path}: unusable metadata: {_reason(error)}") from error


def _check_signature(path: Path, session: ort.InferenceSession, side: int, num_classes: int) -> None:
    def describe(nodes: list[Any]) -> str:
        return ", ".join(f"{node.name} {node.type.removeprefix('tensor')} {node.shape}" for node in nodes) or "nothing"

    inputs, outputs = session.get_inputs(), session.get_outputs()
    found = [(node.name, node.type, node.shape[1:]) for node in inputs]
    if found != [(_INPUT, "tensor(uint8)", [side, side, 3])] or isinstance(inputs[0].shape[0], int):
        raise ModelError(f"{path}: got input {describe(inputs)}, expected {_INPUT} (uint8) ['N', {side}, {side}, 3]")
    logits = [node for node in outputs if node.name == _OUTPUT]  # whatever else a file gives is for others
    if [(node.type, len(node.shape), node.shape[-1:]) for node in logits] != [("tensor(float)", 2, [num_classes])]:
        expected = f"{_OUTPUT} (float) ['N', {num_classes}] for its {num_classes} classes"
        raise ModelError(f"{path}: got output {describe(logits or outputs)}, expected {expected}")


def operator_of_probabilities(content: bytes) -> str:
    """The operator of `_PROBABILITIES` whose result a model file gives as logits, also passed on; "" if there is none.

    Source: onnx.proto, whose fields are read here: ModelProto.graph 7, GraphProto.node 1, and of NodeProto input 1,
    output 2, op_type 4.
    """
    if not any(b'"' + bytes([len(name)]) + name.encode() in content for name in _PROBABILITIES):  # a node's field 4
        return ""
    wanted = _OUTPUT.encode()
    nodes = [node for graph in _fields(content, 7) for node in _fields(graph, 1)]
    for node in reversed(nodes):  # they are sorted: each comes behind those that it needs
        if wanted in _fields(node, 2):
            operator = b"".join(_fields(node, 4)).decode("ascii", "replace")
            if operator not in _PASSING:
                return operator if operator in _PROBABILITIES else ""
            wanted = next(_fields(node, 1), b"")
    return ""


def _fields(message: bytes, number: int) -> Iterator[bytes]:
    """The texts and messages under a number in a message of protocol buffers; it ends where that is damaged."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        for byte in message[place : place + 10]:
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        return value

    while place < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            varint()
        elif kind == 2:
            size = varint()
            if key >> 3 == number:
                yield message[place : place + size]
            place += size
        else:
            place += {1: 8, 5: 4}.get(kind, len(message))


def _reason(error: Exception) -> str:
    """One line of why onnxruntime refuses: without the C++ in front of it, in plain words where they are known."""
    text = " ".join(str(error).split()) or type(error).__name__
    for pattern, words in _IN_WORDS:
        if found := re.search(pattern, text):
            return found.expand(words).replace("this one", f"onnxruntime {ort.__version__}")
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(_PLACE, "", text.replace("(anonymous namespace)", ""))
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-195:]}"
