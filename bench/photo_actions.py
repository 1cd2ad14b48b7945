"""What the commands of edge-bench do that work on photos: make and time them, compare decodes, look at skin.

As in `bench.actions`: each takes the parsed arguments and returns the exit status.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.command import (
    DONE,
    ENVIRONMENT,
    INTERRUPTED,
    SOME_FAILED,
    USAGE,
    ArgumentParser,
    fail,
    ignore_interrupts,
    say,
)
from edge.errors import EdgeError, InputError

from .actions import PROGRAM, check_files


def run_images(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Writes generated photos."""
    out: Path = arguments.out
    settings = {"quality": arguments.quality, "progressive_share": arguments.progressive_share}
    given = {name: value for name, value in settings.items() if value is not None}
    if arguments.mix == "demo" and (given or arguments.count is not None):
        parser.error("--count, --quality and --progressive-share do not apply to --mix demo")
    if out.exists() and not out.is_dir():
        return fail(PROGRAM, f"{out}: is a file, expected a folder", USAGE)
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if found and not arguments.force:
        return fail(PROGRAM, f"{out}: is not empty (use --force to write into it)", USAGE)

    from edge.progress import Progress

    from .photos import images

    count = len(images.DEMO) if arguments.mix == "demo" else arguments.count or 100
    if arguments.mix == "demo":
        files = images.demo_files(seed=arguments.seed)
    else:
        files = images.mix_files(images.ESFAIR, count, seed=arguments.seed, **given)
    progress = Progress(count, quiet=arguments.quiet)
    written, num_bytes = set(), 0
    try:
        for name, data in files:
            images.write(out, name, data)
            written.add(name)
            num_bytes += len(data)
            progress.update(len(written))
    except KeyboardInterrupt:
        progress.close()
        return fail(PROGRAM, f"interrupted after {len(written)} of {count} images; those are whole", INTERRUPTED)
    finally:
        progress.close()
    if not arguments.quiet:
        say(PROGRAM, f"{len(written)} images, {num_bytes / 1e6:.1f} MB, seed {arguments.seed}, in {out}")
        if others := found - written:
            say(PROGRAM, f"{len(others)} other files were in {out} and stay there, as {min(others)}")
    return DONE


def run_tone(arguments: argparse.Namespace) -> int:
    """Estimates skin angles."""
    from edge.progress import Progress

    from . import dataset, skin_angle

    check_files(arguments, [arguments.data / dataset.MANIFEST])
    root, paths = skin_angle.paths_of(arguments.data)
    progress = Progress(len(paths), quiet=arguments.quiet)
    found = []
    for angle in skin_angle.angles(root, paths):
        found.append(angle)
        progress.update(len(found))
    progress.close()
    groups = skin_angle.quantile_groups(found, arguments.quantiles)
    if arguments.output is not None:
        skin_angle.write_csv(arguments.output, found, groups.names)
    for line in skin_angle.table(found, groups):
        print(line)
    if not arguments.quiet:
        for line in skin_angle.CAVEATS:
            say(PROGRAM, line)
    return SOME_FAILED if any(angle.error for angle in found) else DONE


def run_latency(arguments: argparse.Namespace) -> int:
    """Times the pipeline."""
    from edge.classifier import DEFAULT_MODEL, Classifier
    from edge.device import usable_cores
    from edge.image_list import collect
    from edge.progress import Progress

    from .speed import latency, peers
    from .results import document

    inputs = collect(arguments.images, recursive=arguments.recursive)
    model = arguments.model or DEFAULT_MODEL
    check_files(arguments, [model, *inputs.paths])
    peers.check(arguments.peer)
    protocol = latency.Protocol(
        sample=arguments.sample,
        runs=arguments.runs,
        seed=arguments.seed,
        workers=arguments.workers or usable_cores(),
        batch_size=arguments.batch_size,
    )
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
            if not arguments.no_cold_start:
                result["cold_start"] = latency.cold_start(model, min(paths, key=os.path.getsize))
            if arguments.peer:
                result["peers"] = peers.interleaved(
                    arguments.peer,
                    model,
                    paths,
                    workers=protocol.workers,
                    batch_size=protocol.batch_size,
                    runs=arguments.peer_runs,
                )
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


def run_fidelity(arguments: argparse.Namespace) -> int:
    """Compares scaled with full decoding."""
    import numpy as np

    from edge.classifier import DEFAULT_MODEL, Classifier
    from edge.image_list import collect
    from edge.progress import Progress

    from .speed import fidelity
    from .results import document

    classifier = Classifier.load(arguments.model or DEFAULT_MODEL)
    inputs = collect(arguments.images, recursive=arguments.recursive)
    check_files(arguments, [classifier.path, *inputs.paths])
    order = np.random.default_rng(arguments.seed).permutation(len(inputs.paths))[: arguments.sample]
    paths = [inputs.paths[i] for i in sorted(order)]
    progress = Progress(len(paths), quiet=arguments.quiet)
    found = []
    for comparison in fidelity.compare(classifier, paths, enlarge=arguments.enlarge, seed=arguments.seed):
        found.append(comparison)
        progress.update(len(found))
    progress.close()
    if not found:
        raise InputError(f"none of {len(paths)} images can be used; edge-infer says why")
    summary = fidelity.summarize(found)
    if arguments.output is not None:
        model = {"name": classifier.path.name, "sha256": classifier.sha256}
        document.write_json(arguments.output, {"schema": document.SCHEMA, "model": model, "fidelity": summary})
    for line in fidelity.table(summary):
        print(line)
    if len(found) < len(paths) and not arguments.quiet:
        say(PROGRAM, f"{len(paths) - len(found)} of {len(paths)} images cannot be used: left out")
    return SOME_FAILED if len(found) < len(paths) else DONE


def run_memory(arguments: argparse.Namespace) -> int:
    """Measures peak memory."""
    from edge.classifier import DEFAULT_MODEL

    from .speed import peak_memory

    model = arguments.model or DEFAULT_MODEL
    print(f"{'photos':26} workers  peak MB")
    for kind, workers, peak_mb in peak_memory.by_kind(model, workers=tuple(arguments.workers), count=arguments.count):
        print(f"{kind:26} {workers:7} {peak_mb:8.0f}", flush=True)
    early_mb, late_mb = peak_memory.growth(model, workers=max(arguments.workers), count=arguments.many)
    print(f"{arguments.many} photos of 600x450: {early_mb:.0f} MB in the second tenth, {late_mb:.0f} MB in the last")
    return DONE
