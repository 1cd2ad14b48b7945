"""The published figures add up to the sums that their sources print."""

import csv
from pathlib import Path

PATH = Path(__file__).parents[1] / "published.csv"


def test_published_figures_add_up():
    with PATH.open(encoding="utf-8", newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    sums = {
        name: sum(float(row[column]) for column in ("accuracy", "fairness", "latency") if row[column]) / 3
        for name, row in rows.items()
    }
    assert round(sums["theirs, S4"], 3) == 0.853
    assert round(sums["MobileNetV3 small, S1"], 3) == 0.761
    assert round(sums["+ distillation (handed in)"], 3) == 0.604
    assert round(sums["MobileOne-S2, the teacher"], 3) == 0.608
    assert {row["source"] for row in rows.values()} == {"slides", "li"}
