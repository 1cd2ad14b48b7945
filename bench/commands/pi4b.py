"""edge-bench pi4b: cost on a Raspberry Pi 4B, counted without one."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser, natural, positive

from .arguments import add_output, add_talk

HELP = "what it will cost on a Raspberry Pi 4B, without one"
DESCRIPTION = (
    "Instructions and cache misses of the runtime as an emulated Cortex-A72 process, and the milliseconds that a "
    "calibrated formula makes of them: modelled, not measured. Needs qemu-user, mmdebstrap and a C compiler."
)


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
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
    add_output(parser)
    add_talk(parser)


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Runs the command; returns its exit status."""
    from ..pi4b.actions import run_pi4b  # onnxruntime, which --help does without

    return run_pi4b(arguments, parser)
