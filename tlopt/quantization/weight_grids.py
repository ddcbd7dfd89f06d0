"""Weights as 8-bit integers, one scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlopt.quantization.grid import TINY

LIMIT = 127  # -128 is left out, so that the range is the same on both sides
REDUCED = 64  # two products of it with 255 still fit into int16
INT32 = 2.0**30  # largest magnitude of an int32 bias, with room to add products to it


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """A weight and its scales.

    Args:
        values: int8, the weight's shape.
        scale: float32 (channels,).
        axis: The axis that runs over the output channels.
        shift: float32 (channels,), to be added to the bias; None for nothing.
    """

    values: np.ndarray
    scale: np.ndarray
    axis: int
    shift: np.ndarray | None = None

    def real(self) -> np.ndarray:
        """Return what the integers stand for: float32, the weight's shape."""
        real: np.ndarray = self.values.astype(np.float32) * along(self.scale, self.axis, self.values.ndim)
        return real


def along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Return a vector shaped to broadcast along one axis of a tensor of this rank."""
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def channel_scale(weight: np.ndarray, axis: int, floor: np.ndarray | None = None, limit: int = LIMIT) -> np.ndarray:
    """Return the scale by which each channel's largest magnitude is `limit`, at least `floor`: float32 (channels,)."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale: np.ndarray = np.maximum(np.abs(weight).max(axis=others) / limit, TINY if floor is None else floor)
    clamped: np.ndarray = np.maximum(scale, TINY).astype(np.float32)
    return clamped


def quantize_weight(
    weight: np.ndarray, axis: int, scale: np.ndarray | None = None, limit: int = LIMIT
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
