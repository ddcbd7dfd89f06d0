"""Compute what a graph computes of its constants alone, once and for all."""

from __future__ import annotations

import logging
import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlopt.graphs.cleaning import infer, rewritten, with_shapes
from tlopt.graphs.nesting import graphs
from tlopt.graphs.view import View
from tlopt.sessions import open_session

log = logging.getLogger(__name__)

LARGEST = (
    64 << 20
)  # elements of a result that is stored: of a constant that is expanded, the file would grow without end
_MORE = 1 << 16  # bytes: tables as small as this may be added
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_ROUNDED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with every tensor that depends on no input as an initializer.

    Weight standardization, weights that pass through Cast, Reshape, Unsqueeze or the like, and tables of
    positions are computed once here rather than at each run. The exporter leaves those of more than 8,192 elements.
    A tensor that cannot be computed here, or is too large to be stored, stays as it is.

    Args:
        model: A cleaned graph.
    """
    made = _folded(model)
    return model if made is model else infer(made)


def fold_parameters(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph as it came, but for what it computes of its parameters alone, which it holds now.

    A graph that would need more bytes then stays as it is: weights in half precision or in 8 bits may be kept so
    for the sake of the file's size. So does one with control flow, whose bodies read what is outside of them.

    Args:
        model: Any graph.
    """
    if any(graph is not model.graph for graph in graphs(model.graph)):
        return model
    typed = with_shapes(model)
    made = _folded(typed)
    if made is typed or _bytes(made) > _bytes(model) + _MORE:
        return model
    computed = {name for node in made.graph.node for name in node.output}
    del made.graph.value_info[:]
    made.graph.value_info.extend(value for value in model.graph.value_info if value.name in computed)
    return made


def _bytes(model: onnx.ModelProto) -> int:
    constants = [item.t for node in model.graph.node for item in node.attribute if item.HasField("t")]
    return sum(tensor.ByteSize() for tensor in (*model.graph.initializer, *constants))


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model itself if there is nothing to compute."""
    view = View(model)
    computed = _computed(view)
    if not any(node.op_type != "Constant" for node in computed):
        return model
    places = {id(node) for node in computed}
    inside = {name for node in computed for name in node.output if name}
    wanted = [name for name in inside if any(id(reader) not in places for reader in view.readers(name))]
    values = _values(view, computed, sorted(wanted))
    if values is None:
        return model
    rest = [node for node in view.nodes if id(node) not in places]
    made = rewritten(model, rest, (numpy_helper.from_array(value, name) for name, value in values.items()))
    log.info("%d nodes depend on constants alone: computed once", len(computed))
    return made


def _computed(view: View) -> list[onnx.NodeProto]:
    """Return the nodes that read constants alone, in order."""
    known = set(view.initializers)
    found = []
    for node in view.nodes:
        if all(not name or name in known for name in node.input) and _is_plain(view, node):
            known.update(node.output)
            found.append(node)
    return found


def _is_plain(view: View, node: onnx.NodeProto) -> bool:
    """Whether a node gives the same, small result each time, and none of the graph's outputs."""
    if node.op_type in _RANDOM | _ROUNDED or node.domain not in ("", "ai.onnx"):
        return False
    if any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in node.attribute):
        return False
    small = all(math.prod(view.shape(name)) <= LARGEST for name in node.output)
    return small and not set(node.output) & set(view.outputs)


def _values(view: View, nodes: list[onnx.NodeProto], wanted: list[str]) -> dict[str, np.ndarray] | None:
    """Run some nodes that read constants alone; None if ONNX Runtime cannot."""
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "constants",
        [],
        [helper.make_empty_tensor_value_info(name) for name in wanted],
        [tensor for name, tensor in view.initializers.items() if name in read],
    )
    model = helper.make_model(graph, opset_imports=view.model.opset_import, ir_version=view.model.ir_version)
    try:
        return dict(zip(wanted, open_session(model).run(None, {}), strict=True))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base but this
        log.info("what depends on constants alone stays in the graph: %s", str(error).partition("\n")[0])
        return None
