"""From a training run to the one ONNX file that the runtime reads, every step proven equal to the last.

Its interface is edge-export; edge-submit packs what a contest asks for.
"""

# Before any module here imports onnxruntime, whose telemetry it turns off.
import edge  # noqa: F401

__all__: list[str] = []
