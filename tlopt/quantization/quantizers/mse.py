"""The range with the least mean squared error between values and their integers."""

from __future__ import annotations

import numpy as np

from tlopt.quantization.calibration.histogram import Histogram
from tlopt.quantization.grid import Grid

SHARES = np.linspace(1.0, 0.1, 91)


def choose(histogram: Histogram, grid: Grid) -> tuple[float, float]:
    """Return the range of least squared error, found by shrinking each side in turn.

    The trade between clipping and rounding that Banner et al., "Post training 4-bit quantization
    of convolutional networks", arXiv:1810.05723, solve for assumed distributions is searched here
    on the measured one. An image larger than the median weighs less. Where an activation
    function reads the tensor, the error is that of its answer: SiLU makes next to nothing of a very negative value,
    which then need not be told from another.
    """
    used = np.flatnonzero(histogram.counts)
    values, counts = histogram.centers[used], histogram.weights[used]

    exact = histogram.seen(values)
    whole = bool(np.isfinite(exact).all())  # else a power of a huge value, for one: the values themselves count

    def error(low: float, high: float) -> float:
        rounded = grid.fit(low, high).rounded(values)
        return float(counts @ np.square(exact - histogram.seen(rounded) if whole else values - rounded))

    low, high = histogram.low, histogram.high
    if not used.size:
        return low, high
    if grid.symmetric:
        best = min(SHARES, key=lambda share: error(low * share, high * share))
        return low * float(best), high * float(best)
    for _ in range(2):
        top = high
        high = histogram.high * float(min(SHARES, key=lambda share: error(low, histogram.high * share)))
        if histogram.low < 0:
            low = histogram.low * float(min(SHARES, key=lambda share: error(histogram.low * share, high)))
        if high == top:
            break
    return low, high
