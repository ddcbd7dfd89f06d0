"""The parts of tlopt that work on ONNX graphs: cleaning, calibration, Q/DQ nodes and casts."""
