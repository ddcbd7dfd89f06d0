"""Let convolutions pad, where a node of its own does it before them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.view import View, attribute


def merge_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph in which zeros around an image are added by the convolutions that read it.

    In a graph of 8-bit integers a Pad of its own would run in float, between two roundings.

    Args:
        model: A cleaned graph.
    """
    view = View(model)
    merged: dict[str, list[int]] = {}
    for node in view.nodes:
        if node.op_type == "Pad" and (pads := _zeros(view, node)) and _only_convolutions(view, node.output[0]):
            merged[node.output[0]] = pads
    if not merged:
        return model
    source = {node.output[0]: node.input[0] for node in view.nodes if node.output[0] in merged}
    nodes = []
    for node in view.nodes:
        if node.output[0] in merged:
            continue
        if node.op_type == "Conv" and node.input[0] in merged:
            node = _padding(node, merged[node.input[0]], source[node.input[0]])
        nodes.append(node)
    return infer(rewritten(model, nodes))


def _zeros(view: View, node: onnx.NodeProto) -> list[int]:
    """Return how many zeros a node adds: top, left, bottom, right; empty if it does anything else."""
    mode = attribute(node, "mode", b"constant")
    pads = view.constant(node.input[1]) if len(node.input) > 1 else None
    fill = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if mode not in (b"constant", "constant") or pads is None or fill is None or np.any(fill):
        return []
    if len(node.input) > 3 or len(pads) != 8 or (pads < 0).any() or pads[[0, 1, 4, 5]].any():
        return []
    found: list[int] = pads[[2, 3, 6, 7]].tolist()
    return found


def _only_convolutions(view: View, tensor: str) -> bool:
    readers = view.readers(tensor)
    explicit: Iterable[object] = (attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET") for node in readers)
    convolutions = (node.op_type == "Conv" and list(node.input).index(tensor) == 0 for node in readers)
    return bool(readers) and tensor not in view.outputs and all(convolutions) and all(explicit)


def _padding(node: onnx.NodeProto, pads: list[int], source: str) -> onnx.NodeProto:
    """Return a convolution that pads more."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.input[0] = source
    own = list(attribute(node, "pads", [0, 0, 0, 0]))
    kept = [item for item in made.attribute if item.name != "pads"]
    del made.attribute[:]
    made.attribute.extend([*kept, helper.make_attribute("pads", [a + b for a, b in zip(own, pads, strict=True)])])
    return made
