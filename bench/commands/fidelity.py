"""edge-bench fidelity: scaled against full decoding."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser, natural, positive
from edge.errors import InputError
from edge.exit import DONE, SOME_FAILED, say

from .arguments import PROGRAM, add_output, add_talk, check_files

HELP = "scaled against full decoding"
DESCRIPTION = (
    "Labels and network input after scaled decoding, as shipped, against a full-size decode of the same "
    "photo."
)


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("images", nargs="+", metavar="PATH", help="as for edge-infer: file, folder, pattern, @list.txt, -")
    add("-m", "--model", type=Path, metavar="FILE", help="model (.onnx); default: the bundled one")
    add("-r", "--recursive", action="store_true", help="search folders to the bottom")
    add("-n", "--sample", type=positive, metavar="N", help="draw N of the photos (default all)")
    add("--enlarge", action="store_true", help="first make each photo as large as the contest's")
    add("--seed", type=natural, default=0, metavar="N", help="of the draws (default 0)")
    add_output(parser)
    add_talk(parser)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Compares scaled with full decoding."""
    import numpy as np

    from edge.classifier import DEFAULT_MODEL, Classifier
    from edge.image_list import collect
    from edge.progress import Progress

    from ..results import document
    from ..speed import fidelity

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
