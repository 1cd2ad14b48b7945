"""edge-bench pi4b: cost on a Raspberry Pi 4B, counted without one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.arguments import ArgumentParser, positive
from edge.errors import EdgeError, InputError
from edge.exit import DONE, ENVIRONMENT, GATE, fail, say
from edge.output_files import OutputPath

from .arguments import PROGRAM, add_output, check_files

if TYPE_CHECKING:
    from edge.classifier import Classifier

HELP = "estimate the time on a Raspberry Pi 4B, without one"
DESCRIPTION = (
    "Instructions and cache misses of the runtime as an emulated Cortex-A72 process, and the milliseconds that a "
    "calibrated formula makes of them: modelled, not measured. Needs qemu-user, mmdebstrap and a C compiler."
)
EXAMPLE = """\
edge-bench pi4b
edge-bench pi4b -m a.onnx -m b.onnx --no-photos -o networks.json
edge-bench pi4b --baseline docs/pi4b-cost.json"""


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    text = "model, .onnx; repeatable (default: the bundled one)"
    add("-m", "--model", type=Path, action="append", metavar="FILE", help=text)
    add("--no-photos", action="store_true", help="count the networks only")
    text = "images per network call; repeatable (default 1 and 4)"
    add("-b", "--batch-size", type=positive, action="append", metavar="N", help=text)
    add("--peer", action="append", default=[], choices=("winners",), help="also count what the contest's winners run")
    add("--python", choices=("3.11", "3.13"), default="3.11", help="Raspberry Pi OS's: 3.11 of bookworm, or 3.13")
    text = "where the arm64 tree is kept (default: build/pi4b of the checkout)"
    add("--cache", type=OutputPath, metavar="FOLDER", help=text)
    add("--baseline", type=Path, metavar="FILE", help="exit status 6 when a region costs over 2 %% more than in FILE")
    add("--calibrate", type=Path, nargs="+", metavar="FILE", help="fit the formula also to reports of edge-bench board")
    add("--validate", action="store_true", help="print how well the model predicts published times, and stop")
    add_output(parser)


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Counts, and turns counts into modelled times."""
    from edge.classifier import DEFAULT_MODEL, Classifier

    from ..pi4b import board, count, decoding, estimate, programs, rootfs, time_model
    from ..pi4b.pieces import Spec
    from ..results.document import write_json

    _check_usage(arguments, parser)
    published = time_model.read_points()
    if arguments.validate:
        print("\n".join(decoding.validation(published)))
        return DONE
    models, reports = arguments.model or [DEFAULT_MODEL], arguments.calibrate or []
    check_files(arguments, [*models, *reports, *filter(None, [arguments.baseline])])
    before, old = (None, []) if arguments.baseline is None else count.read_costs(arguments.baseline)
    boards = [(path, board.read(path)) for path in reports]
    loaded = [Classifier.load(path) for path in models]
    digests = _digests(loaded)
    batches = arguments.batch_size or ([1] if arguments.no_photos else [1, estimate.BATCH])
    for path, report in boards:
        board.check(path, report, digests, batches)
    folder = (arguments.cache or rootfs.default_folder()).resolve()
    rootfs.check_folder(folder)
    programs.require(*programs.NEEDED)
    peers = ["opencv-python-headless"] if arguments.peer else []
    requirements = rootfs.pinned([*rootfs.RUNTIME, *peers], python=arguments.python)
    inputs = {"versions": rootfs.versions(arguments.python, requirements), "models": digests}
    if before is not None:
        _refuse_other_inputs(arguments.baseline, before, inputs)
    tree = rootfs.build_tree(folder, python=arguments.python, site_requirements=requirements)
    count.check(tree)
    photos = {} if arguments.no_photos else dict(estimate.write_photos(folder / "photos"))
    places = [str(path.absolute()) for path in models]
    spec = Spec([*map(str, photos)], loaded[0].preprocess.to_json(), places, batches, winners=bool(arguments.peer))
    costs, contents = count.count_regions(tree, spec), board.digests(spec.photos)
    scale = board.calibrated(published, [report for _, report in boards], costs, digests, contents)
    for path, report in boards if photos else ():
        if board.photo_ratios([report], costs, scale.formula, contents) is None:
            say(PROGRAM, f"{path}: says nothing of photos: none that the board measured has the content of one counted")
    estimates = estimate.estimates(costs, {path.name: share for path, share in photos.items()}, scale)
    result = {
        "schema": count.SCHEMA,
        "note": estimate.MODELLED,
        "versions": inputs["versions"],
        "debian_packages": tree.debian_packages(),
        "models": digests,
        "photos": contents,
        **scale.as_json(costs),
        "contest": [asdict(each) for each in estimates],
    }
    if arguments.output is not None:
        write_json(arguments.output, result)
    print("\n".join(estimate.table(costs, scale, estimates)))
    if before is None:
        return DONE
    # By the published times only, so that no board's report moves what matters.
    if worse := [*count.compare(old, costs, time_model.fit(published))]:
        return _fail(arguments.baseline, worse, before, result)
    say(PROGRAM, f"{len(old)} regions cost no more than in {arguments.baseline}")
    return DONE


def _check_usage(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """An option that would do nothing is a mistake."""
    if arguments.no_photos and arguments.peer:
        parser.error("--no-photos: got --peer as well, expected one or the other")
    if not arguments.validate:
        return
    plain = {**vars(parser.parse_args(["pi4b", "--validate"])), "quiet": arguments.quiet, "verbose": arguments.verbose}
    if given := [name for name, value in vars(arguments).items() if value != plain[name]]:
        parser.error(f"--validate: got {', '.join(given)} as well, expected no other option")


def _digests(loaded: Sequence[Classifier]) -> dict[str, str]:
    """Name -> SHA-256 of each model; results go by the one, reports of boards by the other."""
    names: dict[str, str] = {}
    for classifier in loaded:
        name, digest = classifier.path.name, classifier.sha256
        if name in names.values():
            raise InputError(f"models: got the name {name} twice, expected different ones: results go by name")
        if digest in names:
            raise InputError(f"models: {name} has the same content as {names[digest]}, expected different models")
        names[digest] = name
    return {name: digest for digest, name in names.items()}


def _refuse_other_inputs(path: Path, before: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]]) -> None:
    """Says before the count that it could not be compared with a baseline."""
    then, here = before["versions"].get("qemu"), inputs["versions"]["qemu"]
    if then != here:  # each emulates a program in its own way
        problem = f"{path}: counted with QEMU {then}, here is QEMU {here}: their counts cannot be compared"
        raise EdgeError(problem, exit_status=ENVIRONMENT)
    for what, new in inputs.items():
        if before[what] != new:
            names = ", ".join(sorted({name for name, _ in {*before[what].items()} ^ {*new.items()}}))
            problem = f"{path}: counted with other {what} ({names}): make a new baseline with -o"
            raise EdgeError(problem, exit_status=GATE)


def _fail(path: Path, worse: Sequence[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    """Says what got worse than in a baseline, and what else differs."""
    from ..pi4b.count import TOLERANCE

    for line in worse:
        say(PROGRAM, f"{path}: {line}")
    others = [what for what in ("debian_packages", "photos") if before.get(what) != now[what]]
    hint = f" (counted with other {' and '.join(others)})" if others else ""
    what = f"{len(worse)} counts are over {TOLERANCE:.0%} above {path}, or in only one of the two"
    return fail(PROGRAM, f"{what}{hint}", GATE)
