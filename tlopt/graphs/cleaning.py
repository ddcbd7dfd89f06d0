"""Bring an exported graph into the one form that quantizing and casting work on."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from tlopt.errors import ArtifactError
from tlopt.graphs.branches import settle_branches
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.opsets import brought
from tlopt.graphs.view import View, attribute

OPSET = 13  # QuantizeLinear knows channels from here on
IR = 7  # of the same release
# What ONNX cannot infer the output of, which has the type and the shape of the first input.
_AS_INPUT = frozenset({"GroupNormalization", "MeanVarianceNormalization"})


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph in plain form, with the shapes of all tensors.

    Older operators are brought to opset 13. Initializers are no longer inputs, and Constant nodes become
    initializers. Identity nodes go, and Dropout, which does nothing after training. A mean over the image plane
    becomes GlobalAveragePool, which has an integer kernel where ReduceMean has none. A Pad or Resize of some axes
    becomes one of all: ONNX Runtime 1.32 misreads others between integers. Branches that shapes decide are settled.
    Every node has a name of its own, and what the exporter noted for itself goes.

    Raises:
        ArtifactError: The graph holds control flow, or operators that cannot be brought to opset 13.
    """
    model = settle_branches(model)
    inner = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    if any(found.type in inner for node in model.graph.node for found in node.attribute):
        raise ArtifactError(
            "The graph holds control flow (If, Loop or Scan), which cannot be quantized.",
            hint="Export the network again with a newer exporter (torch.onnx.export with dynamo=True).",
        )
    model = _modern(copy.deepcopy(model))
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    outputs = {output.name for output in graph.output}
    read = {name for node in graph.node for name in node.input} | outputs
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type == "Constant" and (tensor := _constant(node)) is not None:
            graph.initializer.append(tensor)
        elif _passes(node, read) and node.output[0] not in outputs:
            renamed[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    _replace(graph.node, nodes)
    model = infer(model)
    graph, view, taken = model.graph, View(model), taken_names(model.graph)
    for node in view.nodes:
        if node.op_type == "ReduceMean" and _over_plane(view, node):
            node.CopyFrom(helper.make_node("GlobalAveragePool", [node.input[0]], list(node.output), name=node.name))
        elif node.op_type == "Pad" and (widths := _of_all_axes(view, node)) is not None:
            name = free_name(f"{node.output[0]}_widths", taken)
            graph.initializer.append(numpy_helper.from_array(widths, name))
            node.input[1] = name
            del node.input[3:]
        elif node.op_type == "Resize" and (factors := _factors_of_all_axes(view, node)) is not None:
            name = free_name(f"{node.output[0]}_factors", taken)
            graph.initializer.append(numpy_helper.from_array(factors, name))
            node.input[:] = [node.input[0], "", name]
            kept = [item for item in node.attribute if item.name not in ("axes", "keep_aspect_ratio_policy")]
            _replace(node.attribute, kept)
    _name(view.nodes)
    used = {name for node in view.nodes for name in node.input} | outputs
    _replace(graph.initializer, [i for i in graph.initializer if i.name in used])
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    return infer(model)


def _passes(node: onnx.NodeProto, read: Collection[str]) -> bool:
    """Whether a node gives what it is given."""
    trains = len(node.input) > 2 and node.input[2]
    return node.op_type == "Identity" or (
        node.op_type == "Dropout" and not trains and not any(name in read for name in node.output[1:])
    )


def _modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bring an older file to the form that Q/DQ nodes need; the model is changed.

    Raises:
        ArtifactError: It cannot be brought there, or would answer otherwise.
    """
    model = brought(model, OPSET)
    model.ir_version = max(model.ir_version, IR)
    constants = {initializer.name for initializer in model.graph.initializer}
    _replace(model.graph.input, [entry for entry in model.graph.input if entry.name not in constants])
    return model


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the type and shape of every tensor inferred anew."""
    del model.graph.value_info[:]
    return with_shapes(model, strict=True)


def with_shapes(model: onnx.ModelProto, *, strict: bool = False) -> onnx.ModelProto:
    """Return the model with the types and shapes of its tensors, as far as they can be inferred.

    ONNX has no inference for some normalizations. Others stand in for them meanwhile.

    Args:
        model: Stays as it is.
        strict: Raise an error where inference fails.
    """
    norms = {
        place: node for place, node in enumerate(model.graph.node) if node.op_type in _AS_INPUT and not node.domain
    }
    if norms:
        whole, model = model, onnx.ModelProto()
        model.CopyFrom(whole)
    for place, node in norms.items():
        model.graph.node[place].CopyFrom(helper.make_node("Identity", node.input[:1], node.output))
    made = shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True)
    for place, node in norms.items():
        made.graph.node[place].CopyFrom(node)
    return made


def rewritten(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], constants: Iterable[onnx.TensorProto] = ()
) -> onnx.ModelProto:
    """Return a model with other nodes, and of its constants those that they read.

    Args:
        model: Stays as it is.
        nodes: In order.
        constants: New ones; they take the place of those of the same names.
    """
    new = {constant.name: constant for constant in constants}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _replace(made.graph.node, list(nodes))
    used = {name for node in made.graph.node for name in node.input} | {output.name for output in made.graph.output}
    # A new node may give a tensor the name of the constant whose place it takes.
    used -= {name for node in made.graph.node for name in node.output}
    _replace(
        made.graph.initializer, [*(i for i in made.graph.initializer if i.name in used - new.keys()), *new.values()]
    )
    return made


def _replace(field: object, items: Sequence[object]) -> None:
    kept = [copy.deepcopy(item) for item in items]
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    value = attribute(node, "value")
    if value is None:
        for name, dtype in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64),
                            ("value_ints", np.int64)):  # fmt: skip
            if (found := attribute(node, name)) is not None:
                value = numpy_helper.from_array(np.asarray(found, dtype))
    if value is not None:
        value.name = node.output[0]
    return value


def _over_plane(view: View, node: onnx.NodeProto) -> bool:
    if not attribute(node, "keepdims", 1) or view.rank(node.input[0]) != 4:
        return False
    axes = view.constant(node.input[1]) if len(node.input) > 1 else attribute(node, "axes")
    return axes is not None and sorted(int(axis) % 4 for axis in axes) == [2, 3]


def _of_all_axes(view: View, node: onnx.NodeProto) -> np.ndarray | None:
    """Return the widths, int64 (2 * axes,), of a Pad that names the axes which it pads; None for any other."""
    rank = view.rank(node.input[0])
    widths, axes = (view.constant(node.input[at]) if len(node.input) > at else None for at in (1, 3))
    if widths is None or axes is None or rank < 0:
        return None
    found = np.zeros((2, rank), np.int64)
    found[:, axes % rank] = widths.reshape(2, -1)
    return found.reshape(-1)


def _factors_of_all_axes(view: View, node: onnx.NodeProto) -> np.ndarray | None:
    """Return the factors, float32 (axes,), of a Resize that names the axes which it resizes; None for any other.

    None, too, where it says their new lengths, and the old ones are not known.
    """
    axes, rank = attribute(node, "axes"), view.rank(node.input[0])
    cropped = len(node.input) > 1 and node.input[1]
    if axes is None or rank < 0 or cropped or attribute(node, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return None
    places = [axis % rank for axis in axes]
    found = np.ones(rank, np.float32)
    given = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if given is None:
        sides = np.array(view.shape(node.input[0]))[places]
        sizes = view.constant(node.input[3]) if len(node.input) > 3 else None
        if sizes is None or not sides.all():
            return None
        given = (sizes / sides).astype(np.float32)
        short = sides * given.astype(np.float64) < sizes  # by a rounding, which would cost a whole pixel
        given[short] = np.nextafter(given[short], np.float32(np.inf))
    found[places] = given
    return found


def _name(nodes: list[onnx.NodeProto]) -> None:
    """Give each node a name that no other has."""
    given = {node.name for node in nodes}
    taken: set[str] = set()
    for index, node in enumerate(nodes):
        if not node.name or node.name in taken:
            node.name = free_name(f"{node.op_type}_{index}", given)
        taken.add(node.name)
