"""Nodes that keep runtimes from computing an int8 graph wrongly, or slowly.

Once a graph has a Q/DQ pair, OpenVINO takes every product with constants for a DequantizeLinear. It moves such products
past the nodes behind them. Some moves are wrong, all seen in 2026.4:

- A factor for each channel goes past a Reshape that gives the values to other channels, past Pad, Gather and Transpose.
- The bias of a convolution goes past a mean over padded places.
- Of two readers of a convolution without a bias, one gets what the other should get.
- A maximum over channels that is rounded at once comes out wrong.

ONNX Runtime 1.32 fuses a mean over windows with the Q/DQ pairs around it. The fused mean is slower than one in float.
Most means are depthwise convolutions by then; those that leave the border out of their count are not.
And it rounds the weights of a layer that was left in float, with one scale for all of them, if a DequantizeLinear
stands right before the layer.

Neither looks past a Max with the lowest number, which changes no value: a fence.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.view import View, attribute
from tlopt.quantization.placement import Runtime

_LOWEST = float(np.finfo(np.float32).min)
_NORMS = ("BatchNormalization", "InstanceNormalization")  # OpenVINO writes them as products and sums


def fenced(model: onnx.ModelProto, runtime: Runtime) -> onnx.ModelProto:
    """Return an int8 graph with a fence at each place where a runtime would go wrong, or slowly.

    Args:
        model: With the types of its tensors; stays as it is.
        runtime: That will run it; graphs for TensorRT stay as they are.
    """
    view = View(model)
    endangers, passes = _RULES.get(runtime, (_never, _never))
    behind = {node.output[0] for node in view.nodes if endangers(view, node) and view.is_float(node.output[0])}
    behind -= set(view.outputs)
    before = {node.name for node in view.nodes if passes(view, node) and view.is_float(node.input[0])}
    if not behind and not before:
        return model
    taken = taken_names(model.graph)
    lowest = free_name("lowest", taken)
    renamed: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []

    def fence(name: str) -> str:
        made = free_name(f"{name}_fenced", taken)
        nodes.append(helper.make_node("Max", [name, lowest], [made], name=made))
        return made

    for original in view.nodes:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.name in before and node.input[0] == original.input[0]:  # there is none yet
            node.input[0] = fence(node.input[0])  # others that read it compute in integers
        nodes.append(node)
        renamed |= {name: fence(name) for name in behind.intersection(node.output)}
    return infer(rewritten(model, nodes, [numpy_helper.from_array(np.array(_LOWEST, np.float32), lowest)]))


def _is_moved_on(view: View, node: onnx.NodeProto) -> bool:
    """Whether what a node computes would be moved past its readers, so that each reader needs a fence."""
    kind, result = node.op_type, str(node.output[0])
    # A constant less a tensor is a product with -1 to OpenVINO.
    scaled = kind in ("Mul", "Div", "Sub") and _by_several(view, node)
    shared = kind in ("Conv", "ConvTranspose") and not _shifts(view, node) and len(view.readers(result)) > 1
    return scaled or shared or kind in _NORMS or kind in ("ReduceMax", "ReduceMin", "GlobalMaxPool")


def _is_moved_past(view: View, node: onnx.NodeProto) -> bool:
    """Whether what was added before a node would be moved past it, so that its input needs a fence."""
    counts_border = attribute(node, "count_include_pad", 0) and any(attribute(node, "pads", []))
    return node.op_type == "AveragePool" and bool(counts_border) and not _has_no_shift(view, node.input[0])


def _is_slowed(view: View, node: onnx.NodeProto) -> bool:
    """Whether ONNX Runtime would fuse a mean over windows with Q/DQ pairs on both sides."""
    if node.op_type != "AveragePool":
        return False
    producer, readers = view.producer.get(node.input[0]), view.readers(node.output[0])
    return (
        producer is not None
        and producer.op_type == "DequantizeLinear"
        and any(reader.op_type == "QuantizeLinear" for reader in readers)
    )


def _is_rounded(view: View, node: onnx.NodeProto) -> bool:
    """Whether ONNX Runtime would round the float weights of a node, so that its input needs a fence."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or not view.weight(node):
        return False
    producer = view.producer.get(node.input[0])
    return producer is not None and producer.op_type == "DequantizeLinear"


def _never(_view: View, _node: onnx.NodeProto) -> bool:
    return False


def _has_no_shift(view: View, tensor: str) -> bool:
    """Whether a tensor comes from integers whose zero is 0: nothing is added that could move."""
    producer = view.producer.get(tensor)
    if producer is None or producer.op_type != "DequantizeLinear":
        return False
    zero = view.constant(producer.input[2]) if len(producer.input) > 2 else np.zeros(1)
    return zero is not None and not zero.any()


def _by_several(view: View, node: onnx.NodeProto) -> bool:
    """Whether an operand is a constant of several values."""
    return any(math.prod(view.shape(name)) > 1 for name in node.input if name in view.initializers)


def _shifts(view: View, node: onnx.NodeProto) -> bool:
    """Whether a convolution adds a bias that is not zero."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    bias = view.constant(node.input[2])
    return bias is None or bool(bias.any())


_Rule = Callable[[View, onnx.NodeProto], bool]
# Runtime -> whether a fence stands behind a node, and whether one stands before it.
_RULES: dict[Runtime, tuple[_Rule, _Rule]] = {
    "openvino": (_is_moved_on, _is_moved_past), "onnxruntime": (_is_slowed, _is_rounded),
}  # fmt: skip
