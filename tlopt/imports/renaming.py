"""Tensors get other names, wherever a graph and its branches name them."""

from __future__ import annotations

import onnx

from tlopt.graphs.nesting import graphs


def rename(model: onnx.ModelProto, new: dict[str, str]) -> None:
    """Rename tensors in place. What has one of the new names already gets another one.

    Args:
        model: The graph.
        new: Old name -> new name.
    """
    taken = _names(model.graph) | set(new.values())
    names = dict(new)
    for name in new.values():
        if name in new or name not in _names(model.graph):
            continue
        other = f"{name}_inner"
        while other in taken:
            other += "_"
        taken.add(other)
        names[name] = other
    for graph in graphs(model.graph):
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = names.get(value.name, value.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = names.get(sparse.values.name, sparse.values.name)
        for note in graph.quantization_annotation:
            note.tensor_name = names.get(note.tensor_name, note.tensor_name)


def _names(graph: onnx.GraphProto) -> set[str]:
    found: set[str] = set()
    for one in graphs(graph):
        found |= {name for node in one.node for name in (*node.input, *node.output)}
        found |= {value.name for value in (*one.input, *one.output, *one.value_info, *one.initializer)}
        found |= {sparse.values.name for sparse in one.sparse_initializer}
    return found
