"""Nodes that multiply and shift each channel by constants, and nodes that such a change may be moved across."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx

from tlopt.graphs.view import View, attribute

Constants = Callable[[str], np.ndarray | None]


@dataclass(frozen=True)
class Affine:
    """``scale * x + shift``, one of each for every channel: float64 (channels,)."""

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def identity(cls, channels: int) -> Self:
        """Return the change that changes nothing."""
        return cls(np.ones(channels), np.zeros(channels))

    def then(self, other: Affine) -> Affine:
        """Return this change with another after it."""
        return Affine(self.scale * other.scale, self.shift * other.scale + other.shift)

    @property
    def scales(self) -> bool:
        """Whether a factor differs from 1."""
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        """Whether a shift differs from 0."""
        return bool(self.shift.any())


def affine(
    node: onnx.NodeProto, tensor: str, constant: Constants, rank: int, axis: int, channels: int
) -> Affine | None:
    """Return how a node changes each channel of a tensor, None if it does anything else.

    Args:
        node: Any node.
        tensor: One that it reads.
        constant: Name -> values, None if it is computed.
        rank: Number of the tensor's axes.
        axis: Which of them runs over the channels.
        channels: Their number.
    """
    if node.op_type == "BatchNormalization":
        found = _norm(node, tensor, constant) if axis == 1 else None
    elif node.op_type == "Neg":
        found = Affine(-np.ones(channels), np.zeros(channels))
    elif node.op_type in ("Add", "Sub", "Mul", "Div", "Sum") and len(node.input) == 2:
        found = _arithmetic(node, tensor, constant, rank, axis, channels)
    else:
        found = None
    if found is None or found.scale.shape != (channels,):
        return None
    return found if np.isfinite(found.scale).all() and np.isfinite(found.shift).all() else None


def _norm(node: onnx.NodeProto, tensor: str, constant: Constants) -> Affine | None:
    parts = [constant(name) for name in node.input[1:5]]
    trains = attribute(node, "training_mode", 0) or any(node.output[1:])
    if tensor != node.input[0] or trains or len(parts) < 4:
        return None
    wide = [part.astype(np.float64) for part in parts if part is not None]
    if len(wide) < 4:
        return None
    gain, offset, mean, variance = wide
    scale = gain / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return Affine(scale, offset - mean * scale)


def _arithmetic(
    node: onnx.NodeProto, tensor: str, constant: Constants, rank: int, axis: int, channels: int
) -> Affine | None:
    first = node.input[0] == tensor
    values = vector(constant(node.input[1 if first else 0]), rank, axis, channels)
    if values is None or node.input[0] == node.input[1]:
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.op_type == "Mul":
        return Affine(values, zeros)
    if node.op_type == "Div":
        with np.errstate(divide="ignore"):
            return Affine(1 / values, zeros) if first else None
    if node.op_type == "Sub":
        return Affine(ones, -values) if first else Affine(-ones, values)
    return Affine(ones, values)


def vector(values: np.ndarray | None, rank: int, axis: int, channels: int) -> np.ndarray | None:
    """Return a constant that broadcasts against a tensor as one value for each channel: float64 (channels,).

    None if there is none, or it varies along another axis or gives the result other axes.
    """
    if values is None or values.ndim > rank or not np.issubdtype(values.dtype, np.floating):
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if shape[axis] not in (1, channels) or any(length != 1 for i, length in enumerate(shape) if i != axis):
        return None
    return np.broadcast_to(values.reshape(-1).astype(np.float64), (channels,)).copy()


def moved_axis(view: View, node: onnx.NodeProto, tensor: str, axis: int) -> tuple[int, int] | None:
    """Return the rank of what a node makes of a tensor, and where the tensor's axis is in it.

    None unless the node only moves values, and keeps the axis whole.
    """
    if node.op_type not in ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze") or node.input[0] != tensor:
        return None
    before, after = view.shape(tensor), view.shape(node.output[0])
    if not before or not after:
        return None
    if node.op_type == "Transpose":
        order = list(attribute(node, "perm", range(len(before))[::-1]))
        return len(after), order.index(axis)
    # Values keep their order: the axis is where as many values lie behind each step along it.
    behind = math.prod(before[axis + 1 :])
    for place in range(len(after)):
        if after[place] == before[axis] > 1 and math.prod(after[place + 1 :]) == behind > 0:
            return len(after), place
    return None
