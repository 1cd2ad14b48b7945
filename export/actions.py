"""What each command of edge-export does, once its arguments are read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.exit import DONE, GATE, say
from edge.output_files import check_output, write_output
from train.checkpoint import IMAGENET, load, load_model
from train.networks.pretrained import describe

from .cli import PROGRAM
from .provenance import origin_of


def run_onnx(arguments: argparse.Namespace) -> int:
    """Writes the model file of the runtime."""
    check_output(arguments.output, force=arguments.force)
    from .to_onnx import describe_model, to_onnx

    if arguments.run.suffix == ".onnx":
        raise EdgeError(f"{arguments.run}: is a model file, expected a run folder or a checkpoint", exit_status=4)
    model, preprocess, _, state = load_model(arguments.run)
    training: dict[str, Any] = {
        "data": state.data_name,
        **origin_of(state),
        **({"weights": weights} if (weights := describe(state.sources.get(IMAGENET, ""))) else {}),
        **({"leaky": True} if state.leaky else {}),
    }
    calibration = (state.metrics or {}).get("calibration") or {}
    if not calibration and not arguments.quiet:
        say(PROGRAM, "no held-out images to fit a temperature on: take confidences for an order, not for probabilities")
    metadata = {
        "classes": json.dumps(state.classes, ensure_ascii=False),
        "model": describe_model(model, variant=state.config["model"]["network"], size_px=preprocess.size_px),
        "training": json.dumps(training, ensure_ascii=False),
        "temperature": str(calibration.get("temperature", 1.0)),
        "license": arguments.license,
    }
    if state.metrics is not None:
        metadata["metrics"] = json.dumps(state.metrics, ensure_ascii=False)
    if state.profile is not None:
        metadata["profile"] = state.profile
    exported, remark = to_onnx(model, preprocess=preprocess, metadata=metadata)
    if remark and not arguments.quiet:
        say(PROGRAM, remark)
    _write(arguments, exported.SerializeToString(), state.classes)
    return DONE


def run_weights(arguments: argparse.Namespace) -> int:
    """Writes the weights in training form."""
    check_output(arguments.output, force=arguments.force)
    from .to_safetensors import to_safetensors

    state = load(arguments.run)
    _write(arguments, to_safetensors(state), state.classes)
    return DONE


def run_verify(arguments: argparse.Namespace) -> int:
    """Compares two forms of a model."""
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
    from bench.dataset import read_subset

    from .loaded_model import Pair
    from .verify import table, verify

    subset = None if arguments.subset is None else read_subset(arguments.subset)
    others = [Pair(a, b, read_subset(images)) for a, b, images in arguments.also]
    result = verify(
        arguments.data,
        [Pair(arguments.a, arguments.b, subset), *others],
        label_column=arguments.label,
        group_column=arguments.group,
        allow_leak=arguments.allow_leak,
        quiet=arguments.quiet,
    )
    _write_json(arguments.output, result)
    print("\n".join(table(result)))
    if not arguments.quiet:
        for remark in result["remarks"]:
            say(PROGRAM, remark)
    for failure in result["failures"]:
        say(PROGRAM, f"gate failed: {failure}")
    return GATE if result["failures"] else DONE


def run_info(arguments: argparse.Namespace) -> int:
    """Tells of a model file."""
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
    from .info import read, table

    found = read(arguments.model)
    _write_json(arguments.output, found)
    print("\n".join(table(found)))
    if not arguments.quiet:
        for remark in found["remarks"]:
            say(PROGRAM, remark)
    return DONE


def _write(arguments: argparse.Namespace, content: bytes, classes: list[str]) -> None:
    write_output(arguments.output, content)
    if not arguments.quiet:
        say(PROGRAM, f"{arguments.output}: {len(content) / 1e6:.2f} MB, classes {', '.join(classes)}")


def _write_json(path: Path | None, values: dict[str, Any]) -> None:
    if path is not None:
        write_output(path, json.dumps(values, ensure_ascii=False, indent=1) + "\n")
