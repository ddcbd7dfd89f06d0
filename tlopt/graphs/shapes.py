"""Compute what a graph computes of shapes that are known, once and for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.rewriting.constants import fold_constants
from tlopt.graphs.view import View, attribute

# A tensor of whole numbers some of which are known, dtype object: int, or None where it depends on the input.
_Partly = np.ndarray


def fold_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph without the arithmetic on heights and widths that do not change.

    Exporters compute the padding and the new shapes from the shape of the input. Its height and width
    are fixed here, though the batch is not: then all of that but the batch is known.

    Args:
        model: A cleaned graph.
    """
    view = View(model)
    known = _known(view)
    found = {name: value for name, value in known.items() if all(item is not None for item in value.flat)}
    gone = [node for node in view.nodes if node.output[0] in found and node.output[0] not in view.outputs]
    if not gone:
        return model
    names = {node.name for node in gone}
    # What nothing reads any more goes, too: the shape itself, and the batch that was taken out of it.
    for node in reversed(view.nodes):
        if (
            node.output[0] in known
            and node.output[0] not in view.outputs
            and all(reader.name in names for name in node.output for reader in view.readers(name))
        ):
            names.add(node.name)
    constants = (
        numpy_helper.from_array(found[node.output[0]].astype(np.int64), node.output[0])
        for node in gone
        if any(reader.name not in names for reader in view.readers(node.output[0]))
    )
    rest = [node for node in view.nodes if node.name not in names]
    return fold_constants(infer(rewritten(model, rest, constants)))


def _known(view: View) -> Mapping[str, _Partly]:
    """Return what is known of each tensor that only picks and orders dimensions."""
    shapes = {
        value.name: value.type.tensor_type.shape
        for value in (*view.model.graph.input, *view.model.graph.output, *view.model.graph.value_info)
        if value.type.tensor_type.HasField("shape")
    }
    known: dict[str, _Partly] = {}
    for node in view.nodes:
        if node.op_type == "Shape" and node.input[0] in shapes:
            sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in shapes[node.input[0]].dim]
            dims = np.array(sizes, dtype=object)
            known[node.output[0]] = dims[attribute(node, "start", 0) : attribute(node, "end", len(dims))]
        elif (step := _STEPS.get(node.op_type)) is not None:
            given = [_value(view, known, name) for name in node.input]
            if any(name in known for name in node.input) and all(value is not None for value in given):
                try:
                    known[node.output[0]] = step(node, [value for value in given if value is not None])
                except (IndexError, ValueError, TypeError):  # it orders dimensions in a way that is not understood
                    continue
    return known


def _value(view: View, known: Mapping[str, _Partly], name: str) -> _Partly | None:
    if name in known:
        return known[name]
    constant = view.constant(name) if name else None
    return None if constant is None or constant.dtype.kind not in "iu" else constant.astype(object)


def _gather(node: onnx.NodeProto, given: list[_Partly]) -> _Partly:
    data, places = given
    return _array(np.take(data, places.astype(np.int64), axis=attribute(node, "axis", 0)))


def _unsqueeze(node: onnx.NodeProto, given: list[_Partly]) -> _Partly:
    axes = given[1].tolist() if len(given) > 1 else list(attribute(node, "axes"))
    return np.expand_dims(given[0], tuple(axes))


def _squeeze(node: onnx.NodeProto, given: list[_Partly]) -> _Partly:
    axes = given[1].tolist() if len(given) > 1 else attribute(node, "axes")
    return np.squeeze(given[0], None if axes is None else tuple(axes))


def _concat(node: onnx.NodeProto, given: list[_Partly]) -> _Partly:
    return np.concatenate(given, axis=attribute(node, "axis"))


def _slice(_: onnx.NodeProto, given: list[_Partly]) -> _Partly:
    data, starts, ends = given[:3]
    axes = given[3].tolist() if len(given) > 3 else range(len(starts))
    steps = given[4].tolist() if len(given) > 4 else [1] * len(starts)
    where: list[slice] = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        where[axis] = slice(start, end, step)
    return data[tuple(where)]


def _cast(node: onnx.NodeProto, given: list[_Partly]) -> _Partly:
    if attribute(node, "to") != TensorProto.INT64:
        raise ValueError
    return given[0]


def _array(value: object) -> _Partly:
    """Return what NumPy takes out of an array of objects as an array again."""
    if isinstance(value, np.ndarray):
        return value
    found = np.empty((), dtype=object)
    found[()] = value
    return found


_STEPS: Mapping[str, Callable[[onnx.NodeProto, list[_Partly]], _Partly]] = {
    "Gather": _gather, "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Concat": _concat, "Slice": _slice, "Cast": _cast,
}  # fmt: skip
