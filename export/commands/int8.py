"""edge-export int8: a quantised model file."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from bench.commands.arguments import add_columns, add_output
from edge.arguments import ArgumentParser, natural, whole
from edge.errors import EdgeError
from edge.exit import DONE, remark, say
from edge.output_files import check_output

from .arguments import PROGRAM, write_model

HELP = "quantise a model file: a quarter of the size, and faster"
EXAMPLE = """\
edge-export int8 model.onnx --calibrate DATA --held-out RUN/heldout.txt \\
    -o model.int8.onnx"""
_NUM_TRIED = 64


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="a float model file, .onnx")
    add("--calibrate", type=Path, required=True, metavar="DATA", help="data set with pictures to calibrate on")
    add_columns(parser)
    add("--held-out", type=Path, metavar="FILE", help="leave these pictures out: paths, one a line, as RUN/heldout.txt")
    text = "how many images to calibrate on"
    parser.keep(add("-n", "--count", type=_calibration_size, default=512, metavar="N", help=text), "--images")
    add("--seed", type=natural, default=0, metavar="N", help="of the choice of images")
    add_output(parser, "the model file to write, .onnx", required=True)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Quantises a model file."""
    import onnx

    from bench.dataset import index, read_subset
    from bench.provenance import cluster_marks, marks_sha256
    from bench.remarks import one_answer
    from edge.classifier import Classifier
    from edge.predictions import path_text
    from edge.progress import Progress
    from train.data.images import load_images

    from ..int8.calibrate import choose_calibration
    from ..int8.quantize import NUM_STAGES, quantize

    check_output(arguments.output, force=arguments.force)
    classifier = Classifier.load(arguments.model)
    samples = index(arguments.calibrate, label_column=arguments.label, group_column=arguments.group)
    others = sorted({sample.label for sample in samples} - {*classifier.classes})
    if others:
        expected = ", ".join(classifier.classes)
        raise EdgeError(f"{arguments.calibrate}: got images of {', '.join(others)}, expected {expected}")
    held_out = {*read_subset(arguments.held_out)} if arguments.held_out is not None else set()
    if unknown := sorted(held_out - {path_text(sample.path) for sample in samples}):
        got = f"{len(unknown)} paths that are no image of the data, first {unknown[0]}"
        raise EdgeError(f"{arguments.held_out}: got {got}")
    if not held_out and not arguments.quiet:
        say(PROGRAM, "no --held-out: images of all of the data serve, so none of it can judge the result")
    free = [sample for sample in samples if path_text(sample.path) not in held_out]
    places = choose_calibration([s.label for s in free], [s.group for s in free], arguments.count, arguments.seed)
    chosen = [free[i] for i in places]
    calibration = load_images(arguments.calibrate, chosen, classifier.preprocess, quiet=arguments.quiet)
    if calibration.unusable and not arguments.quiet:
        say(PROGRAM, f"{len(calibration.unusable)} of {len(chosen)} images to calibrate on cannot be used")
    digest = marks_sha256(cluster_marks(chosen))
    with closing(Progress(NUM_STAGES, unit="stage", quiet=arguments.quiet)) as progress:
        float_model = onnx.load(arguments.model)
        quantized = quantize(float_model, calibration.pixels, marks_sha256=digest, done=progress.update)
    model = Classifier(arguments.output, content := quantized.SerializeToString())
    first = model.logits(calibration.pixels[:_NUM_TRIED]).argmax(axis=1)
    if line := one_answer((model.classes[i] for i in first), of="picture tried"):
        remark(line)
    write_model(arguments, content, [*classifier.classes])
    return DONE


def _calibration_size(text: str) -> int:
    return whole(text, least=16)
