"""What each command of edge-bench does, once its arguments are known to be good.

Each takes the parsed arguments and returns the exit status. Heavy modules are imported where they are needed, so that
a command pays for its own alone: the Pi has no matplotlib.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.command import (
    DONE,
    ENVIRONMENT,
    GATE,
    INTERRUPTED,
    SOME_FAILED,
    USAGE,
    ArgumentParser,
    fail,
    say,
)
from edge.outputs import check_output
from edge.errors import EdgeError

PROGRAM = "edge-bench"


class ResultsError(EdgeError):
    """A file that is no results file."""


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

    from . import images

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


def run_score(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Compares predictions with a data set."""
    minima = dict(arguments.fail_under)
    if arguments.latency is None and (needs := {"latency", "total"} & set(minima)):
        parser.error(f"--fail-under {min(needs)} needs --latency")
    _check_output(arguments)
    from edge.predictions import read

    from . import dataset, evaluation, results, score

    predictions = read(arguments.predictions)
    timing = None if arguments.latency is None else score.read_latency(arguments.latency)
    everything = [dataset.as_text(sample) for sample in dataset.index(arguments.data, label_column=arguments.label)]
    samples = [sample for sample in everything if arguments.split in (None, sample.split)]
    if not samples:
        parts = ", ".join(sorted({sample.split or "none" for sample in everything}))
        raise dataset.DatasetError(f"{arguments.data}: no sample of split {arguments.split!r}, got {parts}")
    pairs = results.join(samples, predictions.rows, subset=arguments.subset)
    classes = results.class_order(predictions.meta, dataset.classes_of(samples), pairs)
    num_left_out = len(samples) - len(pairs)
    num_errors = sum(prediction.status == "error" for _, prediction in pairs)
    if arguments.errors == "exclude":
        pairs = [(sample, prediction) for sample, prediction in pairs if prediction.status != "error"]
    profile = score.PROFILES[arguments.profile]
    excluded = tuple(dict.fromkeys(arguments.exclude_group))
    groups = (sample.group for sample in everything)
    reference = score.reference_group(groups, profile=profile, wanted=arguments.reference, excluded=excluded)
    setting = evaluation.Setting(
        profile, reference, excluded, malignant=dataset.malignant_classes(everything), seed=arguments.seed
    )
    result = {
        "schema": results.SCHEMA,
        "data": {
            "name": arguments.data.resolve().name,
            "label_column": arguments.label,
            "split": arguments.split,
            "samples": len(samples),
            "left_out": num_left_out,
        },
        "predictions": predictions.meta,
        "errors": {"policy": arguments.errors, "images": num_errors},
        **results.metrics(pairs, classes, setting),
    }
    if timing is not None:
        results.add_latency(result, timing)
    result["gates"] = score.gates(result, minima)
    if arguments.output is not None:
        results.write_json(arguments.output, result)
    for line in results.table(result):
        print(line)
    if not arguments.quiet:
        if num_left_out:
            say(PROGRAM, f"{num_left_out} of {len(samples)} samples have no prediction: left out")
        if num_errors:
            policy = "are left out (--errors exclude)" if arguments.errors == "exclude" else "count as wrong"
            say(PROGRAM, f"{num_errors} of {len(pairs)} images could not be used and {policy}")
        for line in results.remarks(result):
            say(PROGRAM, line)
    failed = [gate for gate in result["gates"] if not gate["passed"]]
    for gate in failed:
        say(PROGRAM, f"gate failed: {gate['name']} is {results.number(gate['value'])}, under {gate['minimum']}")
    return GATE if failed else DONE


def run_compare(arguments: argparse.Namespace) -> int:
    """Sets two results against each other."""
    _check_output(arguments)
    from . import compare, results

    result = compare.compare(compare.load(arguments.a), compare.load(arguments.b), seed=arguments.seed)
    result["a"], result["b"] = arguments.a.name, arguments.b.name
    if arguments.output is not None:
        results.write_json(arguments.output, result)
    for line in compare.table(result):
        print(line)
    if not arguments.quiet:
        for line in compare.remarks(result):
            say(PROGRAM, line)
    return DONE


def run_report(arguments: argparse.Namespace) -> int:
    """Writes the page."""
    out: Path = arguments.output
    if out.is_dir() and not arguments.force and next(out.iterdir(), None) is not None:
        raise FileExistsError(errno.EEXIST, "is not empty (--force writes into it)", str(out))
    if out.exists() and not out.is_dir():
        raise FileExistsError(errno.EEXIST, "is a file, expected a folder", str(out))
    try:
        from . import report
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("matplotlib", "jinja2"):
            raise
        text = "report needs matplotlib and jinja2: pip install 'fairedge[report]'"
        return fail(PROGRAM, text, ENVIRONMENT)
    names = report.write(report.load(arguments.results), out)
    if not arguments.quiet:
        say(PROGRAM, f"wrote {out / names[0]}, beside it {', '.join(names[1:])}")
    return DONE


def run_tone(arguments: argparse.Namespace) -> int:
    """Estimates skin angles."""
    _check_output(arguments)
    from edge.progress import Progress

    from . import tone

    root, paths = tone.paths_of(arguments.data)
    progress = Progress(len(paths), quiet=arguments.quiet)
    found = []
    for angle in tone.angles(root, paths):
        found.append(angle)
        progress.update(len(found))
    progress.close()
    groups = tone.quantile_groups(found, arguments.quantiles)
    if arguments.output is not None:
        tone.write_csv(arguments.output, found, groups.names)
    for line in tone.table(found, groups):
        print(line)
    if not arguments.quiet:
        for line in tone.CAVEATS:
            say(PROGRAM, line)
    return SOME_FAILED if any(angle.error for angle in found) else DONE


def run_latency(arguments: argparse.Namespace) -> int:
    """Times the pipeline."""
    _check_output(arguments)
    from edge.classifier import DEFAULT_MODEL, Classifier
    from edge.device import usable_cores
    from edge.inputs import collect
    from edge.progress import Progress

    from . import latency, peers, results

    inputs = collect(arguments.images, recursive=arguments.recursive)
    protocol = latency.Protocol(
        sample=arguments.sample,
        runs=arguments.runs,
        seed=arguments.seed,
        workers=arguments.workers or usable_cores(),
        batch_size=arguments.batch_size,
    )
    model = arguments.model or DEFAULT_MODEL
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
        "schema": results.SCHEMA,
        "model": {"name": "null" if arguments.null else model.name, "sha256": classifier.sha256},
        "latency": summary,
        "peak_memory_mb": latency.peak_memory_mb(),
        **watch.finish(summary, is_interrupted=is_interrupted),
    }
    if not (arguments.null or is_interrupted):
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
    if arguments.output is not None:
        results.write_json(arguments.output, result)
    for line in (*latency.table(result), *peers.table(result.get("peers", {}))):
        print(line)
    return INTERRUPTED if is_interrupted else DONE


def run_fidelity(arguments: argparse.Namespace) -> int:
    """Compares scaled with full decoding."""
    _check_output(arguments)
    import numpy as np

    from edge.classifier import DEFAULT_MODEL, Classifier
    from edge.inputs import collect
    from edge.progress import Progress

    from . import fidelity, results

    classifier = Classifier.load(arguments.model or DEFAULT_MODEL)
    inputs = collect(arguments.images, recursive=arguments.recursive)
    order = np.random.default_rng(arguments.seed).permutation(len(inputs.paths))[: arguments.sample]
    paths = [inputs.paths[i] for i in sorted(order)]
    progress = Progress(len(paths), quiet=arguments.quiet)
    found = []
    for comparison in fidelity.compare(classifier, paths, enlarge=arguments.enlarge, seed=arguments.seed):
        found.append(comparison)
        progress.update(len(found))
    progress.close()
    summary = fidelity.summarize(found)
    if arguments.output is not None:
        model = {"name": classifier.path.name, "sha256": classifier.sha256}
        results.write_json(arguments.output, {"schema": results.SCHEMA, "model": model, "fidelity": summary})
    for line in fidelity.table(summary):
        print(line)
    if len(found) < len(paths) and not arguments.quiet:
        say(PROGRAM, f"{len(paths) - len(found)} of {len(paths)} images cannot be used: left out")
    return DONE


def run_memory(arguments: argparse.Namespace) -> int:
    """Measures peak memory."""
    from edge.classifier import DEFAULT_MODEL

    from . import memory

    model = arguments.model or DEFAULT_MODEL
    print(f"{'photos':26} workers  peak MB")
    for kind, workers, peak_mb in memory.by_kind(model, workers=tuple(arguments.workers), count=arguments.count):
        print(f"{kind:26} {workers:7} {peak_mb:8.0f}", flush=True)
    early_mb, late_mb = memory.growth(model, workers=max(arguments.workers), count=arguments.many)
    print(f"{arguments.many} photos of 600x450: {early_mb:.0f} MB in the second tenth, {late_mb:.0f} MB in the last")
    return DONE


def run_show(arguments: argparse.Namespace) -> int:
    """Prints the table of a results file again."""
    from . import fidelity, latency, peers, results

    path: Path = arguments.results
    try:
        result = json.loads(path.read_bytes())
        if not isinstance(result, dict) or result.get("schema") != results.SCHEMA:
            raise ResultsError(f"{path}: no results file, expected JSON with the schema {results.SCHEMA}")
        if "fidelity" in result:
            lines = list(fidelity.table(result["fidelity"]))
        elif "score" in result:
            lines = list(results.table(result))
        else:
            lines = [*latency.table(result), *peers.table(result.get("peers", {}))]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultsError(f"{path}: damaged results file: {type(error).__name__} {error}") from error
    for line in lines:
        print(line)
    return DONE


def _check_output(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
