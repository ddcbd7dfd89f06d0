"""From an ONNX file to an engine: what can be built here, how, and what came of it."""
