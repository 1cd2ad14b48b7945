"""edge-bench images: photo-like test images."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from edge.arguments import ArgumentParser, fraction, got, natural, positive
from edge.exit import DONE, INTERRUPTED, fail, say
from edge.output_files import OutputPath

from .arguments import PROGRAM, check_folder

HELP = "draw photo-like test images"
DESCRIPTION = "Write photo-like test images: skin with a lesion, hairs and noise, drawn from a seed."
EXAMPLE = """\
edge-bench images -o photos -n 100       # the sizes of the ESFair contest
edge-bench images -o demo --mix demo     # a dozen, one broken on purpose"""


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    text = "sizes and kinds of file: the contest's, or a dozen for a demonstration"
    add("--mix", choices=("esfair", "demo"), default="esfair", help=text)
    add("-n", "--count", type=positive, metavar="N", help="how many images (default 100; demo: always 12)")
    add("--seed", type=natural, default=0, metavar="N", help="equal seeds give equal files")
    add("--quality", type=_quality, metavar="Q", help="JPEG quality, 1 to 100 (default 90)")
    add("--progressive-share", type=fraction, metavar="P", help="share of progressive JPEGs, 0 to 1 (default 0)")
    add("--force", action="store_true", help="write into a folder that is not empty")
    output = parser.add_mutually_exclusive_group(required=True).add_argument
    output("-o", "--output", type=OutputPath, metavar="FOLDER", help="folder for the images, made if needed (required)")
    output("out", nargs="?", type=OutputPath, metavar="FOLDER", help=argparse.SUPPRESS)  # what -o was once


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Writes generated photos."""
    out: Path = arguments.output or arguments.out
    settings = {"quality": arguments.quality, "progressive_share": arguments.progressive_share}
    given = {name: value for name, value in settings.items() if value is not None}
    if arguments.mix == "demo" and (given or arguments.count is not None):
        parser.error("--count, --quality and --progressive-share do not apply to --mix demo")
    check_folder(out, force=arguments.force)
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()

    from edge.progress import Progress

    from ..photos import images

    if arguments.mix == "demo":
        count, files = len(images.DEMO), images.demo_files(seed=arguments.seed)
    else:
        count = arguments.count or 100
        files = images.mix_files(images.ESFAIR, count, seed=arguments.seed, **given)
    written, num_bytes = set(), 0
    try:
        with closing(Progress(count, quiet=arguments.quiet)) as progress:
            for name, data in files:
                images.write(out, name, data)
                written.add(name)
                num_bytes += len(data)
                progress.update(len(written))
    except KeyboardInterrupt:
        return fail(PROGRAM, f"interrupted after {len(written)} of {count} images; those are whole", INTERRUPTED)
    if not arguments.quiet:
        say(PROGRAM, f"{len(written)} images, {num_bytes / 1e6:.1f} MB, seed {arguments.seed}, in {out}")
        if others := found - written:
            say(PROGRAM, f"{len(others)} other files were in {out} and stay there, as {min(others)}")
    return DONE


def _quality(text: str) -> int:
    if not 1 <= (value := natural(text)) <= 100:
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected 1 to 100")
    return value
