"""How the range of an activation is chosen from calibration images: one file per quantizer.

A quantizer module defines

    def choose(histogram: Histogram, grid: Grid) -> tuple[float, float]

which returns the range ``(low, high)`` that the grid is to span, with ``low <= 0 <= high`` and
inside the values met. The histogram was gathered in one pass over the calibration images; where
tensors have to share one scale it is the sum of theirs.
"""
