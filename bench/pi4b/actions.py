"""What `edge-bench pi4b` and `edge-bench board` do: each takes the parsed arguments and returns the exit status."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge.classifier import DEFAULT_MODEL, Classifier
from edge.command import DONE, GATE, SOME_FAILED, fail, say
from edge.errors import DecodeError, InputError
from edge.inputs import collect

from ..actions import PROGRAM, check_files
from ..results import write_json
from . import contest, cost, decoding, measured, model, tools
from .cost import Cost
from .regions import PHOTO_KINDS, Spec
from .tree import RUNTIME, SUITES, Tree, build_tree, default_folder, pinned

MODELLED = "modelled, not measured: one Cortex-A72 core of a Raspberry Pi 4B at 1.8 GHz"


def run_pi4b(arguments: argparse.Namespace) -> int:
    """Counts, and turns counts into modelled times."""
    models = arguments.model or [DEFAULT_MODEL]
    boards = arguments.calibrate or []
    baseline = None if arguments.baseline is None else cost.read_costs(arguments.baseline)
    check_files(arguments, [*models, *boards, *filter(None, [arguments.baseline, arguments.images])])
    loaded = [Classifier.load(path) for path in models]
    if len({path.name for path in models}) < len(models):
        raise InputError(f"models: got the name {models[-1].name} twice, expected different ones: results go by name")
    reports = [measured.read(path) for path in boards]
    if arguments.validate:
        for line in _validation(model.read_points()):
            print(line)
        return DONE
    tools.require("qemu-aarch64", "mmdebstrap", "cc", "setarch")
    folder = (arguments.cache or default_folder()).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tree = _tree(folder, arguments)
    photos, unusable = _photos(folder, arguments, loaded[0])
    names = {str(path.resolve()): path.name for path in models} | {path: name for path, name, _ in photos}
    spec = Spec(
        photos=tuple(path for path, _, _ in photos),
        preprocess=loaded[0].preprocess.to_json(),
        models=tuple(str(path.resolve()) for path in models),
        batches=tuple(arguments.batch_size or ([1] if arguments.no_photos else [1, contest.BATCH])),
        winners="winners" in arguments.peer,
    )
    costs = cost.count(tree, spec, names)
    digests = {classifier.path.name: classifier.sha256 for classifier in loaded}
    points = model.read_points() + [p for report in reports for p in measured.network_points(report, costs, digests)]
    formula, validation = model.fit(points), model.validate(points)
    decodes = decoding.read_decodes()
    ranges = measured.photo_ratios(reports, costs, formula) or decoding.decoding_range(decodes, formula)
    scale = contest.Scale(formula, ranges, (1 - validation.left_out_max, 1 + validation.left_out_max))
    estimates = contest.estimates(costs, {name: share for _, name, share in photos}, scale)
    result = {
        "schema": cost.SCHEMA,
        "note": MODELLED,
        "versions": _versions(arguments),
        "models": digests,
        "regions": [_region(each, scale) for each in costs],
        "formula": asdict(formula),
        "validation": {**asdict(validation), "points": len(points)},
        "photo_factors": list(ranges),
        "contest": [asdict(estimate) for estimate in estimates],
    }
    if arguments.output is not None:
        write_json(arguments.output, result)
    for line in table(costs, scale, estimates, validation, len(points), is_mix=arguments.images is None):
        print(line)
    if baseline is not None:
        return _gate(arguments.baseline, baseline, costs, result, formula)
    return SOME_FAILED if unusable else DONE


def run_board(arguments: argparse.Namespace) -> int:
    """Measures on the board that this runs on."""
    path = arguments.model or DEFAULT_MODEL
    check_files(arguments, [path, *([] if arguments.counts is None else [arguments.counts])])
    counts = None if arguments.counts is None else cost.read_costs(arguments.counts)
    report = measured.measure(path, arguments.photos, runs=arguments.runs, quiet=arguments.quiet)
    write_json(arguments.output, report)
    for line in measured.table(report, None if counts is None else counts[1]):
        print(line)
    if not arguments.quiet:
        say(PROGRAM, f"wrote {arguments.output}: edge-bench pi4b --calibrate {arguments.output} uses it")
    return DONE


def table(
    costs: Sequence[Cost],
    scale: contest.Scale,
    estimates: Sequence[contest.Estimate],
    validation: model.Validation,
    num_points: int,
    *,
    is_mix: bool,
) -> Iterator[str]:
    """The lines a person reads."""
    yield MODELLED
    width = max(len(each.label) for each in costs)
    yield f"{'region':{width}}  instructions  L1 misses  L2 misses  mispredicted   modelled ms"
    for each in costs:
        counts, (low, high) = each.counts, scale.range_ms(each)
        misses = f"{counts.l1_misses:10,.0f} {counts.l2_misses:10,.0f} {counts.branch_misses:13,.0f}"
        yield f"{each.label:{width}} {counts.instructions:13,.0f} {misses}   {low:.1f} to {high:.1f}"
    yield (
        f"networks: {num_points} published networks are told within {validation.fit_mean:.1%} on average, "
        f"{validation.fit_max:.1%} at most; left out of the fit, {validation.left_out_mean:.1%} and "
        f"{validation.left_out_max:.1%}"
    )
    low, high = scale.decoding
    if any(each.kind in PHOTO_KINDS for each in costs):
        yield f"photos: between {low:.2f} and {high:.2f} times the formula, as published (--validate) or measured"
    if estimates:
        yield f"100 photos of {'the contest mix' if is_mix else 'these'}, modelled seconds:"
    for estimate in estimates:
        (low, high), (low4, high4), (worst, best) = estimate.one_thread_s, estimate.four_cores_s, estimate.score
        yield (
            f"  {estimate.runtime}, {estimate.model}: one thread {low:.1f} to {high:.1f}, four cores {low4:.1f} to "
            f"{high4:.1f}, latency score {worst:.3f} to {best:.3f}"
        )
    for ours, theirs in ((a, b) for a in estimates for b in estimates if a.model == b.model):
        if (ours.runtime, theirs.runtime) == ("ours", "winners"):
            low, high = sorted(b / a for a, b in zip(ours.one_thread_s, theirs.one_thread_s, strict=True))
            yield f"  winners / ours, {ours.model}: {low:.1f} to {high:.1f}"


def _validation(points: Sequence[model.Point]) -> Iterator[str]:
    formula = model.fit(points)
    coefficients = f"{formula.per_instruction:.3f} instructions + {formula.per_l1_miss:.1f} (L1 - L2 misses)"
    yield f"cycles = max({coefficients} + {formula.per_l2_miss:.1f} L2 misses, SIMD operations)"
    yield "network             published ms   modelled   left out of the fit"
    for point in points:
        others = model.fit([other for other in points if other is not point])
        fitted, told = formula.ms(point.counts), others.ms(point.counts)
        yield f"  {point.name:17} {point.ms:12.1f} {fitted:10.1f} {told:10.1f} ({told / point.ms - 1:+.1%})"
    errors = model.validate(points)
    left_out = f"{errors.left_out_mean:.1%} and {errors.left_out_max:.1%}"
    yield f"error: {errors.fit_mean:.1%} on average, {errors.fit_max:.1%} at most; left out of the fit, {left_out}"
    yield from decoding.table(decoding.read_decodes(), formula)


def _tree(folder: Path, arguments: argparse.Namespace) -> Tree:
    return build_tree(folder, python=arguments.python, site_requirements=_requirements(arguments))


def _requirements(arguments: argparse.Namespace) -> list[str]:
    names = (*RUNTIME, *(["opencv-python-headless"] if "winners" in arguments.peer else []))
    return pinned(names, python=arguments.python)


def _photos(
    folder: Path, arguments: argparse.Namespace, classifier: Classifier
) -> tuple[list[tuple[str, str, float]], int]:
    """(path, name, share) of each photo to count, and how many of the user's cannot be used."""
    if arguments.no_photos:
        return [], 0
    if arguments.images is None:
        return [(str(path), path.name, share) for path, share in contest.write_photos(folder / "photos")], 0
    inputs = collect([str(arguments.images)], recursive=True)
    order = np.random.default_rng(arguments.seed).permutation(len(inputs.paths))[: arguments.sample]
    usable: list[int] = []
    for i in sorted(order.tolist()):
        try:
            classifier.preprocess.load(inputs.paths[i])
            usable.append(i)
        except DecodeError as error:
            say(PROGRAM, f"left out: {error}")
    if not usable:
        raise InputError(f"{arguments.images}: none of {len(order)} images can be used")
    found = [(str(Path(inputs.paths[i]).resolve()), inputs.names[i], 1 / len(usable)) for i in usable]
    return found, len(order) - len(usable)


def _region(each: Cost, scale: contest.Scale) -> dict[str, Any]:
    low, high = scale.range_ms(each)
    return {**each.as_json(), "modelled_ms": round(scale.ms(each), 4), "range_ms": [round(low, 4), round(high, 4)]}


def _versions(arguments: argparse.Namespace) -> dict[str, str]:
    """What changes counts."""
    qemu = subprocess.run(["qemu-aarch64", "--version"], capture_output=True, text=True, check=True).stdout.split()
    versions = dict(requirement.split("==") for requirement in _requirements(arguments))
    return {"python": arguments.python, "debian": SUITES[arguments.python], "qemu": qemu[2], **versions}


def _gate(
    path: Path,
    baseline: tuple[dict[str, Any], list[Cost]],
    costs: Sequence[Cost],
    now: Mapping[str, Any],
    formula: model.Formula,
) -> int:
    before, old = baseline
    for what in ("versions", "models"):
        if before.get(what) != now[what]:
            changed = {*before.get(what, {}).items()} ^ {*now[what].items()}
            names = ", ".join(sorted({name for name, _ in changed}))
            return fail(PROGRAM, f"{path}: counted with other {what} ({names}): make a new baseline with -o", GATE)
    if worse := list(cost.compare(old, costs, formula)):
        for line in worse:
            say(PROGRAM, f"dearer than {path}: {line}")
        return fail(PROGRAM, f"{len(worse)} counts are over {cost.TOLERANCE:.0%} above {path}", GATE)
    say(PROGRAM, f"{len(old)} regions cost no more than in {path}")
    return DONE
