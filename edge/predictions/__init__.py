"""Predictions: a row, the form of a file of rows, reading it back."""

from .reader import Predictions, read
from .rows import (
    SCHEMA,
    TOTALS,
    UNCERTAIN,
    UNCERTAIN_INDEX,
    Layout,
    Prediction,
    csv_fields,
    from_path_text,
    json_object,
    meta_path,
    path_text,
    read_meta,
    records,
    stamp_of,
)

__all__ = [
    "SCHEMA", "TOTALS", "UNCERTAIN", "UNCERTAIN_INDEX", "Layout", "Prediction", "Predictions", "csv_fields",
    "from_path_text", "json_object", "meta_path", "path_text", "read", "read_meta", "records", "stamp_of",
]  # fmt: skip
