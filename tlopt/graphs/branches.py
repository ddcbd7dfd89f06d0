"""Branches that an exporter left open though the shapes decide them: the one that is always taken stays."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.nesting import inside, reads
from tlopt.graphs.view import attribute
from tlopt.sessions import open_session

log = logging.getLogger(__name__)

_BATCHES = (1, 2, 3)  # images that the conditions are computed for
_OF_SHAPES = frozenset({"Shape", "Size"})  # read the lengths of axes, and no values


def settle_branches(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph without each If whose condition follows from shapes alone.

    torch's older exporter writes such an If for a squeeze, as in `LocalResponseNorm`: it asks at each run whether an
    axis has the length one. Conditions are computed for one, two and three images. An If goes if its condition
    depends on no value, and is the same each time. Branches within branches follow.

    Args:
        model: Stays as it is. Returned itself if nothing can go: an axis beside the first has no fixed length, say.
    """
    while ifs := [node for node in model.graph.node if node.op_type == "If" and _of_shapes(model.graph, node.input[0])]:
        taken = _conditions(model, [node.input[0] for node in ifs])
        if not taken:
            break
        model = _inlined(model, taken)
    return model


def _of_shapes(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a tensor is computed of constants and lengths of axes alone."""
    producer = {made: node for node in graph.node for made in node.output}
    known = {tensor.name for tensor in graph.initializer}
    names, seen = [name], set()
    while names:
        name = names.pop()
        if name in known or name in seen:
            continue
        seen.add(name)
        node = producer.get(name)
        if node is None or any(inside(node)):
            return False
        if node.op_type not in _OF_SHAPES:
            names += [read for read in node.input if read]
    return True


def _conditions(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, bool]:
    """Return those conditions that are the same for any number of images; empty if the graph does not run."""
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None) for name in dict.fromkeys(names)
    )
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in constants]
    if any(not dim.dim_value for entry in inputs for dim in entry.type.tensor_type.shape.dim[1:]):
        return {}
    found: dict[str, set[bool]] = {}
    try:
        session = open_session(asked, optimize=False, arena=False)
        for batch in _BATCHES:
            answers = session.run(None, {entry.name: _zeros(entry, batch) for entry in inputs})
            for output, answer in zip(asked.graph.output, answers, strict=True):
                found.setdefault(output.name, set()).add(bool(np.asarray(answer).reshape(-1)[0]))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base but Exception
        log.info("branches stay open, the graph does not run: %s", error)
        return {}
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def _zeros(entry: onnx.ValueInfoProto, batch: int) -> np.ndarray:
    """Return a value of an input: so many images, if their number is free."""
    kind = entry.type.tensor_type
    shape = [dim.dim_value or batch for dim in kind.shape.dim]
    return np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))


def _inlined(model: onnx.ModelProto, taken: Mapping[str, bool]) -> onnx.ModelProto:
    """Return a graph with the branches that are taken in the place of their Ifs."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    names = taken_names(graph)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "If" or node.input[0] not in taken:
            nodes.append(node)
            continue
        branch = attribute(node, "then_branch" if taken[node.input[0]] else "else_branch")
        own = [name for one in branch.node for name in one.output if name]
        own += [tensor.name for tensor in branch.initializer]
        new = {name: free_name(name, names) for name in own}
        for tensor in branch.initializer:
            graph.initializer.append(tensor)
            graph.initializer[-1].name = new[tensor.name]
        nodes += [_renamed(one, new) for one in branch.node]
        nodes += [
            helper.make_node("Identity", [new.get(value.name, value.name)], [output])
            for value, output in zip(branch.output, node.output, strict=True)
        ]
    kept = _needed(nodes, {output.name for output in graph.output})
    del graph.node[:]
    graph.node.extend(kept)
    return made


def _needed(nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs depend on: what computed a condition does not any more."""
    kept: list[onnx.NodeProto] = []
    read = set(outputs)
    for node in reversed(nodes):
        if read & set(node.output):
            kept.append(node)
            read |= reads(node)
    return kept[::-1]


def _renamed(node: onnx.NodeProto, new: Mapping[str, str]) -> onnx.NodeProto:
    """Return a node, and all within it, with other names of tensors."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.input[:] = [new.get(name, name) for name in made.input]
    made.output[:] = [new.get(name, name) for name in made.output]
    for inner in inside(made):
        nodes = [_renamed(one, new) for one in inner.node]
        del inner.node[:]
        inner.node.extend(nodes)
        for value in inner.output:
            value.name = new.get(value.name, value.name)
    return made
