"""Weights as 8-bit numbers, one scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlopt.quantization import float8
from tlopt.quantization.grid import TINY

LIMIT = 127  # -128 is left out, so that the range is the same on both sides
REDUCED = 64  # two products of it with 255 still fit into int16
# Mean square of what rounding to E4M3 changes, as a share of the values' mean square: steps of 1/8 of the power of two
# below, errors uniform within a step, values uniform between powers of two.
E4M3_NOISE = (1 / 8) ** 2 / 12 / (7 / 3)
INT32 = 2.0**30  # largest magnitude of an int32 bias, with room to add products to it


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The numbers that a weight may take, in units of its channel's scale.

    Args:
        limit: Largest magnitude.
        whole: All integers up to it; else the numbers of E4M3.
    """

    limit: float = LIMIT
    whole: bool = True

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """Return the nearest of them, in the type of the values."""
        if not self.whole:
            return float8.nearest(values)
        found: np.ndarray = np.clip(np.round(values), -self.limit, self.limit)
        return found

    @property
    def noise(self) -> float:
        """What rounding an input to numbers of this kind adds, as a share of its power; integers add by their step."""
        return 0.0 if self.whole else E4M3_NOISE


INTEGERS = Levels()
FLOAT8 = Levels(limit=float8.LARGEST, whole=False)


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """A weight and its scales.

    Args:
        values: int8, the weight's shape; uint8 codes of E4M3 if it is one of floats.
        scale: float32 (channels,).
        axis: The axis that runs over the output channels.
        shift: float32 (channels,), to be added to the bias; None for nothing.
    """

    values: np.ndarray
    scale: np.ndarray
    axis: int
    shift: np.ndarray | None = None

    def real(self) -> np.ndarray:
        """Return what the numbers stand for: float32, the weight's shape."""
        numbers = float8.decode(self.values) if self.values.dtype == np.uint8 else self.values.astype(np.float32)
        real: np.ndarray = numbers * along(self.scale, self.axis, self.values.ndim)
        return real


def along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Return a vector shaped to broadcast along one axis of a tensor of this rank."""
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def channel_scale(weight: np.ndarray, axis: int, floor: np.ndarray | None = None, limit: float = LIMIT) -> np.ndarray:
    """Return the scale by which each channel's largest magnitude is `limit`, at least `floor`: float32 (channels,)."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale: np.ndarray = np.maximum(np.abs(weight).max(axis=others) / limit, TINY if floor is None else floor)
    clamped: np.ndarray = np.maximum(scale, TINY).astype(np.float32)
    return clamped


def quantize_weight(
    weight: np.ndarray, axis: int, scale: np.ndarray | None = None, limit: float = LIMIT
) -> QuantizedWeight:
    """Round a weight to the nearest integers of its channels' scales, none larger than `limit`."""
    scale = channel_scale(weight, axis, limit=limit) if scale is None else scale
    levels = np.round(weight / along(scale, axis, weight.ndim))
    return QuantizedWeight(values=np.clip(levels, -limit, limit).astype(np.int8), scale=scale, axis=axis)


def smallest_scale(bias: np.ndarray, activation_scale: float) -> np.ndarray:
    """Return the weight scales below which an int32 bias of scale ``activation * weight`` overflows.

    A channel whose weights are all next to nothing would have one; its weights matter as little
    after a coarser rounding.
    """
    least: np.ndarray = np.abs(bias) / (INT32 * activation_scale)
    return least.astype(np.float32)
