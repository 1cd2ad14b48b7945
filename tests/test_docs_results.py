"""The tables in docs/results, and the offsets, are those that the evidence beside them gives."""

from pathlib import Path

import pytest

from bench.protocol import PROTOCOL, load
from bench.tables import markdown

DOCS = Path(__file__).parents[1] / "docs"
FOLDERS = sorted(path.parent for path in (DOCS / "results").glob(f"*/{PROTOCOL}"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_tables_come_out_the_same_and_are_linked(folder):
    assert markdown(folder) == (folder / "tables.md").read_text(encoding="utf-8"), "make results"
    assert f"(results/{folder.name}/tables.md)" in (DOCS / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_offsets_are_of_the_predictions_beside_them(folder):
    offsets = pytest.importorskip("train.offsets")
    for name, seeds in load(folder).configurations.items():
        if seeds[0].offsets is not None:
            objective, form = seeds[0].offsets["objective"], seeds[0].offsets["form"]
            base = name.removesuffix(offsets.SUFFIXES[form])
            again = offsets.with_offsets(folder, base, objective=objective, form=form)
            for kept, made in zip(seeds, again, strict=True):
                assert kept.runs == made.runs and kept.offsets == made.offsets
                assert kept.stem == made.stem and (kept.ppm == made.ppm).all(), "edge-train offsets --force"
