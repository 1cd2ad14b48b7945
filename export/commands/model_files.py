"""edge-export onnx, weights and int8: what writes a model file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.arguments import add_output
from edge.arguments import ArgumentParser, natural, whole
from edge.errors import EdgeError
from edge.exit import DONE, say
from edge.output_files import check_output, write_output
from train.commands.arguments import add_columns

from . import PROGRAM

if TYPE_CHECKING:
    from train.checkpoint import Checkpoint


def add_weights(parser: ArgumentParser) -> None:
    """Adds the flags of edge-export weights."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or checkpoint")
    add_output(parser, "the file to write", required=True)


def add_onnx(parser: ArgumentParser) -> None:
    """Adds the flags of edge-export onnx."""
    parser.add_argument("--license", default="unspecified", metavar="TEXT", help="licence of the weights")
    add_weights(parser)


def add_int8(parser: ArgumentParser) -> None:
    """Adds the flags of edge-export int8."""
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="a float model file")
    add("--calibrate", type=Path, required=True, metavar="DATA", help="data set to choose images from")
    add_columns(parser)
    add("--held-out", type=Path, metavar="FILE", help="paths not to calibrate on, one a line")
    add("--images", type=_calibration_size, default=512, metavar="N", help="to calibrate on (512)")
    add("--seed", type=natural, default=0, metavar="N", help="of the choice (0)")
    add_output(parser, "the file to write", required=True)


def onnx(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Writes the model file of the runtime."""
    check_output(arguments.output, force=arguments.force)
    from train.checkpoint import IMAGENET, load_model
    from train.networks.weights import describe

    from ..to_onnx import to_onnx

    if arguments.run.suffix == ".onnx":
        raise EdgeError(f"{arguments.run}: is a model file, expected a run folder or a checkpoint", exit_status=4)
    model, preprocess, classes, state = load_model(arguments.run)
    training = {
        "data": state.data_name,
        **_origin_of(state),
        **({"weights": weights} if (weights := describe(state.sources.get(IMAGENET, ""))) else {}),
        **({"leaky": True} if state.leaky else {}),
    }
    calibration = (state.metrics or {}).get("calibration") or {}
    if not calibration and not arguments.quiet:
        say(PROGRAM, "no held-out images to fit a temperature on: take confidences for an order, not for probabilities")
    metadata = {
        "classes": json.dumps(classes, ensure_ascii=False),
        "training": json.dumps(training, ensure_ascii=False),
        "temperature": str(calibration.get("temperature", 1.0)),
        "license": arguments.license,
    }
    if state.metrics is not None:
        metadata["metrics"] = json.dumps(state.metrics, ensure_ascii=False)
    if state.profile is not None:
        metadata["profile"] = state.profile
    variant = state.config["model"]["network"]
    exported, remark = to_onnx(model, preprocess=preprocess, metadata=metadata, variant=variant)
    if remark and not arguments.quiet:
        say(PROGRAM, remark)
    return _write(arguments, exported.SerializeToString(), classes)


def weights(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Writes the weights in training form."""
    check_output(arguments.output, force=arguments.force)
    from train.checkpoint import load

    state = load(arguments.run)
    return _write(arguments, to_safetensors(state), tuple(state.classes))


def int8(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Quantises a model file."""
    import onnx

    from bench.dataset import index, read_subset
    from bench.provenance import cluster_marks, marks_sha256
    from edge.classifier import Classifier
    from edge.predictions import path_text
    from train.data.images import load_images

    from ..int8.calibrate import choose_calibration
    from ..int8.quantize import quantize

    check_output(arguments.output, force=arguments.force)
    classifier = Classifier.load(arguments.model)
    samples = index(arguments.calibrate, label_column=arguments.label, group_column=arguments.group)
    if others := sorted({sample.label for sample in samples} - {*classifier.classes}):
        expected = ", ".join(classifier.classes)
        raise EdgeError(f"{arguments.calibrate}: got images of {', '.join(others)}, expected {expected}")
    held_out = {*read_subset(arguments.held_out)} if arguments.held_out is not None else set()
    if unknown := sorted(held_out - {path_text(sample.path) for sample in samples}):
        got = f"{len(unknown)} paths that are no image of the data, first {unknown[0]}"
        raise EdgeError(f"{arguments.held_out}: got {got}")
    if not held_out and not arguments.quiet:
        say(PROGRAM, "no --held-out: images of all of the data serve, so none of it can judge the result")
    free = [sample for sample in samples if path_text(sample.path) not in held_out]
    places = choose_calibration([s.label for s in free], [s.group for s in free], arguments.images, arguments.seed)
    chosen = [free[i] for i in places]
    calibration = load_images(arguments.calibrate, chosen, classifier.preprocess, quiet=arguments.quiet)
    if calibration.unusable and not arguments.quiet:
        say(PROGRAM, f"{len(calibration.unusable)} of {len(chosen)} images to calibrate on cannot be used")
    digest = marks_sha256(cluster_marks(chosen))
    quantized = quantize(onnx.load(arguments.model), calibration.pixels, marks_sha256=digest)
    return _write(arguments, quantized.SerializeToString(), classifier.classes)


def to_safetensors(checkpoint: Checkpoint) -> bytes:
    """The averaged weights of a run, float32, with config, classes, preprocess and origin in the metadata."""
    from safetensors.torch import save

    metadata = {
        "config": json.dumps(checkpoint.config),
        "classes": json.dumps(checkpoint.classes, ensure_ascii=False),
        "preprocess": checkpoint.preprocess,
        "training": json.dumps(_origin_of(checkpoint), ensure_ascii=False),
        **({"leaky": "true"} if checkpoint.leaky else {}),
    }
    return save({name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}, metadata)


def _origin_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What identifies a run in all of its exports, JSON-ready."""
    from bench.provenance import marks_sha256

    return {
        "recipe": checkpoint.recipe,
        "commit": checkpoint.commit,
        "cluster_sha256": marks_sha256(checkpoint.clusters),
        "hold_out": checkpoint.hold_out,
    }


def _write(arguments: argparse.Namespace, content: bytes, classes: tuple[str, ...]) -> int:
    """Writes the output, and says what it is."""
    write_output(arguments.output, content)
    if not arguments.quiet:
        say(PROGRAM, f"{arguments.output}: {len(content) / 1e6:.2f} MB, classes {', '.join(classes)}")
    return DONE


def _calibration_size(text: str) -> int:
    return whole(text, least=16)
