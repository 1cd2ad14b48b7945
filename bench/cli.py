"""edge-bench: make test images, time the pipeline, score predictions.

Standard output is data, standard error is talk. Heavy imports happen after the arguments are known to be good.
"""

from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge import __version__
from edge.command import (
    DONE,
    ENVIRONMENT,
    GATE,
    INTERRUPTED,
    SOME_FAILED,
    STATUSES,
    USAGE,
    ArgumentParser,
    fail,
    fraction,
    natural,
    positive,
    run,
    say,
)

_PROGRAM = "edge-bench"

# As in bench.score, which is not imported before the arguments are known to be good; a test holds the two together.
PROFILES = ("esfair2023", "esfair2023-code", "esfair2023-page")
GATES = ("accuracy", "fairness", "latency", "total", "total_of_two_thirds", "balanced_accuracy", "macro_f1",
         "worst_group", "pqd", "dpm", "eom")
_FAIL_UNDER = f"exit 6 when a value is lower; NAME is one of {', '.join(GATES)}"

PEERS = ("winners", "organisers", "opencv-reduced", "naive")
_EPILOG = f"""\
examples:
  edge-bench images photos/ -n 100           test images with the sizes of the ESFair contest
  edge-bench images demo/ --mix demo         a dozen sample photos, one of them broken on purpose
  edge-infer -r data/ -o predictions.csv && edge-bench score predictions.csv --data data/

{STATUSES}"""


def build_parser() -> ArgumentParser:
    """The parser of edge-bench."""
    parser = ArgumentParser(prog=_PROGRAM, description="Measure what edge-infer does.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"fairedge {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    images = commands.add_parser("images", help="write photo-like test images", description=_IMAGES)
    add = images.add_argument
    add("out", type=Path, metavar="OUT", help="folder, made if needed")
    add("--mix", choices=("esfair", "demo"), default="esfair", help="which sizes and kinds of file (default esfair)")
    add("-n", "--count", type=positive, metavar="N", help="number of images (default 100; demo: always 12)")
    add("--seed", type=natural, default=0, metavar="N", help="equal seeds give equal files (default 0)")
    add("--quality", type=_quality, metavar="Q", help="JPEG quality, 1 to 100 (default 90)")
    add("--progressive-share", type=fraction, metavar="P", help="part that is progressive, 0 to 1 (default 0)")
    add("--force", action="store_true", help="write into a folder that is not empty")
    _add_talk(images)

    score = commands.add_parser("score", help="compare predictions with a data set", description=_SCORE)
    add = score.add_argument
    add("predictions", type=Path, metavar="PREDICTIONS", help="file written by edge-infer (CSV or JSONL)")
    add("--data", type=Path, required=True, metavar="ROOT", help="data set: ROOT/<group>/<class>/ or a manifest.csv")
    add("--label", default="class", metavar="COLUMN", help="manifest column with the true class (default class)")
    add("--split", metavar="NAME", help="score only the samples whose manifest column split says NAME")
    add("--subset", action="store_true", help="leave out samples without a prediction instead of stopping")
    add("--profile", choices=PROFILES, default=PROFILES[0], help=f"reading of the rules (default {PROFILES[0]})")
    add("--latency", type=Path, metavar="FILE", help="results of edge-bench latency: adds the third part and the total")
    add("--reference", metavar="GROUP", help="group compared against (default G10, else the one with fewest images)")
    add("--exclude-group", action="append", default=[], metavar="GROUP", help="leave GROUP out of what compares groups")
    add("--errors", choices=("wrong", "exclude"), default="wrong", help="images that could not be used (default wrong)")
    add("--seed", type=natural, default=0, metavar="N", help="of the bootstrap and of shuffles (default 0)")
    add("--fail-under", type=_gate, action="append", default=[], metavar="NAME=VALUE", help=_FAIL_UNDER)
    _add_output(score)
    _add_talk(score)

    compare = commands.add_parser("compare", help="which differences of two results are more than noise",
                                  description=_COMPARE)
    add = compare.add_argument
    add("a", type=Path, metavar="A.json", help="results of edge-bench score")
    add("b", type=Path, metavar="B.json", help="results on the same images")
    add("--seed", type=natural, default=0, metavar="N", help="of the bootstrap (default 0)")
    _add_output(compare)
    _add_talk(compare)

    report = commands.add_parser("report", help="one page, a summary and tables from results", description=_REPORT)
    add = report.add_argument
    add("results", nargs="+", type=Path, metavar="RESULTS.json", help="results of edge-bench score")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder, made if needed")
    add("--force", action="store_true", help="write into a folder that is not empty")
    _add_talk(report)

    tone = commands.add_parser("tone", help="estimate the skin angle, for audits alone", description=_TONE)
    add = tone.add_argument
    add("data", type=Path, metavar="DATA", help="folder with a manifest.csv, or with images at any depth")
    add("--quantiles", type=_quantiles, default=4, metavar="N", help="groups of equally many images (default 4)")
    _add_output(tone, what="the angles as CSV")
    _add_talk(tone)

    latency = commands.add_parser("latency", help="time edge-infer the contest's way", description=_LATENCY)
    add = latency.add_argument
    add("images", nargs="+", metavar="PATH", help="as for edge-infer: file, folder, pattern, @list.txt, -")
    add("-m", "--model", type=Path, metavar="FILE", help="model (.onnx); default: the bundled one")
    add("-r", "--recursive", action="store_true", help="search folders to the bottom")
    add("-w", "--workers", type=positive, metavar="N", help="threads (default: the usable cores)")
    add("-b", "--batch-size", type=positive, default=4, metavar="N", help="images per network call (default 4)")
    add("--sample", type=positive, default=100, metavar="N", help="images drawn (default 100)")
    add("--runs", type=positive, default=10, metavar="N", help="timed iterations (default 10)")
    add("--seed", type=natural, default=0, metavar="N", help="of the draw (default 0)")
    add("--null", action="store_true", help="a network that does nothing: the cost of everything else")
    add("--peer", action="append", default=[], choices=PEERS, help="also run this in turn with edge-infer; repeatable")
    add("--peer-runs", type=positive, default=5, metavar="N", help="whole commands of each (default 5)")
    _add_output(latency)
    _add_talk(latency)

    fidelity = commands.add_parser("fidelity", help="scaled against full decoding", description=_FIDELITY)
    add = fidelity.add_argument
    add("images", nargs="+", metavar="PATH", help="as for edge-infer: file, folder, pattern, @list.txt, -")
    add("-m", "--model", type=Path, metavar="FILE", help="model (.onnx); default: the bundled one")
    add("-r", "--recursive", action="store_true", help="search folders to the bottom")
    add("-n", "--sample", type=positive, metavar="N", help="draw N of the photos (default all)")
    add("--enlarge", action="store_true", help="first make each photo as large as the contest's")
    add("--seed", type=natural, default=0, metavar="N", help="of the draws (default 0)")
    _add_output(fidelity)
    _add_talk(fidelity)

    memory = commands.add_parser("memory", help="peak memory of edge-infer by kind of photo", description=_MEMORY)
    add = memory.add_argument
    add("-m", "--model", type=Path, metavar="FILE", help="model (.onnx); default: the bundled one")
    add("-w", "--workers", type=positive, nargs="+", default=[1, 2, 4], metavar="N", help="threads (default 1 2 4)")
    add("-n", "--count", type=positive, default=24, metavar="N", help="photos of each kind (default 24)")
    add("--many", type=positive, default=10_000, metavar="N", help="small photos for the growth (default 10000)")
    _add_talk(memory)
    return parser


_IMAGES = "Write photo-like test images: skin with a lesion, hairs and noise, drawn from a seed."
_LATENCY = "Seconds per 100 images, from file path to label: 10 runs over 100 images drawn with a seed, warm-up apart."
_FIDELITY = "Labels and network input after scaled decoding, as shipped, against a full-size decode of the same photo."
_MEMORY = "Peak resident memory of a whole edge-infer process, and whether it grows with the number of photos."
_SCORE = "Accuracy, fairness and the contest's score, with intervals. An image that could not be used counts as wrong."
_REPORT = "DIR/index.html: one page without script or network, DIR/summary.md, and every number in DIR/*.csv."
_TONE = "Individual typology angle (ITA) of the skin around the lesion. Quantile groups for audits: no skin types."
_COMPARE = "B minus A with paired intervals. Both must be of the same images, labels, groups and profile."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-bench; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    actions = {
        "fidelity": lambda: _fidelity(arguments),
        "images": lambda: _images(arguments, parser),
        "latency": lambda: _latency(arguments),
        "memory": lambda: _memory(arguments),
        "compare": lambda: _compare(arguments),
        "report": lambda: _report(arguments),
        "score": lambda: _score(arguments, parser),
        "tone": lambda: _tone(arguments),
    }
    return run(_PROGRAM, actions[arguments.command], verbose=arguments.verbose)


def _images(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    out: Path = arguments.out
    settings = {"quality": arguments.quality, "progressive_share": arguments.progressive_share}
    given = {name: value for name, value in settings.items() if value is not None}
    if arguments.mix == "demo" and (given or arguments.count is not None):
        parser.error("--count, --quality and --progressive-share do not apply to --mix demo")
    if out.exists() and not out.is_dir():
        return fail(_PROGRAM, f"{out}: is a file, expected a folder", USAGE)
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if found and not arguments.force:
        return fail(_PROGRAM, f"{out}: is not empty (use --force to write into it)", USAGE)

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
        return fail(_PROGRAM, f"interrupted after {len(written)} of {count} images; those are whole", INTERRUPTED)
    finally:
        progress.close()
    if not arguments.quiet:
        say(_PROGRAM, f"{len(written)} images, {num_bytes / 1e6:.1f} MB, seed {arguments.seed}, in {out}")
        if others := found - written:
            say(_PROGRAM, f"{len(others)} other files were in {out} and stay there, as {min(others)}")
    return DONE


def _score(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    minima = dict(arguments.fail_under)
    if arguments.latency is None and (needs := {"latency", "total"} & set(minima)):
        parser.error(f"--fail-under {min(needs)} needs --latency")
    _refuse_existing(arguments)
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
            say(_PROGRAM, f"{num_left_out} of {len(samples)} samples have no prediction: left out")
        if num_errors:
            policy = "are left out (--errors exclude)" if arguments.errors == "exclude" else "count as wrong"
            say(_PROGRAM, f"{num_errors} of {len(pairs)} images could not be used and {policy}")
        for line in results.remarks(result):
            say(_PROGRAM, line)
    failed = [gate for gate in result["gates"] if not gate["passed"]]
    for gate in failed:
        say(_PROGRAM, f"gate failed: {gate['name']} is {results.number(gate['value'])}, under {gate['minimum']}")
    return GATE if failed else DONE


def _compare(arguments: argparse.Namespace) -> int:
    _refuse_existing(arguments)
    from . import compare, results

    result = compare.compare(compare.load(arguments.a), compare.load(arguments.b), seed=arguments.seed)
    result["a"], result["b"] = arguments.a.name, arguments.b.name
    if arguments.output is not None:
        results.write_json(arguments.output, result)
    for line in compare.table(result):
        print(line)
    if not arguments.quiet:
        for line in compare.remarks(result):
            say(_PROGRAM, line)
    return DONE


def _report(arguments: argparse.Namespace) -> int:
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
        return fail(_PROGRAM, text, ENVIRONMENT)
    names = report.write(report.load(arguments.results), out)
    if not arguments.quiet:
        say(_PROGRAM, f"wrote {out / names[0]}, beside it {', '.join(names[1:])}")
    return DONE


def _tone(arguments: argparse.Namespace) -> int:
    _refuse_existing(arguments)
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
            say(_PROGRAM, line)
    return SOME_FAILED if any(angle.error for angle in found) else DONE


def _latency(arguments: argparse.Namespace) -> int:
    _refuse_existing(arguments)
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


def _fidelity(arguments: argparse.Namespace) -> int:
    _refuse_existing(arguments)
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
        say(_PROGRAM, f"{len(paths) - len(found)} of {len(paths)} images cannot be used: left out")
    return DONE


def _memory(arguments: argparse.Namespace) -> int:
    from edge.classifier import DEFAULT_MODEL

    from . import memory

    model = arguments.model or DEFAULT_MODEL
    print(f"{'photos':26} workers  peak MB")
    for kind, workers, peak_mb in memory.by_kind(model, workers=tuple(arguments.workers), count=arguments.count):
        print(f"{kind:26} {workers:7} {peak_mb:8.0f}", flush=True)
    early_mb, late_mb = memory.growth(model, workers=max(arguments.workers), count=arguments.many)
    print(f"{arguments.many} photos of 600x450: {early_mb:.0f} MB in the second tenth, {late_mb:.0f} MB in the last")
    return DONE


def _refuse_existing(arguments: argparse.Namespace) -> None:
    if arguments.output is not None and arguments.output.exists() and not arguments.force:
        raise FileExistsError(errno.EEXIST, "exists already (--force replaces it)", str(arguments.output))


def _add_output(parser: argparse.ArgumentParser, *, what: str = "the results as JSON") -> None:
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"write {what} here")
    parser.add_argument("--force", action="store_true", help="replace FILE")


def _add_talk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no remarks")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")


def _quantiles(text: str) -> int:
    if not 2 <= (value := natural(text)) <= 20:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected 2 to 20")
    return value


def _gate(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in GATES:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=VALUE with NAME one of {', '.join(GATES)}")
    return name, fraction(value)


def _quality(text: str) -> int:
    if not 1 <= (value := natural(text)) <= 100:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected 1 to 100")
    return value
