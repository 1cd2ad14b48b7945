"""What `edge-bench pi4b` and `edge-bench board` do: each takes the parsed arguments and returns the exit status."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge.classifier import DEFAULT_MODEL, Classifier
from edge.errors import DecodeError, InputError
from edge.exit import DONE, ENVIRONMENT, GATE, SOME_FAILED, fail, say
from edge.image_list import collect

from ..commands.arguments import PROGRAM, check_files
from ..results.document import write_json
from . import board, count, decoding, estimate, programs, time_model
from .count import Cost
from .pieces import Spec
from .rootfs import RUNTIME, SUITES, build_tree, check_folder, default_folder, pinned

MODELLED = "modelled, not measured: one Cortex-A72 core of a Raspberry Pi 4B at 1.8 GHz"


def run_pi4b(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Counts, and turns counts into modelled times."""
    _check_usage(arguments, parser)
    if arguments.validate:
        print("\n".join(_validation(time_model.read_points())))
        return DONE
    models, boards = arguments.model or [DEFAULT_MODEL], arguments.calibrate or []
    check_files(arguments, [*models, *boards, *filter(None, [arguments.baseline, arguments.images])])
    baseline = None if arguments.baseline is None else count.read_costs(arguments.baseline)
    reports = [board.read(path) for path in boards]
    loaded = [Classifier.load(path) for path in models]
    digests = _digests(loaded)
    batches = tuple(arguments.batch_size or ([1] if arguments.no_photos else [1, estimate.BATCH]))
    for path, report in zip(boards, reports, strict=True):
        board.check(path, report, digests, batches)
    folder = (arguments.cache or default_folder()).resolve()
    check_folder(folder)
    users, unusable = _users_photos(arguments, loaded[0])
    programs.require(*programs.NEEDED)
    versions = _versions(arguments)
    if baseline and (status := _other_inputs(arguments.baseline, baseline[0], versions, digests)):
        return status
    tree = build_tree(folder, python=arguments.python, site_requirements=_requirements(arguments))
    count.check(tree)
    photos = _contest_photos(folder) if arguments.images is None and not arguments.no_photos else users
    names = {str(path.resolve()): path.name for path in models} | {path: name for path, name, _ in photos}
    spec = Spec(
        photos=tuple(path for path, _, _ in photos),
        preprocess=loaded[0].preprocess.to_json(),
        models=tuple(str(path.resolve()) for path in models),
        batches=batches,
        winners="winners" in arguments.peer,
    )
    costs = count.count_regions(tree, spec, names)
    published = time_model.read_points()
    points = published + [p for report in reports for p in board.network_points(report, costs, digests)]
    formula, validation = time_model.fit(points), time_model.validate(points)
    factors = decoding.decoding_range(decoding.read_decodes(), formula)
    contents = {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path, name, _ in photos}
    if photos:
        _say_which_boards_lack_photos(boards, reports, costs, formula, contents)
    own = board.photo_ratios(reports, costs, formula, contents) or factors
    scale = estimate.Scale(formula, photos=own, winners=factors, network=validation.factors())
    estimates = estimate.estimates(costs, {name: share for _, name, share in photos}, scale)
    result = {
        "schema": count.SCHEMA,
        "note": MODELLED,
        "versions": versions,
        "debian_packages": tree.debian_packages(),
        "models": digests,
        "photos": contents,
        "regions": [_region(each, scale) for each in costs],
        **_of_model(scale, validation, len(points)),
        "contest": [asdict(each) for each in estimates],
    }
    if arguments.output is not None:
        write_json(arguments.output, result)
    for line in table(costs, scale, estimates, validation, len(points), is_mix=arguments.images is None):
        print(line)
    if baseline is not None:
        return _gate(arguments.baseline, baseline, costs, result, time_model.fit(published))
    return SOME_FAILED if unusable else DONE


def _say_which_boards_lack_photos(
    boards: Sequence[Path],
    reports: Sequence[dict[str, Any]],
    costs: Sequence[Cost],
    formula: time_model.Formula,
    contents: Mapping[str, str],
) -> None:
    for path, report in zip(boards, reports, strict=True):
        if board.photo_ratios([report], costs, formula, contents) is None:
            say(PROGRAM, f"{path}: says nothing of photos: none that the board measured has the content of one counted")


def run_board(arguments: argparse.Namespace) -> int:
    """Measures on the board that this runs on."""
    path = arguments.model or DEFAULT_MODEL
    check_files(arguments, [path, *([] if arguments.counts is None else [arguments.counts])])
    counts, costs = (None, []) if arguments.counts is None else count.read_costs(arguments.counts)
    if counts is not None:
        board.check_counts(arguments.counts, counts, path)
    report = board.measure(path, arguments.photos, runs=arguments.runs, quiet=arguments.quiet)
    write_json(arguments.output, report)
    for line in board.table(report, counts, costs):
        print(line)
    if not arguments.quiet:
        say(PROGRAM, f"wrote {arguments.output}: edge-bench pi4b --calibrate {arguments.output} uses it")
    return DONE


def table(
    costs: Sequence[Cost],
    scale: estimate.Scale,
    estimates: Sequence[estimate.Estimate],
    validation: time_model.Validation,
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
        f"networks: {num_points} measured times are told within {validation.fit_mean:.1%} on average, "
        f"{validation.fit_max:.1%} at most; left out of the fit, {validation.left_out_mean:.1%} and "
        f"{validation.left_out_max:.1%}: a time is given as {_percents(scale.network)}"
    )
    (low, high), (low_of_winners, high_of_winners) = scale.photos, scale.winners
    kinds = {each.kind for each in costs}
    if kinds & {"decode", "resize"}:
        yield f"photos: between {low:.2f} and {high:.2f} times the formula, as published (--validate) or measured"
    if "winners" in kinds:
        yield f"photos of the winners: between {low_of_winners:.2f} and {high_of_winners:.2f} times, as published"
    if estimates:
        yield f"100 photos of {'the contest mix' if is_mix else 'these'}, modelled seconds:"
    for each in estimates:
        (low, high), (low4, high4), (worst, best) = each.one_thread_s, each.four_cores_s, each.score
        yield (
            f"  {each.runtime}, {each.model}: one thread {low:.1f} to {high:.1f}, four cores {low4:.1f} to "
            f"{high4:.1f}, latency score {worst:.3f} to {best:.3f}"
        )
    for ours, theirs in ((a, b) for a in estimates for b in estimates if a.model == b.model):
        if (ours.runtime, theirs.runtime) == ("ours", "winners"):
            low, high = estimate.compared(ours, theirs, scale)
            yield f"  winners / ours, {ours.model}: {low:.1f} to {high:.1f}"


def _validation(points: Sequence[time_model.Point]) -> Iterator[str]:
    formula = time_model.fit(points)
    coefficients = f"{formula.per_instruction:.3f} instructions + {formula.per_l1_miss:.1f} (L1 - L2 misses)"
    yield f"cycles = max({coefficients} + {formula.per_l2_miss:.1f} L2 misses, SIMD operations)"
    yield "network             published ms   modelled   left out of the fit"
    for point in points:
        fitted, told = formula.ms(point.counts), time_model.without(points, point.group).ms(point.counts)
        yield f"  {point.name:17} {point.ms:12.1f} {fitted:10.1f} {told:10.1f} ({told / point.ms - 1:+.1%})"
    errors = time_model.validate(points)
    left_out = f"{errors.left_out_mean:.1%} and {errors.left_out_max:.1%}"
    yield f"error: {errors.fit_mean:.1%} on average, {errors.fit_max:.1%} at most; left out of the fit, {left_out}"
    yield f"a time is therefore given as {_percents(errors.factors())}"
    yield from decoding.table(decoding.read_decodes(), formula)


def _percents(factors: estimate.Range) -> str:
    return "/".join(f"{factor - 1:+.1%}" for factor in factors)


def _check_usage(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """An option that would do nothing is a mistake."""
    if arguments.no_photos and (arguments.images is not None or arguments.peer):
        parser.error("--no-photos: got --images or --peer as well, expected one or the other")
    if not arguments.validate:
        return
    plain = vars(parser.parse_args(["pi4b", "--validate"]))
    talk = ("quiet", "verbose")
    if given := [name for name, value in vars(arguments).items() if value != plain[name] and name not in talk]:
        parser.error(f"--validate: got {', '.join(given)} as well, expected no other option")


def _digests(loaded: Sequence[Classifier]) -> dict[str, str]:
    """Name -> SHA-256 of each model.

    Raises:
      InputError: two have one name, or one content: results go by the one, reports of boards by the other.
    """
    names: dict[str, str] = {}
    found: dict[str, str] = {}
    for classifier in loaded:
        name, digest = classifier.path.name, classifier.sha256
        if name in found:
            raise InputError(f"models: got the name {name} twice, expected different ones: results go by name")
        if digest in names:
            raise InputError(f"models: {name} has the same content as {names[digest]}, expected different models")
        found[name], names[digest] = digest, name
    return found


def _requirements(arguments: argparse.Namespace) -> list[str]:
    names = (*RUNTIME, *(["opencv-python-headless"] if "winners" in arguments.peer else []))
    return pinned(names, python=arguments.python)


def _contest_photos(folder: Path) -> list[tuple[str, str, float]]:
    """(path, name, share) of each photo to count."""
    return [(str(path), path.name, share) for path, share in estimate.write_photos(folder / "photos")]


def _users_photos(
    arguments: argparse.Namespace, classifier: Classifier
) -> tuple[list[tuple[str, str, float]], int]:
    """The same of the user's own, if any, and how many cannot be used."""
    if arguments.images is None:
        return [], 0
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


def _of_model(scale: estimate.Scale, validation: time_model.Validation, num_points: int) -> dict[str, Any]:
    """What the results file says of the formula and of how far its times are to be trusted."""
    return {
        "formula": asdict(scale.formula),
        "validation": {**asdict(validation), "points": num_points},
        "network_factors": list(scale.network),
        "photo_factors": list(scale.photos),
        "winners_factors": list(scale.winners),
    }


def _region(each: Cost, scale: estimate.Scale) -> dict[str, Any]:
    low, high = scale.range_ms(each)
    return {**each.as_json(), "modelled_ms": round(scale.ms(each), 4), "range_ms": [round(low, 4), round(high, 4)]}


def _versions(arguments: argparse.Namespace) -> dict[str, str]:
    """What changes counts."""
    versions = dict(requirement.split("==") for requirement in _requirements(arguments))
    return {"python": arguments.python, "debian": SUITES[arguments.python], "qemu": programs.qemu_version(), **versions}


def _other_inputs(
    path: Path, before: Mapping[str, Any], versions: Mapping[str, str], digests: Mapping[str, str]
) -> int:
    """The exit status, not 0, when counts cannot be compared with a baseline: found before the count, not after it."""
    if (problem := count.other_qemu(path, before, versions["qemu"])) is not None:
        return fail(PROGRAM, problem, ENVIRONMENT)
    for what, new in (("versions", versions), ("models", digests)):
        if before[what] != new:
            names = ", ".join(sorted({name for name, _ in {*before[what].items()} ^ {*new.items()}}))
            return fail(PROGRAM, f"{path}: counted with other {what} ({names}): make a new baseline with -o", GATE)
    return DONE


def _gate(
    path: Path,
    baseline: tuple[dict[str, Any], list[Cost]],
    costs: Sequence[Cost],
    now: Mapping[str, Any],
    formula: time_model.Formula,
) -> int:
    """Compares with a baseline of the same versions and models.

    Args:
      path: Of the baseline.
      baseline: As `cost.read_costs` gives it.
      costs: Counted now.
      now: The results of now.
      formula: Of the published times alone, so that no board's report moves what matters.
    """
    before, old = baseline
    if worse := list(count.compare(old, costs, formula)):
        for line in worse:
            say(PROGRAM, f"{path}: {line}")
        others = [what for what in ("debian_packages", "photos") if before.get(what) != now[what]]
        hint = f" (counted with other {' and '.join(others)})" if others else ""
        what = f"{len(worse)} counts are over {count.TOLERANCE:.0%} above {path}, or in only one of the two"
        return fail(PROGRAM, f"{what}{hint}", GATE)
    say(PROGRAM, f"{len(old)} regions cost no more than in {path}")
    return DONE
