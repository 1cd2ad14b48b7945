"""edge-infer: photos in, one row per photo out.

Standard output is data, standard error is talk. Heavy imports happen after the arguments are known to be good.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import VERSION, ArgumentParser, fraction, got, positive, whole, workers
from .exit import (
    DONE,
    ENVIRONMENT,
    INTERRUPTED,
    SOME_FAILED,
    STATUSES,
    fail,
    ignore_interrupts,
    quiet_interrupts,
    quiet_libraries,
    run,
    say,
    uninterrupted,
)
from .output_files import OutputPath, refuse_input

if TYPE_CHECKING:
    from .classifier import Classifier
    from .image_list import Inputs
    from .pipeline import RunOptions
    from .predictions import Prediction
    from .predictions_writer import PredictionsWriter
    from .progress import Summary
    from .table import Table

_PROGRAM = "edge-infer"
_EPILOG = f"""\
examples:
  edge-infer photos/                           # a table, or CSV to a pipe
  edge-infer -r photos/ -o predictions.csv     # with subfolders, into a file
  edge-infer -r photos/ -o predictions.csv --resume    # after an interruption
  find . -name '*.JPG' | edge-infer - --format jsonl   # a list of photos

{STATUSES}"""


def build_parser() -> ArgumentParser:
    """The parser of edge-infer."""
    parser = ArgumentParser(
        prog=_PROGRAM,
        description="Classify photos with a model file that describes itself. One row per photo, in input order.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="file, folder, glob pattern, @list.txt, or - for a list on stdin")
    add("-m", "--model", type=Path, metavar="FILE", help="model, .onnx (default: the bundled one)")
    add("-r", "--recursive", action="store_true", help="search folders to the bottom")
    add("--root", metavar="FOLDER", help="take relative paths, also those of lists, from here; rows are relative to it")
    add("-b", "--batch-size", type=_batch_size, default=4, metavar="N", help="images per network call")
    add("-w", "--workers", type=workers, metavar="N", help="threads (default: the usable cores)")
    output = parser.add_argument_group("output").add_argument
    output("-o", "--output", type=OutputPath, metavar="FILE", help="write here instead of standard output")
    output("--format", choices=("csv", "jsonl", "esfair"), help="esfair: PATH INDEX (default: by FILE's suffix)")
    output("--topk", type=positive, default=1, metavar="K", help="name the K most probable classes")
    output("--probs", action="store_true", help="add the probability of every class")
    output("--min-confidence", type=fraction, default=0.0, metavar="P", help="below it: label 'uncertain', index -1")
    output("--no-timing", action="store_true", help="leave out the times: equal runs give equal bytes")
    output("--resume", action="store_true", help="continue an interrupted FILE")
    output("--force", action="store_true", help="replace FILE")
    images = parser.add_argument_group("images").add_argument
    images("--on-error", choices=("skip", "fail"), default="skip", help="an unusable image: mark its row, or stop")
    images("--max-pixels", type=_pixels, metavar="N", help="largest image accepted (default 300M)")
    images("--max-pixels-full", type=_pixels, metavar="N", help="largest image decoded whole (default 50M)")
    images("--max-memory", type=_megabytes, metavar="MB", help="stay within: fewer workers and large images at once")
    images("--full-decode", action="store_true", help="decode JPEG at full size (slow; for comparison)")
    talk = parser.add_argument_group("other").add_argument
    talk("--check", action="store_true", help="test this machine and model, for a bug report")
    talk("-q", "--quiet", action="store_true", help="no progress, no remarks")
    talk("-v", "--verbose", action="store_true", help="say more; show tracebacks")
    talk("--version", action="version", version=VERSION)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-infer; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if sys.maxsize <= 2**32:
        return fail(_PROGRAM, "needs a 64-bit system (Raspberry Pi OS 64-bit): no 32-bit onnxruntime", ENVIRONMENT)
    if not arguments.paths and not arguments.check:
        parser.error("expected at least one PATH")
    if arguments.output == Path("-"):
        arguments.output = None
    if arguments.resume and arguments.output is None:
        parser.error("--resume needs -o FILE")
    if arguments.resume and arguments.force:
        parser.error("--resume and --force exclude each other")
    if arguments.format == "esfair" and arguments.min_confidence:
        parser.error("--min-confidence: the esfair form has -1 for errors only, expected csv or jsonl with it")

    def work() -> int:
        with quiet_libraries() if arguments.quiet else nullcontext():
            return _check(arguments) if arguments.check else _infer(arguments)

    return run(_PROGRAM, work, arguments)


def _check(arguments: argparse.Namespace) -> int:
    from .selftest import environment_problem, report

    if (problem := environment_problem()) is not None:
        return fail(_PROGRAM, problem, ENVIRONMENT)
    from .classifier import DEFAULT_MODEL

    for line in report(arguments.model or DEFAULT_MODEL):
        print(line)
    return DONE


def _infer(arguments: argparse.Namespace) -> int:
    """Everything up to the first image: the list, the model, the output file; then the rows."""
    with quiet_interrupts(_PROGRAM):
        from .image_list import collect
        from .predictions_writer import format_of

        inputs = collect(arguments.paths, recursive=arguments.recursive, root=arguments.root)
        if arguments.output is not None:
            refuse_input(arguments.output)
        format_of(arguments.output, arguments.format)  # or a refusal
        for remark in () if arguments.quiet else inputs.remarks:
            say(_PROGRAM, remark)
        from .classifier import DEFAULT_MODEL, Classifier
        from .device import usable_cores
        from .photo.decode import PixelLimits
        from .photo.tiff import silence_libtiff
        from .pipeline import RunOptions
        from .pipeline import run as run_images
        from .progress import Summary, details

        warnings.filterwarnings("ignore", module="PIL")  # oddities of files that decode all the same
        silence_libtiff()
        cores = usable_cores()
        options = RunOptions(
            workers=arguments.workers or cores,
            batch_size=arguments.batch_size,
            limits=PixelLimits(arguments.max_pixels or PixelLimits.any, arguments.max_pixels_full or PixelLimits.full),
            min_confidence=arguments.min_confidence,
            max_memory_bytes=arguments.max_memory,
        )
        # One image cannot be shared by workers, so the network gets their cores instead.
        threads = min(arguments.workers or cores, cores) if len(inputs.paths) == 1 else 1
        classifier = Classifier.load(arguments.model or DEFAULT_MODEL, intra_op_threads=threads)
        if arguments.full_decode:
            classifier.preprocess = replace(classifier.preprocess, draft_factor=0)
        summary = Summary(classifier)
        is_told = arguments.verbose and not arguments.quiet
        for line in details(classifier, options, count=len(inputs.paths)) if is_told else ():
            say(_PROGRAM, line)
        writer, kept = _open_writer(arguments, classifier, options, inputs, summary)
        if kept and not arguments.quiet:
            say(_PROGRAM, f"resuming after {kept} of {len(inputs.paths)} rows")
        results = run_images(classifier, inputs.paths[kept:], options)
    return _write_all(arguments, inputs, results, writer, summary, kept)


def _open_writer(
    arguments: argparse.Namespace, classifier: Classifier, options: RunOptions, inputs: Inputs, summary: Summary
) -> tuple[PredictionsWriter | Table, int]:
    """The writer, and how many rows an interrupted run has left it."""
    from .device import versions
    from .predictions import SCHEMA, Layout
    from .predictions_writer import PredictionsWriter, format_of
    from .table import Table

    if _is_for_people(arguments):
        num_named = len(classifier.classes) if arguments.probs else arguments.topk
        return Table(inputs.names, classifier, num_named=num_named), 0
    layout = Layout(
        classes=classifier.classes,
        format=format_of(arguments.output, arguments.format),
        topk=min(arguments.topk, len(classifier.classes)),
        probs=arguments.probs,
        timing=not arguments.no_timing,
    )
    meta: dict[str, object] = {  # what the rows follow from, and nothing else: no command line, host or absolute path
        "schema": SCHEMA,
        "root": inputs.root,
        "model_sha256": classifier.sha256,
        "model": classifier.description,
        "preprocess": asdict(classifier.preprocess),
        "temperature": classifier.temperature,
        "classes": list(classifier.classes),
        "columns": list(layout.columns),
        "limits": {
            "max_pixels": options.limits.any,
            "max_pixels_full": options.limits.full,
            "max_memory": options.max_memory_bytes,
        },
        "min_confidence": options.min_confidence,
        "versions": versions(),
        "intended_use": summary.intended_use,
    }
    if arguments.resume:
        names, photos = inputs.names, inputs.paths
        writer, kept = PredictionsWriter.resume(layout, meta, arguments.output, names, photos, count=summary.add)
        if writer.replaced and not arguments.quiet:
            say(_PROGRAM, f"{writer.replaced} was changed since: its row and those after it are made anew")
        return writer, kept
    return PredictionsWriter.create(layout, meta, arguments.output, force=arguments.force), 0


def _write_all(
    arguments: argparse.Namespace, inputs: Inputs, results: Generator[Prediction, None, None],
    writer: PredictionsWriter | Table, summary: Summary, kept: int,
) -> int:
    """Writes the rows of all images but the first `kept`, whose rows are there."""
    from .predictions_writer import part_path
    from .progress import Progress
    from .table import Reasons

    total, done, reasons = len(inputs.names), kept, Reasons()
    is_table = _is_for_people(arguments)
    progress = Progress(total - kept, quiet=arguments.quiet or _may_meet_rows(arguments))
    try:
        for prediction in results:
            prediction.path = inputs.names[done]
            if prediction.status == "error":
                prediction.error += inputs.hints.get(done, "")
            writer.write(prediction)
            summary.add(prediction)
            done += 1
            if prediction.status == "error":
                # On a terminal the row is the talk.
                if not (arguments.quiet or is_table) and reasons.is_new(prediction.error):
                    progress.close()
                    say(_PROGRAM, f"{prediction.path}: {prediction.error}")
                if arguments.on_error == "fail":
                    text = f"stopped at the first unusable image ({done} of {total} rows written)"
                    return fail(_PROGRAM, text, SOME_FAILED)
            progress.update(done - kept, summary.errors)
        with uninterrupted():  # all rows are written; fsync does not stop for a signal, and after it comes a rename
            writer.finish(summary.totals)
    except KeyboardInterrupt:
        ignore_interrupts()
        results.close()
        progress.close()
        is_kept = arguments.output and part_path(arguments.output).exists()  # not once the file has its name
        where = f"; {part_path(arguments.output)} keeps them, --resume continues" if is_kept else ""
        return fail(_PROGRAM, f"interrupted after {done} of {total} rows{where}", INTERRUPTED)
    finally:
        results.close()
        progress.close()
        if done < total:
            writer.close()
    place = "" if is_table else f"rows in {arguments.output}" if arguments.output else "rows on standard output"
    talk = [*reasons.rest(), *summary.lines(total, kept, place), *([summary.times()] if arguments.verbose else ())]
    for line in () if arguments.quiet else (*talk, summary.intended_use):
        say(_PROGRAM, line)
    return SOME_FAILED if summary.errors or inputs.num_unread else DONE


def _is_for_people(arguments: argparse.Namespace) -> bool:
    """Whether rows are a table: on a terminal where no form of file was asked for."""
    return arguments.output is None and arguments.format is None and sys.stdout is not None and sys.stdout.isatty()


def _may_meet_rows(arguments: argparse.Namespace) -> bool:
    """Whether rows may appear on the terminal where the line of progress is: they go there, or through a pipe."""
    if arguments.output is not None or not (sys.stderr and sys.stderr.isatty()):
        return False
    try:
        return os.isatty(1) or stat.S_ISFIFO(os.fstat(1).st_mode)
    except OSError:
        return False


_batch_size = partial(whole, least=1, most=1024)


def _pixels(text: str) -> int:
    number, factor = (text[:-1], 1_000_000) if text[-1:] in ("M", "m") else (text, 1)
    try:
        return whole(number, least=1) * factor
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected pixels, as 50000000 or 50M") from error


def _megabytes(text: str) -> int:
    from .memory_gate import plan_memory

    max_bytes = positive(text) * 1_000_000
    try:
        plan_memory(1, max_bytes=max_bytes)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return max_bytes
