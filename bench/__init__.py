"""Measuring: data sets, accuracy, fairness and speed, with numpy alone, so that it also runs on a Raspberry Pi."""

# Before any module here imports onnxruntime, whose telemetry it turns off.
import edge  # noqa: F401
