"""The ONNX graph: from tensors or raw IQ to positions, also in fewer bits, and the runtime that executes it."""
