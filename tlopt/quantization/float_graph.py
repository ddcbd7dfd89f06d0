"""The float graph that a quantized one is made of."""

from __future__ import annotations

import logging

from tlopt.artifact import Artifact
from tlopt.graphs.activations import with_gelu
from tlopt.graphs.cleaning import clean
from tlopt.graphs.lengths import settle
from tlopt.graphs.loading import load_graph
from tlopt.graphs.precision import precision_of
from tlopt.graphs.rewriting.folding import fold
from tlopt.graphs.rewriting.pads import merge_lowest_pads
from tlopt.graphs.rewriting.parallel import merge_parallel
from tlopt.graphs.view import View
from tlopt.quantization.channel_padding import with_padded_channels
from tlopt.quantization.depthwise import with_depthwise
from tlopt.quantization.hard_sigmoids import with_hard_sigmoids
from tlopt.quantization.options import refuse_quantized
from tlopt.quantization.placement import Runtime

log = logging.getLogger(__name__)


def float_graph(source: Artifact, *, precision: str, runtime: Runtime, folded: bool = True) -> View:
    """Return an artifact's graph in plain form. Operators that are none of ONNX are told of.

    Args:
        source: An ONNX artifact.
        precision: That it will have.
        runtime: That will run it.
        folded: Make constant arithmetic part of the weights beside it, and one convolution of those that are summed.
            A network that was trained with its scales was rounded as the exporter wrote it, and stays so.

    Raises:
        ArtifactError: It is quantized already, or cannot be quantized.
    """
    graph = load_graph(source.payload(".onnx"))
    refuse_quantized(source, precision_of(graph))  # a card of an older version says fp32 of every import
    graph = clean(graph)
    _warn_of_unknown(View(graph))
    if source.card.task == "any":
        graph = settle(graph)
    integer = precision == "int8" and runtime == "onnxruntime"
    if not folded:
        return with_padded_channels(View(graph), runtime) if integer else View(graph)
    if integer:  # before a factor of it becomes part of the next layer's weights
        graph = with_hard_sigmoids(View(graph)).model
    view = View(merge_lowest_pads(merge_parallel(fold(graph))))
    if precision != "int8":
        return view
    view = with_padded_channels(with_depthwise(view, runtime), runtime)
    # In five nodes ONNX Runtime would round inside of GELU, too.
    return with_gelu(with_hard_sigmoids(view)) if integer else view


def _warn_of_unknown(view: View) -> None:
    """Warn of operators whose results have no type that ONNX can infer: layers behind them are not recognized."""
    unknown = {
        f"{node.domain}.{node.op_type}"
        for node in view.nodes
        if node.domain not in ("", "ai.onnx") and any(name and view.rank(name) < 0 for name in node.output)
    }
    if unknown:
        log.warning(
            "ONNX does not define %s, so nothing is known of what lies behind: layers there stay float. Take the file "
            "as it was exported, before ONNX Runtime optimized it.",
            ", ".join(sorted(unknown)),
        )
