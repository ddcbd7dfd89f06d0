"""Kernels of convolutions that may be added up: where their taps lie on the image, and what they weigh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Axis:
    """How a kernel lies on one axis of the image.

    Attributes:
        first: Where the first tap reads, beside where the first answer is: minus the padding before.
        taps: Their number.
        dilation: Between two taps.
        grows: How many more answers than pixels there are where the stride is 1; below 0 if there are fewer.
    """

    first: int
    taps: int
    dilation: int
    grows: int

    @property
    def last(self) -> int:
        """Where the last tap reads."""
        return self.first + self.dilation * (self.taps - 1)

    def around(self, other: Axis) -> Axis | None:
        """Return the shortest kernel that has the taps of both; None if their answers are of different lengths."""
        steps = {axis.dilation for axis in (self, other) if axis.taps > 1} or {1}
        step, first = steps.pop(), min(self.first, other.first)
        if steps or self.grows != other.grows or (self.first - other.first) % step:
            return None
        return Axis(first, (max(self.last, other.last) - first) // step + 1, step, self.grows)


@dataclass(frozen=True)
class Branch:
    """One term of a sum, as a convolution.

    Attributes:
        axes: Of the image.
        strides: Of each.
        groups: Of channels.
        weight: float64 (outputs, inputs / groups, taps…).
        bias: float64 (outputs,).
    """

    axes: tuple[Axis, ...]
    strides: tuple[int, ...]
    groups: int
    weight: np.ndarray
    bias: np.ndarray

    @property
    def taps(self) -> int:
        """Number of taps of its kernel."""
        return math.prod(axis.taps for axis in self.axes)

    def beside(self, other: Branch) -> Branch | None:
        """Return both as one; None if they cannot be, or it would be more work."""
        alike = (self.strides, self.groups, self.weight.shape[:2]) == (
            other.strides, other.groups, other.weight.shape[:2],
        )  # fmt: skip
        axes = [own.around(its) for own, its in zip(self.axes, other.axes, strict=True)] if alike else [None]
        whole = tuple(axis for axis in axes if axis is not None)
        if len(whole) < len(axes) or math.prod(axis.taps for axis in whole) > self.taps + other.taps:
            return None
        weight = self.within(whole) + other.within(whole)
        return replace(self, axes=whole, weight=weight, bias=self.bias + other.bias)

    def within(self, axes: Sequence[Axis]) -> np.ndarray:
        """Return its weights in a larger kernel."""
        wide = np.zeros((*self.weight.shape[:2], *(axis.taps for axis in axes)))
        places = [(own.first - axis.first) // axis.dilation for own, axis in zip(self.axes, axes, strict=True)]
        wide[:, :, *(slice(at, at + own.taps) for at, own in zip(places, self.axes, strict=True))] = self.weight
        return wide
