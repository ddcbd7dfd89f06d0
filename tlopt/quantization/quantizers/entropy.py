"""The range that loses least information (Kullback-Leibler divergence)."""

from __future__ import annotations

import numpy as np

from tlopt.quantization.calibration.histogram import Histogram
from tlopt.quantization.grid import Grid

SHARES = np.linspace(1.0, 0.1, 91)


def choose(histogram: Histogram, grid: Grid) -> tuple[float, float]:
    """Return the range whose integers' distribution is closest to that of the values.

    Values outside are counted at the range's ends; each integer's mass is spread evenly over the
    bins that it stands for and that are not empty. Both sides shrink by the same share. After
    S. Migacz, "8-bit inference with TensorRT", GPU Technology Conference 2017.
    """
    used = np.flatnonzero(histogram.counts)
    if not used.size:
        return histogram.low, histogram.high
    centers, counts = histogram.centers[used], histogram.counts[used].astype(np.float64)
    best = min(SHARES, key=lambda share: _divergence(centers, counts, grid, *_range(histogram, grid, float(share))))
    return _range(histogram, grid, float(best))


def _range(histogram: Histogram, grid: Grid, share: float) -> tuple[float, float]:
    if grid.symmetric:
        limit = share * max(-histogram.low, histogram.high)
        return max(histogram.low, -limit), min(histogram.high, limit)
    return histogram.low * share, histogram.high * share


def _divergence(centers: np.ndarray, counts: np.ndarray, grid: Grid, low: float, high: float) -> float:
    inside = (centers >= low) & (centers <= high)
    if inside.sum() < 2:
        return np.inf
    kept, values = counts[inside], centers[inside]
    reference = kept.copy()
    reference[0] += counts[centers < low].sum()
    reference[-1] += counts[centers > high].sum()
    fitted = grid.fit(low, high)
    levels = np.round(values / fitted.scale).astype(np.int64)
    levels -= levels.min()
    mass = np.bincount(levels, kept)
    bins = np.bincount(levels)
    candidate = mass[levels] / bins[levels]
    reference /= reference.sum()
    candidate /= candidate.sum()
    return float(reference @ np.log(reference / candidate))
