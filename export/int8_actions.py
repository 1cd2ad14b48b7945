"""What edge-export int8 does, once its arguments are read."""

from __future__ import annotations

import argparse

import onnx

from bench.dataset import index, read_subset
from bench.provenance import cluster_marks, marks_sha256
from edge.classifier import Classifier
from edge.errors import EdgeError
from edge.exit import DONE, say
from edge.output_files import check_output, write_output
from edge.predictions import path_text
from train.data.images import load_images

from .cli import PROGRAM
from .int8.calibrate import choose_calibration
from .int8.quantize import quantize


def run_int8(arguments: argparse.Namespace) -> int:
    """Quantises a model file."""
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
    places = choose_calibration([s.label for s in free], [s.group for s in free], arguments.images, arguments.seed)
    chosen = [free[i] for i in places]
    calibration = load_images(arguments.calibrate, chosen, classifier.preprocess, quiet=arguments.quiet)
    if calibration.unusable and not arguments.quiet:
        say(PROGRAM, f"{len(calibration.unusable)} of {len(chosen)} images to calibrate on cannot be used")
    digest = marks_sha256(cluster_marks(chosen))
    content = quantize(onnx.load(arguments.model), calibration.pixels, marks_sha256=digest).SerializeToString()
    write_output(arguments.output, content)
    if not arguments.quiet:
        say(PROGRAM, f"{arguments.output}: {len(content) / 1e6:.2f} MB, classes {', '.join(classifier.classes)}")
    return DONE
