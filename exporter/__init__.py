"""Exporter: checkpoints become ONNX graphs that are validated, measured in fewer bits, and used without torch."""
