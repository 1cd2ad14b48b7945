"""What edge-export int8 does, once its arguments are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from bench.dataset import Sample, index, read_subset
from bench.marks import cluster_marks, marks_sha256
from edge.classifier import Classifier
from edge.command import DONE, say
from edge.outputs import check_output, write_output
from edge.predictions import path_text
from train.data import load_images

from .calibrate import choose_calibration, session_of
from .cli import PROGRAM
from .quantize import CalibrationError, Quantizer, Scheme
from .sensitivity import VARIANTS, agreement, exclude_until, logits_of, search_variants, sensitivity

_NUM_CHECKED = 512
"""Images that --min-agreement looks at: of those neither held out nor calibrated on."""
_SHOWN_LAYERS = 8


def run_int8(arguments: argparse.Namespace) -> int:
    """Quantises a model file."""
    check_output(arguments.output, force=arguments.force)
    classifier = Classifier.load(arguments.model)
    samples = index(arguments.calibrate, label_column=arguments.label, group_column=arguments.group)
    others = sorted({sample.label for sample in samples} - {*classifier.classes})
    if others:
        expected = ", ".join(classifier.classes)
        raise CalibrationError(f"{arguments.calibrate}: got images of {', '.join(others)}, expected {expected}")
    held_out = {*read_subset(arguments.held_out)} if arguments.held_out is not None else set()
    if unknown := sorted(held_out - {path_text(sample.path) for sample in samples}):
        got = f"{len(unknown)} paths that are no image of the data, first {unknown[0]}"
        raise CalibrationError(f"{arguments.held_out}: got {got}")
    if not held_out and not arguments.quiet:
        say(PROGRAM, "no --held-out: images of all of the data serve, so none of it can judge the result")
    free = [sample for sample in samples if path_text(sample.path) not in held_out]
    chosen, free = _draw(free, arguments.images, arguments.seed)
    checked: list[Sample] = []
    if arguments.min_agreement is not None:
        checked, free = _draw(free, _NUM_CHECKED, arguments.seed)
        if not checked:
            raise CalibrationError("--min-agreement: no image is left to check on, expected a smaller --images")

    def pixels(of: Sequence[Sample]) -> np.ndarray:
        return load_images(arguments.calibrate, of, classifier.preprocess, quiet=arguments.quiet).pixels

    calibration = load_images(arguments.calibrate, chosen, classifier.preprocess, quiet=arguments.quiet)
    model = onnx.load(arguments.model)
    if calibration.unusable and not arguments.quiet:
        say(PROGRAM, f"{len(calibration.unusable)} of {len(chosen)} images to calibrate on cannot be used")
    scheme = replace(Scheme(), exclude=tuple(arguments.exclude))
    quantizer = Quantizer(model, calibration.pixels)
    if arguments.search:
        apart = [sample for sample in samples if path_text(sample.path) in held_out]
        judged = load_images(arguments.calibrate, apart, classifier.preprocess, quiet=arguments.quiet)
        labels = np.array([classifier.classes.index(sample.label) for sample in judged.samples])
        groups = [sample.group for sample in judged.samples]
        variants = VARIANTS if scheme in VARIANTS.values() else {**VARIANTS, "as asked for": scheme}
        print("\n".join(_variant_table(search_variants(quantizer, judged.pixels, labels, groups, variants))))
        gains = sensitivity(quantizer, calibration.pixels, scheme)
        print("\n".join(_sensitivity_table(gains[:_SHOWN_LAYERS])))
    images = pixels(checked) if checked else None
    if images is not None:
        scheme = exclude_until(quantizer, images, arguments.min_agreement, scheme)
    quantized = quantizer(scheme, marks_sha256=marks_sha256(cluster_marks(chosen)))
    remarks = []
    if images is not None:
        agreed = agreement(*(logits_of(session_of(file), images) for file in (model, quantized)))
        text = f"the float model's answer on {agreed:.2%} of {len(images)} other images"
        reached = "" if agreed >= arguments.min_agreement else f", expected {arguments.min_agreement:.2%}"
        remarks.append(f"float stay the classifier{''.join(f', {name}' for name in scheme.exclude)}; {text}{reached}")
    content = quantized.SerializeToString()
    write_output(arguments.output, content)
    if not arguments.quiet:
        remarks.append(f"{arguments.output}: {len(content) / 1e6:.2f} MB, classes {', '.join(classifier.classes)}")
        for remark in remarks:
            say(PROGRAM, remark)
    return DONE


def _draw(samples: list[Sample], count: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Some samples, balanced over class and group, and the others."""
    chosen = choose_calibration([s.label for s in samples], [s.group for s in samples], count, seed)
    taken = {*chosen.tolist()}
    return [samples[i] for i in chosen], [sample for i, sample in enumerate(samples) if i not in taken]


def _variant_table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown, a row per variant."""
    lines = ["| variant | MB | same answer | SQNR dB | accuracy | worst group | time / float |"]
    lines.append("| --- |" + " --- |" * 6)
    for row in rows:
        sqnr = "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        lines.append(
            f"| {row['name']} | {row['size_mb']:.3f} | {row['agreement']:.2%} | {sqnr} | {row['accuracy']:.4f} | "
            f"{row['worst_group']} {row['worst_group_accuracy']:.4f} | {row['time_ratio']:.2f} |"
        )
    return lines


def _sensitivity_table(gains: Sequence[tuple[str, float]]) -> list[str]:
    """Markdown, a row per layer."""
    lines = ["", "| layer left float | SQNR gained, dB, calibration images |", "| --- | --- |"]
    return lines + [f"| {name} | {gain:+.2f} |" for name, gain in gains]
