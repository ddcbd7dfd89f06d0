"""Nodes that keep OpenVINO from computing an int8 graph wrongly.

Once a graph has a Q/DQ pair, OpenVINO takes every product with constants for a DequantizeLinear. It moves such products
past the nodes behind them. Some moves are wrong, all seen in 2026.4:

- A factor for each channel goes past a Reshape that gives the values to other channels, past Pad, Gather and Transpose.
- The bias of a convolution goes past a mean over padded places.
- Of two readers of a convolution without a bias, one gets what the other should get.
- A maximum over channels that is rounded at once comes out wrong.

OpenVINO does not look past a Max with the lowest number, which changes no value: a fence.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.view import View, attribute

_LOWEST = float(np.finfo(np.float32).min)
_NORMS = ("BatchNormalization", "InstanceNormalization")  # OpenVINO writes them as products and sums


def fenced(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an int8 graph for OpenVINO with a fence at each place where it would go wrong.

    Args:
        model: With the types of its tensors; stays as it is.
    """
    view = View(model)
    places = {name for node in view.nodes for name in _endangered(view, node) if view.is_float(name)}
    places -= set(view.outputs)
    if not places:
        return model
    taken = taken_names(model.graph)
    lowest = free_name("lowest", taken)
    renamed: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for original in view.nodes:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(node)
        for name in places.intersection(node.output):
            renamed[name] = free_name(f"{name}_fenced", taken)
            nodes.append(helper.make_node("Max", [name, lowest], [renamed[name]], name=renamed[name]))
    return infer(rewritten(model, nodes, [numpy_helper.from_array(np.array(_LOWEST, np.float32), lowest)]))


def _endangered(view: View, node: onnx.NodeProto) -> list[str]:
    """Return the tensors beside a node that need a fence."""
    kind, result = node.op_type, str(node.output[0])
    # A constant less a tensor is a product with -1 to OpenVINO.
    scaled = kind in ("Mul", "Div", "Sub") and _by_several(view, node)
    if scaled or kind in _NORMS or kind in ("ReduceMax", "ReduceMin"):
        return [result]
    if kind == "AveragePool" and attribute(node, "count_include_pad", 0) and any(attribute(node, "pads", [])):
        return [str(node.input[0])]
    if kind in ("Conv", "ConvTranspose") and not _shifts(view, node) and len(view.readers(result)) > 1:
        return [result]
    return []


def _by_several(view: View, node: onnx.NodeProto) -> bool:
    """Whether an operand is a constant of several values."""
    return any(math.prod(view.shape(name)) > 1 for name in node.input if name in view.initializers)


def _shifts(view: View, node: onnx.NodeProto) -> bool:
    """Whether a convolution adds a bias that is not zero."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    bias = view.constant(node.input[2])
    return bias is None or bool(bias.any())
