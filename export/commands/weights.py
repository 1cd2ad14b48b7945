"""edge-export weights: the weights in training form."""

from __future__ import annotations

import argparse

from bench.commands.arguments import add_output
from edge.arguments import ArgumentParser
from edge.exit import DONE
from edge.output_files import check_output

from .arguments import add_run, write_model

HELP = "write the weights in training form, to fine-tune from"
EXAMPLE = "edge-export weights RUN -o model.safetensors"


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_run(parser)
    add_output(parser, "the file to write, .safetensors", required=True)


def run(arguments: argparse.Namespace, _: ArgumentParser) -> int:
    """Writes the weights in training form."""
    check_output(arguments.output, force=arguments.force)
    from train.checkpoint import load

    from ..to_safetensors import to_safetensors

    state = load(arguments.run)
    write_model(arguments, to_safetensors(state), state.classes)
    return DONE
