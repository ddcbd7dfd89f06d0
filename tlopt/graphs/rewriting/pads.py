"""Let convolutions pad, where a node of its own does it before them."""

from __future__ import annotations

import onnx

from tlopt.graphs.cleaning import infer


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
