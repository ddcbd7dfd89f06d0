"""A graph that takes pixels: what turns pixels into numbers for the network becomes its first nodes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlopt.graphs.nesting import graphs
from tlopt.preprocess import Preprocess

INPUT = "images"
FIRST = "preprocess.normalized"  # what the network itself now reads in the place of the input


def take_pixels(model: onnx.ModelProto, preprocess: Preprocess) -> onnx.ModelProto:
    """Return a graph that computes the same from pixels: uint8 (n, height, width, 3), RGB, or one channel of grey.

    The nodes before it do what `Preprocess.normalize` does, in the same float32 arithmetic.

    Args:
        model: A graph whose input "images" is what `Preprocess.normalize` returns. It stays as it is.
        preprocess: How pixels become that input; with `folded` the graph takes pixels already.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if preprocess.folded:
        return made
    graph, (image,) = made.graph, made.graph.input
    elem_type = image.type.tensor_type.elem_type
    batch = image.type.tensor_type.shape.dim[0]
    for inner in graphs(graph):
        for node in inner.node:
            for i, name in enumerate(node.input):
                if name == INPUT:
                    node.input[i] = FIRST
    for node in reversed(_nodes(made, preprocess, elem_type)):
        graph.node.insert(0, node)
    shape = [batch.dim_value or batch.dim_param or "n", *preprocess.sides, len(preprocess.mean)]
    image.CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, shape))
    return made


def _nodes(model: onnx.ModelProto, preprocess: Preprocess, elem_type: int) -> list[onnx.NodeProto]:
    """Return the nodes from the input to `FIRST`, and add their constants."""
    steps: list[tuple[str, str, list[str], dict[str, object]]] = []
    constants = model.graph.initializer
    planes = preprocess.layout == "nchw"
    steps.append(("Cast", "float", [], {"to": TensorProto.FLOAT}))  # first: TensorRT does nothing else with uint8
    if planes:
        steps.append(("Transpose", "planes", [], {"perm": [0, 3, 1, 2]}))
    if preprocess.channels == "bgr":
        constants.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "preprocess.order"))
        steps.append(("Gather", "ordered", ["preprocess.order"], {"axis": 1 if planes else 3}))
    for name, values in zip(("scale", "shift"), preprocess.affine(), strict=True):
        shaped = values.reshape((1, -1, 1, 1) if planes else (1, 1, 1, -1))
        constants.append(numpy_helper.from_array(shaped, f"preprocess.{name}"))
    steps.append(("Mul", "scaled", ["preprocess.scale"], {}))
    steps.append(("Add", "shifted", ["preprocess.shift"], {}))
    if elem_type != TensorProto.FLOAT:
        steps.append(("Cast", "converted", [], {"to": elem_type}))
    nodes, tensor = [], INPUT
    for kind, result, others, attributes in steps:
        name = FIRST if result == steps[-1][1] else f"preprocess.{result}"
        label = "Convert" if result == "converted" else kind
        nodes.append(helper.make_node(kind, [tensor, *others], [name], f"preprocess.{label}", **attributes))
        tensor = name
    return nodes
