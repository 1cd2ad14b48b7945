"""Research: what was tried, and what re-makes its tables. Not in the wheel; no package imports it."""

# Before any module here imports onnxruntime, whose telemetry it turns off.
import edge  # noqa: F401
