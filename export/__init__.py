"""From a training run to the one ONNX file that the runtime reads, every step proven equal to the last."""

# Before any module here imports onnxruntime, whose telemetry it turns off.
import edge  # noqa: F401
