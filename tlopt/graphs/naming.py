"""Names of tensors that are made anew: those of no other tensor, whatever a graph's are called."""

from __future__ import annotations

import onnx

from tlopt.graphs.nesting import reads


def taken_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all tensors of a graph."""
    names = {name for node in graph.node for name in (*reads(node), *node.output)}
    return names | {value.name for value in (*graph.input, *graph.output, *graph.initializer)}


def free_name(name: str, taken: set[str]) -> str:
    """Return a name that is not taken, and take it."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
