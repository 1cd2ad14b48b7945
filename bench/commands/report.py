"""edge-bench report: one page, a summary and tables from results."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.arguments import ArgumentParser
from edge.exit import DONE, ENVIRONMENT, fail, say
from edge.output_files import OutputPath, refuse_input

from .arguments import PROGRAM, check_folder, refuse_twice

HELP = "write a page, a summary and tables of results"
DESCRIPTION = "FOLDER/index.html: one page without script or network; beside it summary.md, and every number in *.csv."
EXAMPLE = """\
edge-bench report results.json -o report
edge-bench report a.json b.json -o report     # two models side by side"""
_SECTIONS = "further column that gets a section; repeatable (default: all that the results were scored by)"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("results", nargs="+", type=Path, metavar="RESULTS", help="results of edge-bench score (JSON)")
    add("--group", action="append", default=[], metavar="COLUMN", help=_SECTIONS)
    add("-o", "--output", type=OutputPath, required=True, metavar="FOLDER", help="folder for the page, made if needed")
    add("--force", action="store_true", help="write into a folder that is not empty")


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Writes the page."""
    out: Path = arguments.output
    refuse_twice("--group", arguments.group, parser)
    check_folder(out, force=arguments.force)
    try:
        from ..report import page
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("matplotlib", "jinja2"):
            raise
        text = "report needs matplotlib and jinja2: pip install -e '.[report]' in the checkout"
        return fail(PROGRAM, text, ENVIRONMENT)
    for name in page.FILES:
        refuse_input(out / name)
    names = page.write(page.load(arguments.results, arguments.group), out)
    if not arguments.quiet:
        say(PROGRAM, f"wrote {out / names[0]}, beside it {', '.join(names[1:])}")
    return DONE
