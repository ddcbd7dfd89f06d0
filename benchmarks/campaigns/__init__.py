"""The campaigns of benchmarks/robustness.py: kills, damaged files, special files, limits, two runs at once."""
