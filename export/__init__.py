"""From a training run to the one ONNX file that the runtime reads, every step proven equal to the last."""
