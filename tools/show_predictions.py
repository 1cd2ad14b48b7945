"""The columns of a predictions file that fit a terminal: python tools/show_predictions.py predictions.csv."""

import csv
import sys

COLUMNS = ("path", "label", "confidence", "top2_label", "top2_confidence", "status", "error")

with open(sys.argv[1], encoding="utf-8", newline="") as file:
    rows = [COLUMNS, *([row[name][:48] for name in COLUMNS] for row in csv.DictReader(file))]
widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
for row in rows:
    print("  ".join(map(str.ljust, row, widths)).rstrip())
