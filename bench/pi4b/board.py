"""What only a board can say: the same regions timed, the contest's latency, the network layer by layer."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime as ort

from edge import device, selftest
from edge.arguments import got
from edge.classifier import Classifier
from edge.errors import EdgeError
from edge.progress import Progress

from ..photos import images
from ..speed import latency
from . import decoding, estimate
from .count import Cost, reading
from .estimate import Scale
from .pieces import Region, Spec, regions
from .programs import Pi4bError
from .time_model import CLOCK_HZ, Formula, Point, Range, fit, read_points, validate

SCHEMA = "edge-board/1"
BOARD = "Raspberry Pi 4 Model B"
_GROUP = "boards"
"""All that was measured on boards is left out of the fit together: a report does not say which of its files are one
network, in float32 and int8 or at two sizes."""


def measure(model: Path, photos: Path, *, runs: int, quiet: bool) -> dict[str, Any]:
    """The report of a board, JSON-ready.

    `photos` is a folder for generated ones: those that are counted, and 100 of the contest's mix. `runs` are the timed
    calls of each region, and the passes of the latency protocol.

    Raises:
      Pi4bError: nothing can run here.
    """
    if (problem := selftest.environment_problem()) is not None:
        raise Pi4bError(problem)
    check = list(selftest.report(model))
    classifier = Classifier.load(model)
    watch = latency.Watch()
    sizes = [str(path) for path, _ in estimate.write_photos(photos / "sizes")]
    spec = Spec(sizes, classifier.preprocess.to_json(), [str(model)], [1, estimate.BATCH])
    progress = Progress(2 * len(sizes) + len(spec.batches), unit="region", quiet=quiet)
    timed = []
    for region in regions(spec):
        timed.append(_timed(region, runs))
        progress.update(len(timed))
    progress.close()
    protocol = latency.Protocol(runs=runs, workers=device.usable_cores(), batch_size=estimate.BATCH)
    paths, errors, first_s = latency.draw(classifier, _mix(photos / "mix"), protocol)
    summary = latency.summarize(list(latency.timings(classifier, paths, protocol)), paths, errors, protocol, first_s)
    return {
        "schema": SCHEMA,
        "check": check,
        "versions": device.versions(),
        "model": {"name": model.name, "sha256": classifier.sha256},
        "photos": digests(sizes),
        "regions": timed,
        "layers": layers(model),
        "latency": summary,
        **watch.finish(summary),
    }


def layers(model: Path, *, runs: int = 10) -> list[dict[str, Any]]:
    """Mean milliseconds of each node of the network on one image and one thread, in order."""
    side = Classifier.load(model).preprocess.size_px
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    with TemporaryDirectory() as scratch:
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = ort.InferenceSession(model.read_bytes(), options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(["logits"], {"images": np.zeros((1, side, side, 3), np.uint8)})
        events = json.loads(Path(session.end_profiling()).read_text())
    spent: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            spent.setdefault(key, []).append(event["dur"] / 1e3)
    # The first call sets up what later ones use.
    return [{"name": name, "operator": op, "ms": statistics.fmean(ms[1:])} for (name, op), ms in spent.items()]


def digests(photos: Iterable[str]) -> dict[str, str]:
    """Name -> SHA-256 of each file."""
    return {Path(path).name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in photos}


def read(path: Path) -> dict[str, Any]:
    """The report of a board, fit for calibration.

    Raises:
      EdgeError: no such file, another kind of file, another machine, or a run that calls itself invalid.
    """
    with reading(path, "report", "report of a board"):
        report: Any = json.loads(path.read_bytes())  # NaN and Infinity pass here, and are refused below
        if not isinstance(report, dict) or report.get("schema") != SCHEMA:
            raise EdgeError(f"{path}: no report of edge-bench board, expected JSON with the schema {SCHEMA}")
        before = report["machine"]["before"]
        if BOARD not in str(before["board"]):
            raise EdgeError(f"{path}: measured on {before['board']}, expected a {BOARD}")
        if not report["valid"]:
            raise EdgeError(f"{path}: the run calls itself invalid: {'; '.join(map(str, report['reasons']))}")
        if not _is_within(clock_mhz := before["clock_max_mhz"], 100, 4000):
            raise EdgeError(f"{path}: got a clock of {got(str(clock_mhz))} MHz, expected 100 to 4000")
        for region in report["regions"]:
            kind, name, ms = region["kind"], region["name"], region["ms"]
            if not (isinstance(kind, str) and isinstance(name, str) and type(region["batch"]) is int):
                raise TypeError("a region without a kind, a name or a batch size")
            if not _is_within(ms, 1e-6, 3.6e6):
                raise EdgeError(f"{path}: {name[:80]}: got {got(str(ms))} ms, expected a positive number below an hour")
        if not all(isinstance(report["model"][key], str) for key in ("name", "sha256")):
            raise TypeError("the model's name and digest: expected text")
        photos = report["photos"]
        if not (isinstance(photos, dict) and all(isinstance(digest, str) for digest in photos.values())):
            raise TypeError("the photos' digests: expected names and text")
    return report


def check(path: Path, report: Mapping[str, Any], models: Mapping[str, str], batches: Sequence[int]) -> None:
    """Says before the count, as EdgeError, that a report has none of `models` (name -> SHA-256), or of `batches`."""
    name, digest = report["model"]["name"][:80], report["model"]["sha256"]
    if digest not in models.values():
        raise EdgeError(f"{path}: the board measured {name} ({digest[:12]}), which is not counted: give it with -m")
    timed = sorted({region["batch"] for region in report["regions"] if region["kind"] == "infer"})
    if not {*timed} & {*batches}:
        raise EdgeError(f"{path}: the board measured batch sizes {timed}, expected one of {[*batches]}")


def network_points(report: Mapping[str, Any], costs: Sequence[Cost], models: Mapping[str, str]) -> list[Point]:
    """The networks of a report that has passed `check`, to fit to: counted here, timed there, scaled to 1.8 GHz."""
    found = _matched(report, [cost for cost in costs if cost.kind == "infer"], models)
    return [Point(cost.label, ms, cost.counts, _GROUP) for cost, ms in found]


def calibrated(
    published: Sequence[Point], reports: Sequence[Mapping[str, Any]], costs: Sequence[Cost],
    models: Mapping[str, str], photos: Mapping[str, str],
) -> Scale:
    """What turns counts of `models` and `photos` (name -> SHA-256) into times, by published times and by boards."""
    points = [*published, *(point for report in reports for point in network_points(report, costs, models))]
    formula = fit(points)
    factors = decoding.decoding_range(decoding.read_decodes(), formula)
    return Scale(formula, validate(points), photo_ratios(reports, costs, formula, photos) or factors, factors)


def photo_ratios(
    reports: Sequence[Mapping[str, Any]], costs: Sequence[Cost], formula: Formula, photos: Mapping[str, str]
) -> Range | None:
    """Lowest and highest ratio of measured to modelled time of what we do to `photos` (name -> SHA-256), if any was."""
    ours = [cost for cost in costs if cost.kind in ("decode", "resize")]
    ratios = [ms / formula.ms(cost.counts) for report in reports for cost, ms in _matched(report, ours, photos)]
    return (min(ratios), max(ratios)) if ratios else None


def table(report: Mapping[str, Any], counted: Mapping[str, str], costs: Sequence[Cost]) -> Iterator[str]:
    """The lines a person reads; `costs` are printed beside, of what is `counted` (name -> SHA-256)."""
    yield from report["check"]
    yield from latency.table({**report, "peak_memory_mb": latency.peak_memory_mb()})
    formula, names = fit(read_points()), _names(report, counted)
    modelled = {(cost.kind, cost.name, cost.batch): f"{formula.ms(cost.counts):11.2f}" for cost in costs}
    yield "region                         measured ms   (fastest to slowest)   modelled ms"
    for region in report["regions"]:
        kind, name, batch = region["kind"], region["name"], region["batch"]
        measured = f"{region['ms']:10.2f}   ({region['low_ms']:.2f} to {region['high_ms']:.2f})"
        beside = modelled.get((kind, names.get(name, ""), batch), f"{'-':>11}")
        yield f"  {Cost(kind, name, batch, {}).label:28} {measured} {beside}"
    yield f"slowest of {len(report['layers'])} layers:"
    for layer in sorted(report["layers"], key=lambda layer: -layer["ms"])[:10]:
        yield f"  {layer['ms']:8.3f} ms  {layer['operator']:16} {layer['name']}"


def _mix(folder: Path) -> list[str]:
    """100 photos of the contest's mix, generated unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob("*.jpg"))) < 100:
        for name, data in images.mix_files(images.ESFAIR, 100):
            images.write(folder, name, data)
    return sorted(str(path) for path in folder.glob("*.jpg"))


def _is_within(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


def _timed(region: Region, runs: int) -> dict[str, Any]:
    region.run()
    times = []
    for _ in range(runs):
        start = perf_counter()
        region.run()
        times.append(1e3 * (perf_counter() - start))
    measured = {"ms": statistics.median(times), "low_ms": min(times), "high_ms": max(times)}
    return {"kind": region.kind, "name": Path(region.path).name, "batch": region.batch, **measured}


def _matched(
    report: Mapping[str, Any], costs: Sequence[Cost], digests: Mapping[str, str]
) -> Iterator[tuple[Cost, float]]:
    """Each region that was counted of a file that the board had too, with its measured time, scaled to 1.8 GHz."""
    names = _names(report, digests)
    clock = float(report["machine"]["before"]["clock_max_mhz"]) * 1e6 / CLOCK_HZ
    times = {(r["kind"], names.get(r["name"]), r["batch"]): float(r["ms"]) * clock for r in report["regions"]}
    for cost in costs:
        if (ms := times.get((cost.kind, cost.name, cost.batch))) is not None:
            yield cost, ms


def _names(report: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, str]:
    """A board's name of a file -> the name here of one with the same content; `digests` has those, by name."""
    ours = {digest: name for name, digest in digests.items()}
    theirs = {**report["photos"], report["model"]["name"]: report["model"]["sha256"]}
    return {name: ours[digest] for name, digest in theirs.items() if digest in ours}
