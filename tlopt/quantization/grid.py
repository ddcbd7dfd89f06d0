"""The integers that stand for real numbers: levels, scale and zero point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tlopt.quantization import float8

TINY = 1e-12  # smallest scale; float32 still divides by it


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which integers a tensor may take.

    Args:
        low: Smallest integer.
        high: Largest integer.
        symmetric: The zero point is 0 and the range is the same on both sides.
        float8: The numbers are those of E4M3 instead of all integers.
        lowest: The real number, below 0, that the smallest integer stands for; None if the values decide.
        highest: No integer need stand for more.
    """

    low: int
    high: int
    symmetric: bool
    float8: bool = False
    lowest: float | None = None
    highest: float = math.inf

    @property
    def dtype(self) -> np.dtype[np.int8] | np.dtype[np.uint8]:
        """Type of the integers."""
        return np.dtype(np.uint8) if self.low >= 0 else np.dtype(np.int8)

    def fit(self, low: float, high: float) -> Scale:
        """Return the scale that makes the grid span ``low`` to ``high``; zero is always a level."""
        low, high = min(low, 0.0), min(max(high, 0.0), self.highest)
        if self.lowest is not None:
            levels = self.high - self.low
            below = max(1, math.floor(-self.lowest / (high - self.lowest) * levels))  # of all levels, those below 0
            return Scale(grid=self, scale=_float32(-self.lowest / below), zero=self.low + below)
        if self.symmetric:
            return Scale(grid=self, scale=_float32(max(-low, high) / self.high), zero=0)
        scale = _float32((high - low) / (self.high - self.low))
        zero = round(self.low - low / scale)
        return Scale(grid=self, scale=scale, zero=int(np.clip(zero, self.low, self.high)))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A grid fitted to a range: ``real = (integer - zero) * scale``."""

    grid: Grid
    scale: float
    zero: int

    @property
    def range(self) -> tuple[float, float]:
        """The real numbers of the smallest and the largest integer."""
        return (self.grid.low - self.zero) * self.scale, (self.grid.high - self.zero) * self.scale

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """Return the values as the grid shows them."""
        if self.grid.float8:
            return float8.decode(float8.encode(values / self.scale)) * self.scale
        levels = np.asarray(values / self.scale)  # the only copy: this runs on every value of the calibration
        np.round(levels, out=levels)
        levels += self.zero
        np.clip(levels, self.grid.low, self.grid.high, out=levels)
        levels -= self.zero
        levels *= self.scale
        return levels


def _float32(scale: float) -> float:
    return float(np.float32(max(scale, TINY)))


UINT8 = Grid(low=0, high=255, symmetric=False)
INT8 = Grid(low=-127, high=127, symmetric=True)
FP8 = Grid(low=-448, high=448, symmetric=True, float8=True)
