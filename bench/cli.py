"""edge-bench: make test images, time the pipeline, score predictions.

Standard output is data, standard error is talk. Heavy imports happen after the arguments are known to be good.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from edge import __version__
from edge.command import STATUSES, ArgumentParser, fraction, got, natural, positive, run, workers

from . import actions, photo_actions
from .results.gates import GATES
from .speed.peers import PEERS
from .metrics.profiles import DEFAULT, PROFILES

_GROUP = "manifest column with the group (default group); repeatable: the score compares the first, each has a section"
_SECTIONS = "further column that gets a section; repeatable (default: all that the results were scored by)"
_FAIL_UNDER = f"exit 6 when a value is lower; NAME is one of {', '.join(GATES)}"

_FAIL_UNDER_CHANGE = (
    "exit 6 when a value is lower; NAME is accuracy, balanced_accuracy, worst_group or unchanged (share of answers), "
    "of all changes or of those named before it, as border.accuracy, jpeg-50.unchanged, turn-mean.unchanged"
)
_EPILOG = f"""\
examples:
  edge-bench images photos/ -n 100           test images with the sizes of the ESFair contest
  edge-bench images demo/ --mix demo         a dozen sample photos, one of them broken on purpose
  edge-infer -r data/ -o predictions.csv && edge-bench score predictions.csv --data data/

{STATUSES}"""


def build_parser() -> ArgumentParser:
    """The parser of edge-bench."""
    parser = ArgumentParser(prog=actions.PROGRAM, description="Measure what edge-infer does.", epilog=_EPILOG)
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
    add("--group", action="append", default=[], metavar="COLUMN", help=_GROUP)
    add("--split", metavar="NAME", help="score only the samples whose manifest column split says NAME")
    add("--subset", action="store_true", help="leave out samples without a prediction instead of stopping")
    add("--profile", choices=PROFILES, default=DEFAULT, help=f"reading of the rules (default {DEFAULT})")
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
    add("--group", metavar="COLUMN", help="compare these groups, of a column both were scored by (default A's first)")
    add("--seed", type=natural, default=0, metavar="N", help="of the bootstrap (default 0)")
    _add_output(compare)
    _add_talk(compare)

    robustness = commands.add_parser("robustness", help="what changes that must not change the answer cost",
                                     description=_ROBUSTNESS)
    add = robustness.add_argument
    add("data", type=Path, metavar="DATA", help="data set: ROOT/<group>/<class>/ or a manifest.csv")
    add("-m", "--model", type=Path, metavar="FILE", help="model (.onnx); default: the bundled one")
    add("--label", default="class", metavar="COLUMN", help="manifest column with the true class (default class)")
    add("--group", default="group", metavar="COLUMN", help="manifest column with the group (default group)")
    add("--subset", type=Path, metavar="FILE", help="paths of the images, one a line (default all)")
    add("--allow-seen", action="store_true", help="also images that the model was trained on")
    add("--only", action="append", default=[], metavar="KIND", help="changes of this kind, as border (default all)")
    add("-w", "--workers", type=workers, metavar="N", help="threads (default: the usable cores)")
    add("--fail-under", type=_minimum, action="append", default=[], metavar="NAME=VALUE", help=_FAIL_UNDER_CHANGE)
    _add_output(robustness)
    _add_talk(robustness)

    report = commands.add_parser("report", help="one page, a summary and tables from results", description=_REPORT)
    add = report.add_argument
    add("results", nargs="+", type=Path, metavar="RESULTS.json", help="results of edge-bench score")
    add("--group", action="append", default=[], metavar="COLUMN", help=_SECTIONS)
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
    add("-w", "--workers", type=workers, metavar="N", help="threads (default: the usable cores)")
    add("-b", "--batch-size", type=positive, default=4, metavar="N", help="images per network call (default 4)")
    add("--sample", type=positive, default=100, metavar="N", help="images drawn (default 100)")
    add("--runs", type=positive, default=10, metavar="N", help="timed iterations (default 10)")
    add("--seed", type=natural, default=0, metavar="N", help="of the draw (default 0)")
    add("--null", action="store_true", help="a network that does nothing: the cost of everything else")
    add("--no-cold-start", action="store_true", help="do not time whole commands in new processes at the end")
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
    add("-w", "--workers", type=workers, nargs="+", default=[1, 2, 4], metavar="N", help="threads (default 1 2 4)")
    add("-n", "--count", type=positive, default=24, metavar="N", help="photos of each kind (default 24)")
    add("--many", type=positive, default=10_000, metavar="N", help="small photos for the growth (default 10000)")
    _add_talk(memory)

    pi4b = commands.add_parser("pi4b", help="what it will cost on a Raspberry Pi 4B, without one", description=_PI4B)
    add = pi4b.add_argument
    add("-m", "--model", type=Path, action="append", metavar="FILE", help="model (.onnx), repeatable; default: bundled")
    add("--images", type=Path, metavar="PATH", help="your photos instead of the contest's sizes: a folder or a file")
    add("--sample", type=positive, default=12, metavar="N", help="photos drawn from --images (default 12)")
    add("--seed", type=natural, default=0, metavar="N", help="of the draw (default 0)")
    add("--no-photos", action="store_true", help="the networks alone")
    add("-b", "--batch-size", type=positive, action="append", metavar="N", help="repeatable (default 1 and 4)")
    add("--peer", action="append", default=[], choices=("winners",), help="also what the contest's winners run")
    add("--python", choices=("3.11", "3.13"), default="3.11", help="of Raspberry Pi OS (default 3.11, bookworm)")
    add("--cache", type=Path, metavar="DIR", help="where the arm64 tree is kept (default build/pi4b of the checkout)")
    add("--baseline", type=Path, metavar="FILE", help="exit 6 when a region costs over 2 %% more than in FILE")
    add("--calibrate", type=Path, nargs="+", metavar="FILE", help="fit also to reports of edge-bench board")
    add("--validate", action="store_true", help="print how well the model tells published times, and stop")
    _add_output(pi4b)
    _add_talk(pi4b)

    board = commands.add_parser("board", help="measure on a Raspberry Pi 4B, in one go", description=_BOARD)
    add = board.add_argument
    add("-m", "--model", type=Path, metavar="FILE", help="model (.onnx); default: the bundled one")
    add("--photos", type=Path, default=Path("board-photos"), metavar="DIR", help="for generated photos, 170 MB")
    add("--counts", type=Path, metavar="FILE", help="results of edge-bench pi4b, to print beside")
    add("--runs", type=positive, default=10, metavar="N", help="timed passes (default 10)")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="write the report as JSON here")
    add("--force", action="store_true", help="replace FILE")
    _add_talk(board)

    show = commands.add_parser("show", help="print the table of a results file again", description=_SHOW)
    show.add_argument("results", type=Path, metavar="RESULTS", help="JSON of score, compare, latency or fidelity")
    _add_talk(show)
    return parser


_IMAGES = "Write photo-like test images: skin with a lesion, hairs and noise, drawn from a seed."
_LATENCY = "Seconds per 100 images, from file path to label: 10 runs over 100 images drawn with a seed, warm-up apart."
_FIDELITY = "Labels and network input after scaled decoding, as shipped, against a full-size decode of the same photo."
_MEMORY = "Peak resident memory of a whole edge-infer process, and whether it grows with the number of photos."
_PI4B = (
    "Instructions and cache misses of the runtime as an emulated Cortex-A72 process, and the milliseconds that a "
    "calibrated formula makes of them: modelled, not measured. Needs qemu-user, mmdebstrap and a C compiler."
)
_BOARD = (
    "Self-test, the contest's latency, every layer of the network and the pieces that edge-bench pi4b counts. The "
    "first time it draws 110 photos, which takes longer than the rest."
)
_SHOW = "The same lines that the command printed which wrote the file."
_SCORE = "Accuracy, fairness and the contest's score, with intervals. An image that could not be used counts as wrong."
_ROBUSTNESS = (
    "Accuracy, balanced accuracy, worst group and changed answers under borders, crops, sizes, turns, JPEG, blur, "
    "noise and light, paired with the answers to the files as they are. docs/robustness.md has the table."
)
_REPORT = "DIR/index.html: one page without script or network, DIR/summary.md, and every number in DIR/*.csv."
_TONE = "Individual typology angle (ITA) of the skin around the lesion. Quantile groups for audits: no skin types."
_COMPARE = "B minus A with paired intervals. Both must be of the same images, labels, groups and profile."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-bench; returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    commands = {
        "board": lambda: _pi4b_actions().run_board(arguments),
        "compare": lambda: actions.run_compare(arguments),
        "fidelity": lambda: photo_actions.run_fidelity(arguments),
        "images": lambda: photo_actions.run_images(arguments, parser),
        "latency": lambda: photo_actions.run_latency(arguments),
        "memory": lambda: photo_actions.run_memory(arguments),
        "pi4b": lambda: _pi4b_actions().run_pi4b(arguments, parser),
        "report": lambda: actions.run_report(arguments, parser),
        "robustness": lambda: _robustness_actions().run_robustness(arguments, parser),
        "score": lambda: actions.run_score(arguments, parser),
        "show": lambda: actions.run_show(arguments),
        "tone": lambda: photo_actions.run_tone(arguments),
    }
    return run(actions.PROGRAM, commands[arguments.command], verbose=arguments.verbose)


def _robustness_actions() -> ModuleType:
    from .robustness import actions as robustness_actions

    return robustness_actions


def _pi4b_actions() -> ModuleType:
    from .pi4b import actions as pi4b_actions  # onnxruntime, which --help does without

    return pi4b_actions


def _add_output(parser: argparse.ArgumentParser, *, what: str = "the results as JSON") -> None:
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"write {what} here")
    parser.add_argument("--force", action="store_true", help="replace FILE")


def _add_talk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no remarks")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")


def _quantiles(text: str) -> int:
    if not 2 <= (value := natural(text)) <= 20:
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected 2 to 20")
    return value


def _gate(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in GATES:
        expected = f"NAME=VALUE with NAME one of {', '.join(GATES)}"
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected {expected}")
    return name, fraction(value)


def _minimum(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, fraction(value)


def _quality(text: str) -> int:
    if not 1 <= (value := natural(text)) <= 100:
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected 1 to 100")
    return value
