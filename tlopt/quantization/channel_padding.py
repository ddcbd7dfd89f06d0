"""Channels that nothing reads fill up depthwise convolutions, where a runtime's integer kernel counts by sixteens.

ONNX Runtime computes an 8-bit depthwise convolution 16 channels at a time, and the rest of them slowly: 88 channels
take longer than 96 (benchmarks/int8_depthwise.py). The channels that are added are copies of others: zeros would become
other values behind a sigmoid, and widen the range of their tensor. The convolutions that read them have weights of zero
for them.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.rewriting.transposes import POINTWISE
from tlopt.graphs.view import View, attribute
from tlopt.quantization.placement import Runtime

_AT_ONCE = 16  # channels of the depthwise kernel of ONNX Runtime 1.32
# What computes each channel by itself.
_LONE = POINTWISE | {"GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool"}
_PAIRED = frozenset({"Add", "Sub", "Mul", "Div"})  # with a tensor of the same channels, or with constants
_IMAGE = 4  # axes: images, channels, rows, columns


def with_padded_channels(view: View, runtime: Runtime) -> View:
    """Return an equal graph whose depthwise convolutions have multiples of 16 channels, where more can be added.

    They cannot where channels are put beside others, counted, normalized together, or given to the user.

    Args:
        view: Of a cleaned graph.
        runtime: That will run it in 8 bits; the others are as fast with any number.
    """
    if runtime != "onnxruntime":
        return view
    more: dict[str, int] = {}  # tensor -> channels that are added
    for node in view.nodes:
        channels = view.shape(node.output[0])[1:2] if view.is_depthwise(node) else ()
        if channels and node.output[0] not in more and (missing := filled(channels[0]) - channels[0]):
            more |= dict.fromkeys(_tied(view, node.output[0], channels[0]), missing)
    if not more:
        return view
    writer = _Filled(view, more)
    nodes = [writer.node(node) for node in view.nodes]
    return View(infer(rewritten(view.model, nodes, writer.constants)))


def filled(channels: int) -> int:
    """Return how many channels a depthwise convolution of so many gets."""
    return -(-channels // _AT_ONCE) * _AT_ONCE


def _tied(view: View, tensor: str, channels: int) -> set[str]:
    """Return the tensors whose channels are those of a tensor; none if others beside them could be noticed."""
    found: set[str] = set()
    waiting = [tensor]
    while waiting:
        tensor = waiting.pop()
        if tensor in found:
            continue
        producer = view.producer.get(tensor)
        shape = view.shape(tensor)
        if producer is None or tensor in view.outputs or len(shape) != _IMAGE or shape[1] != channels:
            return set()
        found.add(tensor)
        for node in (producer, *view.readers(tensor)):
            others = _through(view, node, channels)
            if others is None:
                return set()
            waiting += others
    return found


def _through(view: View, node: onnx.NodeProto, channels: int) -> list[str] | None:
    """Return the tensors around a node that have the same channels; None if it takes no more of them."""
    if node.op_type == "Conv":
        if not view.weight(node) or any(name and view.constant(name) is None for name in node.input[2:]):
            return None
        if view.is_depthwise(node):
            return [node.input[0], node.output[0]] if view.shape(node.output[0])[1:2] == (channels,) else None
        return [] if attribute(node, "group", 1) == 1 else None
    if len(node.output) != 1:
        return None
    if node.op_type in _LONE:
        return [node.input[0], node.output[0]]
    if node.op_type not in _PAIRED:
        return None
    tied = [str(node.output[0])]
    for name in node.input:
        shape = view.shape(name)
        if name in view.initializers:
            if not _is_one(shape) and not _is_each_channel(shape, channels):
                return None
        elif len(shape) == _IMAGE and shape[1] == channels:
            tied.append(name)
        elif len(shape) != _IMAGE or shape[1] != 1:
            return None
    return tied


def _is_one(shape: tuple[int, ...]) -> bool:
    return all(length == 1 for length in shape)


def _is_each_channel(shape: tuple[int, ...], channels: int) -> bool:
    """Whether a constant has one value for each channel of images, and differs in nothing else."""
    return shape[-3:] == (channels, 1, 1) and _is_one(shape[:-3])


class _Filled:
    """Writes the nodes of a graph anew, with more channels."""

    def __init__(self, view: View, more: dict[str, int]) -> None:
        self._view, self._more = view, more
        self._taken = taken_names(view.model.graph)
        self._made: dict[tuple[str, int, int], onnx.TensorProto] = {}

    @property
    def constants(self) -> list[onnx.TensorProto]:
        return list(self._made.values())

    def node(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Return a node, with more channels if tensors around it have them."""
        before, after = (self._more.get(name, 0) for name in (node.input[0] if node.input else "", node.output[0]))
        made = onnx.NodeProto()
        made.CopyFrom(node)
        if node.op_type == "Conv":
            depthwise = self._view.is_depthwise(node)
            made.input[1] = self._constant(node.input[1], copies=after, zeros=0 if depthwise else before)
            if len(node.input) > 2 and node.input[2]:
                made.input[2] = self._constant(node.input[2], copies=after)
            if depthwise and after:
                kept = [item for item in node.attribute if item.name != "group"]
                del made.attribute[:]
                channels = self._view.shape(node.output[0])[1] + after
                made.attribute.extend([*kept, helper.make_attribute("group", channels)])
        elif node.op_type in _PAIRED and after:
            for at, name in enumerate(node.input):
                if name in self._view.initializers and not _is_one(self._view.shape(name)):
                    made.input[at] = self._constant(name, copies=after, axis=-3)
        return made

    def _constant(self, name: str, *, copies: int, axis: int = 0, zeros: int = 0) -> str:
        """Return the name of a constant with more channels.

        Args:
            name: Of the constant.
            copies: Channels that follow, as those from the first on.
            axis: Of the channels.
            zeros: Inputs of a weight (outputs, inputs, ...) that follow and count for nothing.
        """
        if not copies and not zeros:
            return name
        key = name, copies, zeros
        if key not in self._made:
            values = self._view.constant(name)
            assert values is not None
            values = np.take(values, range(values.shape[axis] + copies), axis=axis, mode="wrap")
            if zeros:
                values = np.concatenate(
                    [values, np.zeros_like(values, shape=(len(values), zeros, *values.shape[2:]))], 1
                )
            alone = len(self._view.readers(name)) == 1  # then it keeps the name, by which blocks are called
            new = name if alone else free_name(f"{name}_filled", self._taken)
            self._made[key] = numpy_helper.from_array(values, new)
        return str(self._made[key].name)
