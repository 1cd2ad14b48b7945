"""The int8 form of a model: ranges, rounding and the QDQ graph."""
