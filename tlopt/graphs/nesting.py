"""Graphs within graphs: the branches of If and the bodies of Loop and Scan."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph, and those of its branches and loops."""
    yield graph
    for node in graph.node:
        for inner in inside(node):
            yield from graphs(inner)


def inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the branches or the body of a node."""
    for item in node.attribute:
        if item.type == onnx.AttributeProto.GRAPH:
            yield item.g
        yield from item.graphs


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that a node reads, also from within its branches and loops."""
    names = set(node.input)
    for inner in inside(node):
        for graph in graphs(inner):
            names |= {name for one in graph.node for name in one.input} | {value.name for value in graph.output}
    return names - {""}


def needed(nodes: Sequence[onnx.NodeProto], outputs: Collection[str]) -> list[onnx.NodeProto]:
    """Return the nodes that some tensors depend on, in their order."""
    kept: list[onnx.NodeProto] = []
    read = set(outputs)
    for node in reversed(nodes):
        if read.intersection(node.output):
            kept.append(node)
            read |= reads(node)
    return kept[::-1]
