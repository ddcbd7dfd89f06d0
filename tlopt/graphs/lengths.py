"""The lengths of tensors that a graph computes for itself, from the shape of its input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.constants import fold_constants
from tlopt.graphs.view import WEIGHTED, View, attribute

Shape = tuple[int, ...]


def settle(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph in which lengths that follow from the input's shape are constants.

    Exporters let a graph find out its own sizes, such as those that a Resize goes to. Shape inference follows them
    only some steps far. Lengths that hang on a batch of any size stay as they are.

    Args:
        model: A cleaned graph.
    """
    while values := _known(view := View(model)):
        rest = [node for node in view.nodes if node.output[0] not in values]
        constants = (onnx.numpy_helper.from_array(value, name) for name, value in values.items())
        model = fold_constants(infer(rewritten(model, rest, constants)))
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


def _known(view: View) -> dict[str, np.ndarray]:
    """Return the lengths that a graph asks for and that are known, by the tensor that holds them."""
    found: dict[str, np.ndarray] = {}
    for node in view.nodes:
        value: np.ndarray | None = None
        if node.op_type == "Shape":
            value = _asked(view, node)
        elif node.op_type in ("Gather", "Slice") and (asks := view.producer.get(node.input[0])) is not None:
            value = _picked(view, node, _asked(view, asks)) if asks.op_type == "Shape" else None
        if value is not None and (value > 0).all() and node.output[0] not in view.outputs:
            found[node.output[0]] = value
    return found


def _asked(view: View, node: onnx.NodeProto) -> np.ndarray | None:
    """Return what a Shape node gives, 0 for a length that is not known; None if not even the rank is."""
    if view.rank(node.input[0]) < 1:
        return None
    return np.array(view.shape(node.input[0])[attribute(node, "start", 0) : attribute(node, "end")], np.int64)


def _picked(view: View, node: onnx.NodeProto, lengths: np.ndarray | None) -> np.ndarray | None:
    """Return what a Gather or Slice picks out of lengths; None if that is not known."""
    constants = [view.constant(name) for name in node.input[1:] if name]
    if lengths is None or any(value is None for value in constants):
        return None
    if node.op_type == "Gather":
        places = np.asarray(constants[0], np.int64)
        return np.asarray(lengths[places], np.int64) if (np.abs(places) <= len(lengths)).all() else None
    first, last = (int(np.ravel(value)[0]) for value in constants[:2] if value is not None)
    step = int(np.ravel(constants[3])[0]) if len(constants) > 3 and constants[3] is not None else 1
    return lengths[first:last:step]
