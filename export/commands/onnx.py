"""edge-export onnx: the model file of the runtime."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from typing import Any

from bench.commands.arguments import add_output
from edge.arguments import ArgumentParser
from edge.errors import EdgeError
from edge.exit import DONE, say
from edge.output_files import check_output

from .arguments import PROGRAM, add_run, write_model

HELP = "write the model file that edge-infer reads"
DESCRIPTION = "Write the model file that edge-infer reads. Exit status 6: it would not answer as the run does."
EXAMPLE = 'edge-export onnx RUN --license "CC BY-NC 4.0" -o model.onnx'


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument("--license", default="unspecified", metavar="TEXT", help="licence of the weights, for the file")
    add_run(parser)
    add_output(parser, "the model file to write, .onnx", required=True)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Writes the model file of the runtime."""
    check_output(arguments.output, force=arguments.force)
    from bench.provenance import SEALED, seal
    from edge.progress import Progress
    from train.after.held_out import MIN_CLUSTERS
    from train.checkpoint import IMAGENET, ORIGIN, load_model
    from train.networks.weights import describe

    from ..to_onnx import NUM_STAGES, to_onnx
    from ..to_safetensors import origin_of

    if arguments.run.suffix == ".onnx":
        raise EdgeError(f"{arguments.run}: is a model file, expected a run folder or a checkpoint", exit_status=4)
    model, preprocess, _classes, state = load_model(arguments.run)
    ours = f"weights {state.sources[ORIGIN]}" if ORIGIN in state.sources else None
    weights = "; before, ".join(filter(None, [ours, describe(state.sources.get(IMAGENET, ""))]))
    training: dict[str, Any] = {
        "data": state.data_name,
        **origin_of(state),
        **({"weights": weights} if weights else {}),
        **({"leaky": True} if state.leaky else {}),
    }
    if arguments.license == "unspecified" and not arguments.quiet:
        say(PROGRAM, 'no --license: the file says "unspecified", which edge-submit refuses; --license TEXT states one')
    if ours and not arguments.quiet:
        say(PROGRAM, f"it began with {ours}: their licence applies to this model too")
    calibration = (state.metrics or {}).get("calibration") or {}
    if is_unfinished := state.metrics is None and state.hold_out is not None:
        state_of = f"{arguments.run}: its training is not finished (step {state.step}) and not measured"
        say(PROGRAM, f"{state_of}; edge-train fit --resume goes on from it")
    if not calibration and not is_unfinished and not arguments.quiet:
        few = f"no held-out images to fit a temperature on ({MIN_CLUSTERS} clusters at least)"
        say(PROGRAM, f"{few}: take confidences for an order, not for probabilities")
    metadata = {
        "classes": json.dumps(state.classes, ensure_ascii=False),
        "training": json.dumps(training, ensure_ascii=False),
        SEALED: seal(state.clusters),
        "temperature": str(calibration.get("temperature", 1.0)),
        "license": arguments.license,
    }
    if state.metrics is not None:
        metadata["metrics"] = json.dumps(state.metrics, ensure_ascii=False)
    if state.profile is not None:
        metadata["profile"] = state.profile
    network = state.config["model"]["network"]
    with closing(Progress(NUM_STAGES, unit="stage", quiet=arguments.quiet)) as progress:
        exported, remark = to_onnx(
            model, preprocess=preprocess, metadata=metadata, variant=network, done=progress.update
        )
    if remark and not arguments.quiet:
        say(PROGRAM, remark)
    write_model(arguments, exported.SerializeToString(), state.classes)
    return DONE
