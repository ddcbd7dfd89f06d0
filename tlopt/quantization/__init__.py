"""Quantization: calibration, scales, rounding, and where Q/DQ nodes go."""
