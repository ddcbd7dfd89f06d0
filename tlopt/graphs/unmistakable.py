"""Graphs that every runtime reads alike: what OpenVINO computes otherwise than ONNX defines it is written another way.

All of it was seen in OpenVINO 2026.4:

- A Softmax of opset 11 or 12 looks over its own axis alone. Until opset 13 one looks over all axes from its own on.
- Channels that are put into another order are put into the inverse one where a convolution reads them. It takes in an
  order along an axis that is counted from the first one, and leaves one that is counted from the last.
- A transposed convolution that says the size of its result, or SAME, leaves out other places of its border.
- A batch normalization of all images' channels side by side comes out wrong in int8 (`rewriting.tiled_norms`).
- A mean over windows counts places beyond the border that lie in no padding. Such places come with `ceil_mode`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlopt.errors import ArtifactError
from tlopt.graphs.cleaning import with_shapes
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.opsets import brought
from tlopt.graphs.precision import opset_of
from tlopt.graphs.rewriting.tiled_norms import without_tiled_norms
from tlopt.graphs.view import View, attribute, stored

log = logging.getLogger(__name__)

_SOFTMAX_13 = 13  # looks over its own axis from here on
_MISREAD = (11, 12)  # opsets of which a Softmax is misread
_PAD_11 = 11  # reads the border's width as an input from here on


def unmistakable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph that every runtime reads alike.

    Args:
        model: Stays as it is; returned itself if it is read alike.
    """
    return without_tiled_norms(_with_padded_means(with_safe_orders(_with_told_borders(_with_safe_softmaxes(model)))))


def with_safe_orders(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph whose orders of channels every runtime reads alike. No node is added.

    Args:
        model: Stays as it is; returned itself if it puts nothing into another order.
    """
    if not any(node.op_type in ("Gather", "Concat") for node in model.graph.node):
        return model
    view = View(with_shapes(model))
    found = {place: rank for place, node in enumerate(view.nodes) if (rank := _reordered_rank(view, node))}
    if not found:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for place, rank in found.items():
        node = made.graph.node[place]
        counted = attribute(node, "axis", 0) - rank
        kept = [item for item in node.attribute if item.name != "axis"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("axis", counted)])
    return made


def _reordered_rank(view: View, node: onnx.NodeProto) -> int:
    """Return the number of axes of a tensor that a node puts into another order; 0 if it does anything else."""
    axis, rank = attribute(node, "axis", 0), view.rank(node.input[0]) if node.input else -1
    if rank < 1 or axis < 0:
        return 0
    if node.op_type == "Gather":
        return rank if _is_order(stored(view, node.input[1])) else 0
    if node.op_type != "Concat" or opset_of(view.model) < _PAD_11:  # older ones count from the first axis alone
        return 0
    parts = view.producer.get(node.input[0])
    whole = parts is not None and parts.op_type == "Split" and sorted(node.input) == sorted(parts.output)
    return rank if whole and parts is not None and list(node.input) != list(parts.output) else 0


def _is_order(places: np.ndarray | None) -> bool:
    """Whether places along an axis are each of them once, in another order."""
    if places is None or places.ndim != 1 or places.size < 2:
        return False
    counted = np.where(places < 0, places + places.size, places)
    usual = np.arange(places.size)
    return bool((np.sort(counted) == usual).all() and (counted != usual).any())


def _with_told_borders(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let transposed convolutions say how wide a border of their result is left out."""
    if not any(map(_tells_size, model.graph.node)):
        return model
    view, made = View(with_shapes(model)), onnx.ModelProto()
    made.CopyFrom(model)
    for node in filter(_tells_size, made.graph.node):
        border = _border_left_out(view, node)
        if border is not None:
            told = ("auto_pad", "output_shape", *border)
            kept = [item for item in node.attribute if item.name not in told]
            del node.attribute[:]
            node.attribute.extend([*kept, *(helper.make_attribute(name, values) for name, values in border.items())])
    return made


def _tells_size(node: onnx.NodeProto) -> bool:
    """Whether a transposed convolution tells the size of its result instead of the border that is left out."""
    same = attribute(node, "auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    return node.op_type == "ConvTranspose" and (same or bool(attribute(node, "output_shape")))


def _border_left_out(view: View, node: onnx.NodeProto) -> dict[str, list[int]] | None:
    """Return a transposed convolution's border as an attribute; None if it has none, or its sides are not known.

    The formulas are those of ConvTranspose 22 in ONNX's documentation.
    """
    sides = view.shape(node.input[0])[2:]
    axes = len(sides)
    window = attribute(node, "kernel_shape") or view.shape(node.input[1])[2:]
    if not axes or not all(sides) or len(window) != axes or not all(window):
        return None
    ones = [1] * axes
    strides, steps = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    wanted = attribute(node, "output_shape") or [side * stride for side, stride in zip(sides, strides, strict=True)]
    before, after, more = [], [], attribute(node, "output_padding", [0] * axes)
    for side, size, stride, step, length, added in zip(
        sides, window, strides, steps, wanted[-axes:], more, strict=True
    ):
        left_out = stride * (side - 1) + added + (size - 1) * step + 1 - length
        if left_out < 0:  # nothing is left out, which every runtime reads alike
            return None
        upper = attribute(node, "auto_pad", b"NOTSET") == b"SAME_UPPER"
        before.append(left_out // 2 if upper else left_out - left_out // 2)
        after.append(left_out - before[-1])
    return {"pads": [*before, *after]}


def _with_padded_means(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let a Pad add the border of means whose last windows end beyond it, so that it counts like any place."""
    if not any(map(_may_overhang, model.graph.node)):
        return model
    view, taken = View(with_shapes(model)), taken_names(model.graph)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    for node in model.graph.node:
        ends = window_ends(view, node) if _may_overhang(node) else None
        if ends is None or not any(end.overhangs for end in ends):
            made.graph.node.append(node)
            continue
        padded = free_name(f"{node.output[0]}_padded", taken)
        made.graph.node.extend([_border(made, node, ends, padded, taken), node])
        mean = made.graph.node[-1]
        kept = [item for item in node.attribute if item.name not in ("pads", "count_include_pad")]
        mean.input[0] = padded
        del mean.attribute[:]
        mean.attribute.extend(kept)
    return made


def _may_overhang(node: onnx.NodeProto) -> bool:
    """Whether a node is a mean that counts its border, and rounds the number of its windows up."""
    counts = attribute(node, "count_include_pad", 0) and any(attribute(node, "pads", []))
    given = attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    return node.op_type == "AveragePool" and bool(attribute(node, "ceil_mode", 0) and counts and given)


@dataclass(frozen=True)
class WindowEnd:
    """Where the last window of a pool ends along one axis.

    Args:
        before: Places of the border before the image.
        after: Places of the border behind it that windows reach.
        overhangs: Whether the window ends beyond the border.
    """

    before: int
    after: int
    overhangs: bool


def window_ends(view: View, node: onnx.NodeProto) -> list[WindowEnd] | None:
    """Return where the windows end of a pool that rounds their number up, for each axis of the image.

    A window that would begin behind the image is none, as in torch.

    Args:
        view: With the shapes of its tensors.
        node: A pool with `ceil_mode`, and without `auto_pad`.

    Returns:
        None if the image's sides are not known.
    """
    sides, window = view.shape(node.input[0])[2:], attribute(node, "kernel_shape")
    axes = len(window)
    if len(sides) != axes or not all(sides):
        return None
    pads, steps = attribute(node, "pads", [0] * 2 * axes), attribute(node, "dilations", [1] * axes)
    found = []
    for side, size, stride, before, after, step in zip(
        sides, window, attribute(node, "strides", [1] * axes), pads[:axes], pads[axes:], steps, strict=True
    ):
        extent = (size - 1) * step + 1
        last = -(-(side + before + after - extent) // stride) * stride
        last -= stride if last >= side + before else 0
        reached = last + extent - side - before
        found.append(WindowEnd(before, min(after, max(reached, 0)), reached > after))
    return found


def _border(
    model: onnx.ModelProto, mean: onnx.NodeProto, ends: list[WindowEnd], padded: str, taken: set[str]
) -> onnx.NodeProto:
    """Return the Pad of a mean's border, whose widths are stored in the graph."""
    widths = [0, 0, *(end.before for end in ends), 0, 0, *(end.after for end in ends)]
    if opset_of(model) < _PAD_11:
        return helper.make_node("Pad", [mean.input[0]], [padded], name=padded, pads=widths)
    name = free_name(f"{padded}_widths", taken)
    model.graph.initializer.append(numpy_helper.from_array(np.array(widths, np.int64), name))
    return helper.make_node("Pad", [mean.input[0], name], [padded], name=padded)


def _with_safe_softmaxes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bring a graph to opset 13 if OpenVINO would misread one of its Softmaxes.

    One over the last axis that is longer than one gives the same answers either way. A graph that cannot be brought
    there stays as it is.
    """
    if opset_of(model) not in _MISREAD or all(node.op_type != "Softmax" for node in model.graph.node):
        return model
    view = View(with_shapes(model))
    if all(_looks_along_one_axis(view, node) for node in view.nodes if node.op_type == "Softmax"):
        return model
    try:
        return brought(model, _SOFTMAX_13)
    except ArtifactError as error:
        log.warning("OpenVINO may misread a Softmax of this graph: %s", error)
        return model


def _looks_along_one_axis(view: View, node: onnx.NodeProto) -> bool:
    """Whether all axes after a Softmax's own have the length one."""
    shape = view.shape(node.input[0])
    if not shape:  # it is not known
        return False
    return all(side == 1 for side in shape[attribute(node, "axis", 1) % len(shape) + 1 :])
