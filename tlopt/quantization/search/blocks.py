"""The blocks of a graph: what is quantized, or left float, as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from tlopt.graphs.view import View

LARGEST = 12  # weighted nodes of a block; beyond that each is a block of its own
TAIL = "outputs"  # name of the block that turns what the last layers gave into the outputs


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of the graph that is quantized, or left float, as a whole.

    Args:
        name: What its weights' names have in common.
        nodes: Names of its nodes.
    """

    name: str
    nodes: tuple[str, ...]


def blocks_of(view: View, *, tail: bool = False) -> list[Block]:
    """Divide a cleaned graph into blocks, in order; each node is in one.

    The graph is cut wherever all that is to come reads one tensor only: after the addition of a
    residual block, after each layer of a plain chain. Layers without weights belong to what is
    before them, and an expansion, a depthwise convolution and a projection to one another.

    Args:
        view: Of the graph.
        tail: Put what no layer with weights reads any more into a block of its own: how a detector decodes its boxes.
    """
    found: list[list[onnx.NodeProto]] = []
    state = ""  # of the last block: "lone", one dense convolution; "depthwise", it ends in one; "whole"
    for segment in _segments(view):
        kind = _kind(view, segment)
        joins = found and (
            kind == "weightless"
            or state == "weightless"
            or (kind == "depthwise" and state in ("lone", "depthwise"))
            or (kind in ("lone", "pooled") and state == "depthwise")
        )
        if joins:
            found[-1] += segment
            if kind == "lone" and state == "depthwise":
                state = "whole"
            elif kind not in ("weightless", "pooled"):
                state = kind
        else:
            found.append(segment)
            state = kind
    taken: dict[str, int] = {}
    made = []
    last = _tail(view) if tail else []
    out = {node.name for node in last}
    found = [kept for block in found if (kept := [node for node in block if node.name not in out])]
    for nodes in (part for block in found for part in _parts(view, block)):
        name = _name(view, nodes)
        taken[name] = taken.get(name, 0) + 1
        unique = name if taken[name] == 1 else f"{name} ({taken[name]})"
        made.append(Block(name=unique, nodes=tuple(node.name for node in nodes)))
    if last:
        name = TAIL if TAIL not in taken else f"{TAIL} (last)"
        made.append(Block(name=name, nodes=tuple(node.name for node in last)))
    return made


def _tail(view: View) -> list[onnx.NodeProto]:
    """Return the nodes without weights that no layer with weights depends on."""
    above: set[str] = set()
    for node in reversed(view.nodes):
        readers = [reader for name in node.output for reader in view.readers(name)]
        if any(view.weight(reader) or reader.name in above for reader in readers):
            above.add(node.name)
    return [node for node in view.nodes if node.name not in above and not view.weight(node)]


def _segments(view: View) -> list[list[onnx.NodeProto]]:
    """Return the nodes between tensors that all later nodes depend on through no other."""
    waiting = {name: len(view.readers(name)) for node in view.nodes for name in (*node.input, *node.output)}
    alive = set(view.inputs)
    segments: list[list[onnx.NodeProto]] = [[]]
    for node in view.nodes:
        segments[-1].append(node)
        for name in dict.fromkeys(node.input):
            waiting[name] -= 1
            if not waiting[name]:
                alive.discard(name)
        alive.update(name for name in node.output if view.is_float(name) and waiting[name])
        if len(alive) <= 1:
            segments.append([])
    return [segment for segment in segments if segment]


def _kind(view: View, segment: list[onnx.NodeProto]) -> str:
    weighted = [node for node in segment if view.weight(node)]
    if not weighted:
        return "weightless"
    if len(weighted) > 1:
        # Squeeze and excitation of a block without a residual addition: it scales the depthwise layer's output.
        return "pooled" if segment[0].op_type == "GlobalAveragePool" else "whole"
    if weighted[0].op_type != "Conv":
        return "whole"
    return "depthwise" if view.is_depthwise(weighted[0]) else "lone"


def _parts(view: View, block: list[onnx.NodeProto]) -> list[list[onnx.NodeProto]]:
    """Divide a block with very many weights, such as a densely connected stage, before each of them."""
    if sum(bool(view.weight(node)) for node in block) <= LARGEST:
        return [block]
    parts: list[list[onnx.NodeProto]] = [[]]
    for node in block:
        if view.weight(node) and any(view.weight(other) for other in parts[-1]):
            parts.append([])
        parts[-1].append(node)
    return parts


def _name(view: View, nodes: list[onnx.NodeProto]) -> str:
    scopes = [view.weight(node).removesuffix(".weight").split(".") for node in nodes if view.weight(node)]
    if not scopes:
        return str(nodes[0].name)
    first, last = scopes[0], scopes[-1]
    common = 0
    while all(len(scope) > common and scope[common] == first[common] for scope in scopes):
        common += 1
    return ".".join(first[:common]) or f"{'.'.join(first)} to {'.'.join(last)}"
