"""All but the outermost 0.01 % of the values: outliers do not stretch the scale."""

from __future__ import annotations

import numpy as np

from tlopt.quantization.calibration.histogram import Histogram
from tlopt.quantization.grid import Grid

OUTSIDE = 1e-4  # share of the values that may be clipped, both sides together (99.99th percentile)


def choose(histogram: Histogram, grid: Grid) -> tuple[float, float]:
    """Return the range that leaves at most `OUTSIDE` of the values outside.

    A symmetric grid clips by magnitude; an asymmetric one clips each side by half the share.
    """
    total = histogram.zeros + int(histogram.counts.sum())
    half = len(histogram.counts) // 2
    positive, negative = histogram.counts[half:], histogram.counts[:half][::-1]
    if grid.symmetric:
        limit = _limit(positive + negative, OUTSIDE * total, histogram.width)
        return max(histogram.low, -limit), min(histogram.high, limit)
    # A side with a bound of its own (after ReLU) leaves the other the whole share.
    share = OUTSIDE * total / (2 if positive.any() and negative.any() else 1)
    return (
        max(histogram.low, -_limit(negative, share, histogram.width)),
        min(histogram.high, _limit(positive, share, histogram.width)),
    )


def _limit(counts: np.ndarray, outside: float, width: float) -> float:
    """Return the magnitude that at most `outside` of the counted values exceed."""
    beyond = np.cumsum(counts[::-1])[::-1]
    return float(np.count_nonzero(beyond > outside)) * width
