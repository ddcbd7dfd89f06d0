"""The distribution of a tensor's values, gathered batch by batch in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

HALF = 4096  # bins on each side of zero
SAMPLED = 1 << 17  # values of one tensor and batch that are counted; minimum and maximum see all


@dataclass
class Histogram:
    """Counts of a tensor's values in bins whose width is a power of two.

    When a value falls outside, the width doubles and neighbouring bins merge, so that one pass
    over the images suffices and histograms of several tensors can be added without loss.

    Attributes:
        exponent: The bin width is ``2 ** exponent``.
        counts: int64 (2 * HALF,); bin i covers ``(i - HALF) * width`` to ``(i + 1 - HALF) * width``.
        zeros: Values that are exactly zero; they are in no bin.
        low: Smallest value met, at most 0.
        high: Largest value met, at least 0.
        function: What all readers of the tensor make of a value first, such as SiLU; None for the value itself.
    """

    exponent: int = -64
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * HALF, np.int64))
    zeros: int = 0
    low: float = 0.0
    high: float = 0.0
    function: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def centers(self) -> np.ndarray:
        """Middle of each bin, float64 (2 * HALF,)."""
        return (np.arange(-HALF, HALF) + 0.5) * self.width

    def seen(self, values: np.ndarray) -> np.ndarray:
        """Return what the readers of the tensor see of values, float (n,)."""
        return values if self.function is None else self.function(values)

    def add(self, values: np.ndarray) -> None:
        """Count a batch of values of any shape.

        Raises:
            ValueError: A value is not finite.
        """
        flat = values.reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("a value is not finite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach(max(-low, high))
        # An odd stride walks through all channels and positions alike.
        stride = max(1, flat.size // SAMPLED) | 1
        picked = flat[::stride] if flat.size > SAMPLED else flat
        picked = picked[picked != 0]
        self.zeros += (
            (flat.size + stride - 1) // stride - picked.size if flat.size > SAMPLED else flat.size - picked.size
        )
        index = np.floor(picked * np.float32(1 / self.width)).astype(np.int32)
        np.clip(index, -HALF, HALF - 1, out=index)
        self.counts += np.bincount(index + HALF, minlength=2 * HALF)

    def merge(self, other: Histogram) -> None:
        """Add the counts of another tensor."""
        self._widen(max(self.exponent, other.exponent))
        folded = Histogram(other.exponent, other.counts)
        folded._widen(self.exponent)
        self.counts = self.counts + folded.counts
        self.zeros += other.zeros
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.function = None  # that of the other may be another one

    def _reach(self, magnitude: float) -> None:
        if magnitude > 0:
            self._widen(max(self.exponent, math.ceil(math.log2(magnitude / HALF))))

    def _widen(self, exponent: int) -> None:
        steps = exponent - self.exponent
        if steps > 0 and not self.counts.any():
            self.exponent = exponent
            return
        for _ in range(min(steps, 14)):
            half = np.zeros_like(self.counts)
            half[HALF // 2 : HALF // 2 + HALF] = self.counts.reshape(-1, 2).sum(1)
            self.counts = half
        self.exponent = exponent
