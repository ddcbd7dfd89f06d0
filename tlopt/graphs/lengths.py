"""The lengths of tensors that a graph computes for itself, from the shape of its input."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from tlopt.graphs.cleaning import infer
from tlopt.graphs.shapes import fold_shapes
from tlopt.graphs.view import WEIGHTED, View

Shape = tuple[int, ...]


def settle(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph in which lengths that follow from the input's shape are constants.

    Exporters let a graph find out its own sizes, such as those that a Resize goes to. Shape inference follows them
    only some steps far. Lengths that hang on a batch of any size stay as they are.

    Args:
        model: A cleaned graph.
    """
    while (settled := fold_shapes(model)) is not model:
        model = settled
    return model


def of_one_image(view: View) -> Callable[[str], Shape]:
    """Return the function that gives the shape of a tensor when one image is run, 1 for a length that is not known.

    Args:
        view: Of a cleaned graph.
    """
    weighted = [node for node in view.nodes if node.op_type in WEIGHTED]
    if all(0 not in view.shape(name)[1:] and view.shape(name) for node in weighted for name in node.output):
        return lambda tensor: tuple(max(length, 1) for length in view.shape(tensor))
    single = onnx.ModelProto()
    single.CopyFrom(view.model)
    batch = single.graph.input[0].type.tensor_type.shape.dim[0]
    if not batch.dim_value:
        batch.CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=1))
    settled = View(settle(infer(single)))
    return lambda tensor: tuple(max(length, 1) for length in settled.shape(tensor) or view.shape(tensor))
