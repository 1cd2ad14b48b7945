"""edge-train show: a contact sheet of pictures as training sees them."""

from __future__ import annotations

import argparse
import io

from bench.commands.arguments import add_output
from edge.arguments import ArgumentParser
from edge.exit import DONE
from edge.output_files import check_output, write_output

from .arguments import add_data, add_recipe, config_of, say_next

HELP = "draw pictures as a recipe shows them to the network"
EXAMPLE = """\
edge-train show DATA -o sheet.png
edge-train show DATA --recipe lite --set zoom=0.3 -o sheet.png"""
_NUM_SHOWN = 8


def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_data(parser)
    add_output(parser, "the picture to write, PNG", required=True)
    add_recipe(parser, has_flags=False)


def run(arguments: argparse.Namespace, parser: ArgumentParser) -> int:
    """Draws a contact sheet of pictures as training sees them."""
    config = config_of(arguments, parser)
    check_output(arguments.output, force=arguments.force)
    from bench.dataset import index

    from ..data.contact_sheet import choose, contact_sheet
    from ..data.images import load_images, training_preprocess

    samples, seed = index(arguments.data, label_column=arguments.label, group_column=arguments.group), config.optim.seed
    places = choose([s.label for s in samples], [s.group for s in samples], _NUM_SHOWN, seed=seed)
    larger = training_preprocess(config.input.preprocess, margin=config.input.cache_margin)
    images = load_images(arguments.data, [samples[i] for i in places], larger, quiet=True)
    captions = [f"{sample.label}\n{sample.group}" for sample in images.samples]
    content = io.BytesIO()
    contact_sheet(images.pixels, captions, config, seed=seed).save(content, "PNG")
    write_output(arguments.output, content.getvalue())
    say_next(arguments, ["edge-train", "fit", arguments.data, "--recipe", arguments.recipe, "-o", "RUN"])
    return DONE
