"""The distribution of a tensor's values, gathered batch by batch in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

HALF = 4096  # bins on each side of zero
_NOTHING = -2000  # binary exponent of the mean square 0
SAMPLED = 1 << 17  # values of one tensor and batch that are counted; minimum and maximum see all


@dataclass
class _Class:
    """Images of about the same size.

    Attributes:
        counts: Of their values, like `Histogram.counts`.
        squares: Sum of their mean squares.
        images: Their number.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * HALF, np.int64))
    squares: float = 0.0
    images: int = 0

    def add(self, counts: np.ndarray, squares: np.ndarray) -> None:
        """Add images of one batch."""
        self.counts = self.counts + counts
        self.squares += float(squares.sum())
        self.images += len(squares)


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
        classes: Binary exponent of an image's mean square -> the images of that size.
        squares: Mean square of each image, in arrays of one batch each.
        others: What the values of merged tensors weigh, like `weights`.
        function: What all readers of the tensor make of a value first, such as SiLU; None for the value itself.
    """

    exponent: int = -64
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * HALF, np.int64))
    zeros: int = 0
    low: float = 0.0
    high: float = 0.0
    classes: dict[int, _Class] = field(default_factory=dict)
    squares: list[np.ndarray] = field(default_factory=list)
    others: np.ndarray = field(default_factory=lambda: np.zeros(2 * HALF))
    function: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def centers(self) -> np.ndarray:
        """Middle of each bin, float64 (2 * HALF,)."""
        return (np.arange(-HALF, HALF) + 0.5) * self.width

    @property
    def weights(self) -> np.ndarray:
        """What the values in each bin weigh, float64 (2 * HALF,): their number, but less in a large image.

        Each tensor that was merged is weighed by the usual size of its own images.
        """
        found = self.others.copy()
        for one in self.classes.values():
            found += one.counts * self.weights_of(np.array(one.squares / one.images))
        return found

    def weights_of(self, squares: np.ndarray) -> np.ndarray:
        """Return what images weigh in a sum of squared errors, 0..1, float64 like `squares`.

        A label depends on the error beside the image's own answer. If the values of an image are ten times as large
        as those of others, its squared errors would count for a hundred images, which it would leave with a tenth of
        the levels. So an image larger than the median of all weighs less, in proportion to its mean square.

        Args:
            squares: Mean squares of images.
        """
        every = np.concatenate(self.squares) if self.squares else np.zeros(0)
        usual = float(np.median(every[every > 0])) if (every > 0).any() else 1.0
        weights: np.ndarray = np.minimum(1.0, usual / np.maximum(squares, 1e-300))
        return weights

    def seen(self, values: np.ndarray) -> np.ndarray:
        """Return what the readers of the tensor see of values, float (n,)."""
        return values if self.function is None else self.function(values)

    def add(self, values: np.ndarray, *, images: int = 0) -> None:
        """Count a batch of values.

        Args:
            values: Of any shape.
            images: How many images they are of; 0 for as many as the first axis is long.

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
        picked = flat[::stride]
        squares = mean_squares(values, images=images, seen=self.seen)
        self.squares.append(squares)
        kinds = np.frexp(squares)[1]
        kinds[squares == 0] = _NOTHING  # smaller than any that has a size
        kinds_of_values = kinds[np.arange(0, flat.size, stride) // (flat.size // len(squares))]
        inside = picked != 0
        self.zeros += picked.size - int(inside.sum())
        index = np.floor(picked[inside] * np.float32(1 / self.width)).astype(np.int32)
        np.clip(index, -HALF, HALF - 1, out=index)
        kinds_of_values = kinds_of_values[inside]
        for kind in np.unique(kinds).tolist():
            found = np.bincount(index[kinds_of_values == kind] + HALF, minlength=2 * HALF)
            self.counts += found
            self.classes.setdefault(kind, _Class()).add(found, squares[kinds == kind])

    def merge(self, other: Histogram) -> None:
        """Add the counts of another tensor."""
        self._widen(max(self.exponent, other.exponent))
        folded = Histogram(other.exponent, other.counts, others=other.weights)
        folded._widen(self.exponent)
        self.counts = self.counts + folded.counts
        self.others = self.others + folded.others
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
            self.counts = _halved(self.counts)
            self.others = _halved(self.others)
            for one in self.classes.values():
                one.counts = _halved(one.counts)
        self.exponent = exponent


def mean_squares(
    values: np.ndarray, *, images: int = 0, seen: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Return the mean square of each image of a tensor, float64 (n,), from some of its values.

    Args:
        values: Of n images, one after another. Where they cannot be told apart, all are one image.
        images: n; 0 for as many as the first axis is long.
        seen: What all readers of the tensor make of a value first.
    """
    images = images or (len(values) if values.ndim > 1 else 1)
    if not values.size:
        return np.zeros(0)
    if values.ndim < 2 or len(values) % images:
        images = 1
    rows = values.reshape(images, -1)
    step = max(1, rows.size // SAMPLED) | 1
    some = rows[:, ::step].astype(np.float64)
    if seen is not None:
        answers = seen(some.reshape(-1)).reshape(some.shape)
        some = answers if np.isfinite(answers).all() else some
    squares: np.ndarray = np.einsum("nd,nd->n", some, some) / some.shape[1]
    return squares


def _halved(counts: np.ndarray) -> np.ndarray:
    """Return the counts in bins of twice the width."""
    half = np.zeros_like(counts)
    half[HALF // 2 : HALF // 2 + HALF] = counts.reshape(-1, 2).sum(1)
    return half
