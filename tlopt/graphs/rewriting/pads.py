"""Let convolutions and pools pad, where a node of its own does it before them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.view import View, attribute

_NEVER_LARGEST = -1e30  # as small a number in a border is no maximum: infinity, or the lowest one of float32


def merge_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph in which zeros around an image are added by the convolutions that read it.

    In a graph of 8-bit integers a Pad of its own would run in float, between two roundings.

    Args:
        model: A cleaned graph.
    """
    if not any(node.op_type == "Pad" for node in model.graph.node):
        return model
    # Imported here: few graphs need it, and it takes as long as the rest of the import.
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules import common

    made: onnx.ModelProto = rewrite(model, [common.normalize_pad_format_conv_rule, common.fuse_pad_into_conv_rule])
    return infer(made)


def merge_lowest_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph in which maximum pools leave out the border that a Pad of the lowest numbers adds.

    That is how TensorFlow's SAME padding of a MaxPool is spelled elsewhere. Such numbers fit in no format but float32,
    and would take the whole range of 8 bits.

    Args:
        model: A cleaned graph.
    """
    view = View(model)
    merged = {}
    for node in view.nodes:
        before = view.producer.get(node.input[0]) if node.op_type == "MaxPool" else None
        pads = _pads_with(view, node, before) if before is not None else None
        if before is not None and pads is not None:
            merged[node.name] = before, pads
    if not merged:
        return model
    gone, nodes = {before.name for before, _ in merged.values()}, []
    for node in view.nodes:
        if node.name in merged:
            before, pads = merged[node.name]
            made = onnx.NodeProto()
            made.CopyFrom(node)
            made.input[0] = before.input[0]
            kept = [item for item in node.attribute if item.name not in ("pads", "auto_pad")]
            del made.attribute[:]
            made.attribute.extend([*kept, helper.make_attribute("pads", pads)])
            nodes.append(made)
        elif node.name not in gone:
            nodes.append(node)
    return infer(rewritten(model, nodes))


def _pads_with(view: View, pool: onnx.NodeProto, pad: onnx.NodeProto) -> list[int] | None:
    """Return the borders of a maximum pool and of the Pad before it together; None unless the pool can have both."""
    if (
        pad.op_type != "Pad"
        or view.only_reader(pad.output[0]) is None
        or attribute(pad, "mode", b"constant") != b"constant"
    ):
        return None
    widths, value = (view.constant(pad.input[at]) if len(pad.input) > at else None for at in (1, 2))
    window = attribute(pool, "kernel_shape")
    axes = len(window)
    if widths is None or value is None or not value.size or float(value.reshape(-1)[0]) > _NEVER_LARGEST:
        return None
    inner = widths.reshape(2, -1)
    # The number of windows that is rounded up depends on what is border and what is image.
    plain = attribute(pool, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and not attribute(pool, "ceil_mode", 0)
    if not plain or inner.shape[1] != axes + 2 or inner[:, :2].any() or (inner < 0).any():
        return None
    own = np.array(attribute(pool, "pads", [0] * 2 * axes)).reshape(2, axes)
    pads = own + inner[:, 2:]
    return pads.reshape(-1).tolist() if (pads < np.array(window)).all() else None
