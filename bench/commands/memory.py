"""edge-bench memory: peak memory of edge-infer by kind of photo."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser, positive, workers
from edge.exit import DONE

from .arguments import add_talk

HELP = "peak memory of edge-infer by kind of photo"
DESCRIPTION = "Peak resident memory of a whole edge-infer process, and whether it grows with the number of photos."


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("-m", "--model", type=Path, metavar="FILE", help="model (.onnx); default: the bundled one")
    add("-w", "--workers", type=workers, nargs="+", default=[1, 2, 4], metavar="N", help="threads (default 1 2 4)")
    add("-n", "--count", type=positive, default=24, metavar="N", help="photos of each kind (default 24)")
    add("--many", type=positive, default=10_000, metavar="N", help="small photos for the growth (default 10000)")
    add_talk(parser)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Measures peak memory."""
    from edge.classifier import DEFAULT_MODEL

    from ..speed import peak_memory

    model = arguments.model or DEFAULT_MODEL
    print(f"{'photos':26} workers  peak MB")
    threads = tuple(arguments.workers)
    for kind, num_threads, peak_mb in peak_memory.by_kind(model, workers=threads, count=arguments.count):
        print(f"{kind:26} {num_threads:7} {peak_mb:8.0f}", flush=True)
    early_mb, late_mb = peak_memory.growth(model, workers=max(threads), count=arguments.many)
    print(f"{arguments.many} photos of 600x450: {early_mb:.0f} MB in the second tenth, {late_mb:.0f} MB in the last")
    return DONE
