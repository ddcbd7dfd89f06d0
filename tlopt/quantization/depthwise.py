"""What a runtime computes slowly between integers becomes a depthwise convolution, which it computes fast.

In ONNX Runtime a mean over windows, as in Inception and ResNet-D, is slower in 8 bits than in float. A
batch norm that no convolution can take in, as in DenseNet and pre-activation ResNets, is computed in float between two
roundings, and in OpenVINO, too. Both are depthwise convolutions. Their weights are one value for each channel, which
8 bits hold without error.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.rewriting.affine import Affine, affine
from tlopt.graphs.unmistakable import window_ends
from tlopt.graphs.view import MOVES, WEIGHTED, View
from tlopt.quantization.placement import Runtime

Layer = tuple[np.ndarray, np.ndarray | None, dict[str, object]]  # weight (channels, 1, a, b), bias, attributes
# What gives integers, so that reading them in 8 bits costs no further rounding.
_INTEGER = WEIGHTED | MOVES | {"Add", "Concat", "AveragePool", "BatchNormalization", "Relu", "Clip"}


def with_depthwise(view: View, runtime: Runtime) -> View:
    """Return an equal graph whose means over windows and batch norms between layers are depthwise convolutions.

    A mean that leaves the border out of its count stays: its divisor differs from place to place. So do means in
    OpenVINO, which has a kernel for them. Of its batch norms only those after a sum go, which is rounded anyway.
    Others would read integers where they read floats, and DenseNet is slower there with convolutions.

    Args:
        view: Of a cleaned and folded graph.
        runtime: That will run it in 8 bits; graphs for TensorRT stay as they are.
    """
    if runtime == "tensorrt":
        return view
    taken = taken_names(view.model.graph)
    made: dict[str, tuple[onnx.NodeProto, list[onnx.TensorProto]]] = {}
    for node in view.nodes:
        layer = _mean(view, node, runtime) or _norm(view, node, runtime)
        if layer is not None:
            made[node.name] = _convolution(node, *layer, taken)
    if not made:
        return view
    nodes = [made[node.name][0] if node.name in made else node for node in view.nodes]
    new = [tensor for _, tensors in made.values() for tensor in tensors]
    return View(infer(rewritten(view.model, nodes, new)))


def _mean(view: View, node: onnx.NodeProto, runtime: Runtime) -> Layer | None:
    """Return a mean over windows as a convolution; None if it is none, or is fast as it is."""
    channels = _channels(view, node)
    if node.op_type != "AveragePool" or not channels or runtime != "onnxruntime":
        return None
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    window = given["kernel_shape"]
    strides, pads = given.get("strides", [1] * len(window)), given.get("pads", [0] * 2 * len(window))
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or any(d != 1 for d in given.get("dilations", [])):
        return None
    if any(pads) and not given.get("count_include_pad", 0):
        return None
    if given.get("ceil_mode", 0):
        ends = window_ends(view, node)
        if ends is None or any(end.overhangs for end in ends):
            return None
    return np.full((channels, 1, *window), 1 / np.prod(window), np.float32), None, {"strides": strides, "pads": pads}


def _norm(view: View, node: onnx.NodeProto, runtime: Runtime) -> Layer | None:
    """Return a batch norm as a convolution of one pixel; None if it is none, or is faster as it is."""
    channels = _channels(view, node)
    if node.op_type != "BatchNormalization" or not channels:
        return None
    if runtime == "openvino" and view.producer[node.input[0]].op_type != "Add":
        return None
    found: Affine | None = affine(node, node.input[0], view.constant, rank=4, axis=1, channels=channels)
    if found is None:
        return None
    return found.scale.reshape(-1, 1, 1, 1).astype(np.float32), found.shift.astype(np.float32), {}


def _channels(view: View, node: onnx.NodeProto) -> int:
    """Return the number of channels of the images that a node reads; 0 if they are none, or nothing gives integers."""
    if not node.input or not view.is_float(node.input[0]) or view.rank(node.input[0]) != 4:
        return 0
    producer = view.producer.get(node.input[0])
    return view.shape(node.input[0])[1] if producer is not None and producer.op_type in _INTEGER else 0


def _convolution(
    node: onnx.NodeProto, weight: np.ndarray, bias: np.ndarray | None, options: dict[str, object], taken: set[str]
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """Return a depthwise convolution in the place of a node, and its constants."""
    values = {"weight": weight} | ({} if bias is None else {"bias": bias})
    tensors = [
        numpy_helper.from_array(value, free_name(f"{node.name}_{part}", taken)) for part, value in values.items()
    ]
    inputs = [node.input[0], *(tensor.name for tensor in tensors)]
    made = helper.make_node(
        "Conv",
        inputs,
        list(node.output[:1]),
        name=node.name,
        group=len(weight),
        kernel_shape=weight.shape[2:],
        **options,
    )
    return made, tensors
