"""edge-bench latency: seconds per 100 images, the contest's way."""

from __future__ import annotations

import argparse
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.arguments import ArgumentParser, natural, positive, workers
from edge.errors import EdgeError
from edge.exit import DONE, ENVIRONMENT, INTERRUPTED, SOME_FAILED, fail, ignore_interrupts, say

from ..speed.peers import PEERS
from .arguments import PROGRAM, add_model, add_output, check_files

HELP = "time edge-infer as the contest does"
DESCRIPTION = (
    "Seconds per 100 images, from file path to label: 10 runs over 100 images drawn with a seed, "
    "after a warm-up."
)
EXAMPLE = """\
edge-bench latency photos
edge-bench latency -r photos -m model.onnx -o latency.json"""


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("images", nargs="+", metavar="PATH", help="as for edge-infer: file, folder, pattern, @list.txt, -")
    add_model(parser)
    add("-r", "--recursive", action="store_true", help="search folders to the bottom")
    add("-w", "--workers", type=workers, metavar="N", help="threads (default: the usable cores)")
    add("-b", "--batch-size", type=positive, default=4, metavar="N", help="images per network call")
    parser.keep(add("-n", "--count", type=positive, default=100, metavar="N", help="how many images"), "--sample")
    add("--runs", type=positive, default=10, metavar="N", help="timed passes over them")
    add("--seed", type=natural, default=0, metavar="N", help="of the draw of images")
    add("--null", action="store_true", help="time a network that does nothing: the cost of the rest")
    add("--no-cold-start", action="store_true", help="do not time whole commands in new processes at the end")
    add("--peer", action="append", default=[], choices=PEERS, help="time this in turn with edge-infer; repeatable")
    add("--peer-runs", type=positive, default=5, metavar="N", help="timed commands of each --peer")
    add_output(parser)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Times the pipeline."""
    from edge.classifier import DEFAULT_MODEL, Classifier
    from edge.device import usable_cores
    from edge.image_list import collect
    from edge.progress import Progress

    from ..results import document
    from ..speed import latency, peers

    inputs = collect(arguments.images, recursive=arguments.recursive)
    for remark in () if arguments.quiet else inputs.remarks:
        say(PROGRAM, remark)
    model = arguments.model or DEFAULT_MODEL
    check_files(arguments, [model, *inputs.paths])
    peers.check(arguments.peer)
    num_workers = arguments.workers or usable_cores()
    protocol = latency.Protocol(arguments.count, arguments.runs, arguments.seed, num_workers, arguments.batch_size)
    classifier = (latency.NullClassifier if arguments.null else Classifier).load(model)
    watch = latency.Watch()
    paths, errors, first_s = latency.draw(classifier, inputs.paths, protocol)
    runs: list[latency.Timing] = []
    is_interrupted = False
    progress = Progress(protocol.runs, unit="run", quiet=arguments.quiet)
    try:
        for timing in latency.timings(classifier, paths, protocol):
            runs.append(timing)
            progress.update(len(runs))
    except KeyboardInterrupt:
        if not runs:
            raise
        is_interrupted = True
    finally:
        progress.close()
    summary = latency.summarize(runs, paths, errors, replace(protocol, runs=len(runs)), first_s)
    result: dict[str, Any] = {
        "schema": document.SCHEMA,
        "model": {"name": "null" if arguments.null else model.name, "sha256": classifier.sha256},
        "latency": summary,
        "peak_memory_mb": latency.peak_memory_mb(),
        **watch.finish(summary),
    }
    status = SOME_FAILED if errors else DONE
    try:
        if not (arguments.null or is_interrupted):
            _add_whole_commands(result, arguments, model, paths, num_workers)
    except KeyboardInterrupt:
        is_interrupted = True
    except (EdgeError, OSError, subprocess.SubprocessError) as error:  # the timed runs before it are still good
        result["reasons"].append(str(error))
        status = fail(PROGRAM, str(error), ENVIRONMENT)
    if is_interrupted:
        ignore_interrupts()
        result["reasons"].append("interrupted")
        status = INTERRUPTED
    result["valid"] = not result["reasons"]
    if arguments.output is not None:
        document.write_json(arguments.output, result)
    for line in (*latency.table(result), *peers.table(result.get("peers", {}))):
        print(line)
    return status


def _add_whole_commands(
    result: dict[str, Any], arguments: argparse.Namespace, model: Path, paths: list[str], num_workers: int
) -> None:
    """What new processes take: the first answer of one, and those of peers in turn with edge-infer."""
    from ..speed import latency, peers

    if not arguments.no_cold_start:
        result["cold_start"] = latency.cold_start(model, min(paths, key=os.path.getsize))
    if arguments.peer:
        result["peers"] = peers.interleaved(
            arguments.peer, model, paths,
            workers=num_workers, batch_size=arguments.batch_size, runs=arguments.peer_runs,
        )
