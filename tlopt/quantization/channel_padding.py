"""Channels of zeros fill up depthwise convolutions, where a runtime's integer kernel counts by sixteens.

ONNX Runtime computes an 8-bit depthwise convolution 16 channels at a time, and the rest of them slowly: 88 channels
take twice as long as 96. Between the convolutions that make these channels and those that read them, zeros change
nothing.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.view import View, attribute
from tlopt.quantization.placement import Runtime

_AT_ONCE = 16  # channels of the depthwise kernel of ONNX Runtime 1.32
# What computes each channel by itself, in one form or another.
_LONE = frozenset(
    {"Relu", "Clip", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Erf", "Sqrt",
     "Abs", "Neg", "GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool"}
)  # fmt: skip
_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 0.0, "Div": 1.0}  # of a channel of zeros
_IMAGE = 4  # axes: images, channels, rows, columns


def with_padded_channels(view: View, runtime: Runtime) -> View:
    """Return an equal graph whose depthwise convolutions have multiples of 16 channels, where zeros can fill them up.

    They cannot where channels are put beside others, counted, normalized together, or given to the user.

    Args:
        view: Of a cleaned and folded graph.
        runtime: That will run it in 8 bits; the others are as fast with any number.
    """
    if runtime != "onnxruntime":
        return view
    more: dict[str, int] = {}  # tensor -> channels of zeros
    for node in view.nodes:
        channels = view.shape(node.output[0])[1:2] if view.is_depthwise(node) else ()
        if channels and channels[0] % _AT_ONCE and node.output[0] not in more:
            more |= dict.fromkeys(_tied(view, node.output[0], channels[0]), -channels[0] % _AT_ONCE)
    if not more:
        return view
    filled = _Filled(view, more)
    nodes = [filled.node(node) for node in view.nodes]
    return View(infer(rewritten(view.model, nodes, filled.constants)))


def _tied(view: View, tensor: str, channels: int) -> set[str]:
    """Return the tensors whose channels are those of a tensor; none if zeros beside them could be noticed."""
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
    if node.op_type not in _NEUTRAL:
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
    """Whether a constant has one value for each channel of images, or for each of their channels and nothing else."""
    return shape[-3:] == (channels, 1, 1) and _is_one(shape[:-3])


class _Filled:
    """Writes the nodes of a graph anew, with more channels."""

    def __init__(self, view: View, more: dict[str, int]) -> None:
        self._view, self._more = view, more
        self._taken = taken_names(view.model.graph)
        self._made: dict[tuple[str, tuple[int, ...], float], onnx.TensorProto] = {}

    @property
    def constants(self) -> list[onnx.TensorProto]:
        return list(self._made.values())

    def node(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Return a node, with more channels if tensors around it have them."""
        before, after = (self._more.get(name, 0) for name in (node.input[0] if node.input else "", node.output[0]))
        if node.op_type == "Conv" and (before or after):
            return self._convolution(node, before, after)
        if node.op_type in _NEUTRAL and after:
            made = onnx.NodeProto()
            made.CopyFrom(node)
            for at, name in enumerate(node.input):
                shape = self._view.shape(name)
                if name in self._view.initializers and not _is_one(shape):
                    widths = [0] * len(shape)
                    widths[-3] = after
                    made.input[at] = self._constant(name, widths, _NEUTRAL[node.op_type])
            return made
        return node

    def _convolution(self, node: onnx.NodeProto, before: int, after: int) -> onnx.NodeProto:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        weight = self._view.shape(node.input[1])
        depthwise = self._view.is_depthwise(node)
        inside = 0 if depthwise else before
        made.input[1] = self._constant(node.input[1], [after, inside, *(0 for _ in weight[2:])])
        if len(node.input) > 2 and node.input[2]:
            made.input[2] = self._constant(node.input[2], [after])
        if depthwise:
            kept = [item for item in node.attribute if item.name != "group"]
            del made.attribute[:]
            made.attribute.extend([*kept, helper.make_attribute("group", weight[0] + after)])
        return made

    def _constant(self, name: str, widths: list[int], value: float = 0.0) -> str:
        """Return the name of a constant with so many values more at the end of each axis."""
        if not any(widths):
            return name
        key = name, tuple(widths), value
        if key not in self._made:
            old = self._view.constant(name)
            assert old is not None
            new = np.pad(old, [(0, width) for width in widths], constant_values=value)
            self._made[key] = numpy_helper.from_array(new, free_name(f"{name}_filled", self._taken))
        return str(self._made[key].name)
