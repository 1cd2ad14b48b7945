"""The tables in research/results are those that the evidence beside them gives."""

from pathlib import Path

import pytest

from research.protocol import PROTOCOL
from research.tables import markdown

RESEARCH = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (RESEARCH / "results").glob(f"*/{PROTOCOL}"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_tables_come_out_the_same_and_are_linked(folder):
    assert markdown(folder) == (folder / "tables.md").read_text(encoding="utf-8"), "make results"
    assert f"(results/{folder.name}/tables.md)" in (RESEARCH / "results.md").read_text(encoding="utf-8")
