"""Activation functions as exporters write them: one node, or the several that it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from tlopt.errors import ArtifactError
from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.opsets import brought
from tlopt.graphs.view import View
from tlopt.sessions import open_session

# Each value of the result depends on one value of each operand.
_ELEMENTWISE = frozenset(
    {"Abs", "Add", "Celu", "Clip", "Div", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Max", "Min",
     "Mish", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sub", "Tanh"}
)  # fmt: skip


GELU_OPSET = 20  # knows Gelu from here on
_INNER = {"Erf": "none", "Tanh": "tanh"}  # what is inside of GELU and its approximation -> what Gelu calls them
_FAR = (1e1, 3e1, 1e2, 1e3, 1e4)
_TRIED = np.concatenate([np.linspace(-8, 8, 1001), _FAR, np.negative(_FAR)]).astype(np.float32)
_SAME = 1e-5  # of a value, or of 1: what two ways to compute it in float32 may differ by


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A function of each value of a tensor by itself.

    Attributes:
        input: The tensor.
        output: The tensor that it becomes; all that reads the input is inside.
        nodes: What computes it, in order.
    """

    input: str
    output: str
    nodes: tuple[onnx.NodeProto, ...]


def activation(view: View, tensor: str) -> Activation | None:
    """Return the function that stands between a tensor and everything else, None if there is none.

    SiLU is a Sigmoid and a Mul of the same tensor, GELU five nodes, and so on. Of a chain of functions the longest is
    returned. Constants must be single numbers.
    """
    return max(activations(view, tensor), key=lambda found: len(found.nodes), default=None)


def activations(view: View, tensor: str) -> Iterator[Activation]:
    """Yield the functions that stand between a tensor and everything else, each with one node more or several."""
    inside: set[str] = set()
    made = {tensor}
    waiting = list(view.readers(tensor))
    while waiting:
        node = waiting.pop(0)
        # A node that waits for another operand is met again behind that operand.
        if node.name in inside or not _joins(view, node, made):
            continue
        inside.add(node.name)
        made.add(node.output[0])
        waiting += view.readers(node.output[0])
        left = [name for name in made if name in view.outputs or any(r.name not in inside for r in view.readers(name))]
        if len(left) == 1 and left[0] != tensor:
            nodes = tuple(node for node in view.nodes if node.name in inside)
            yield Activation(input=tensor, output=left[0], nodes=nodes)


def _joins(view: View, node: onnx.NodeProto, made: set[str]) -> bool:
    """Whether a node computes value by value from tensors that are there and single numbers."""
    if node.op_type not in _ELEMENTWISE or len(node.output) != 1:
        return False
    for name in node.input:
        constant = view.constant(name) if name else None
        if name and name not in made and (constant is None or constant.size != 1):
            return False
    return True


def function(view: View, found: Activation) -> Callable[[np.ndarray], np.ndarray]:
    """Return an activation as a function of any values, float (n,)."""
    read = {name for node in found.nodes for name in node.input}
    graph = helper.make_graph(
        found.nodes, "activation",
        [helper.make_tensor_value_info(found.input, TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info(found.output, TensorProto.FLOAT, None)],
        [constant for name, constant in view.initializers.items() if name in read],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=view.model.opset_import, ir_version=view.model.ir_version)
    session = open_session(model, threads=1)

    def compute(values: np.ndarray) -> np.ndarray:
        made: np.ndarray = session.run(None, {found.input: values.astype(np.float32).reshape(-1)})[0]
        return made.reshape(-1)

    return compute


def equals(view: View, found: Activation, other: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether an activation is a function of float32 (n,), as far as some values near zero and far from it tell."""
    if view.rank(found.input) != view.rank(found.output):
        return False
    given, wanted = function(view, found)(_TRIED), other(_TRIED)
    return given.shape == wanted.shape and bool(np.all(np.abs(given - wanted) < _SAME * np.maximum(1, np.abs(_TRIED))))


def with_gelu(view: View) -> View:
    """Return the graph with each GELU of several nodes as one node.

    ONNX Runtime fuses only some of the ways to write GELU, and none between DequantizeLinear and QuantizeLinear: it
    gives each reader of a DequantizeLinear one of its own, so that the nodes no longer read the same tensor.
    A graph that cannot be brought to the opset that has Gelu stays as it is.
    """
    inner = {node.op_type for node in view.nodes} & set(_INNER)
    found = [made for node in view.nodes if inner and (made := _gelu(view, str(node.output[0]))) is not None]
    if not found:
        return view
    model = view.model
    try:
        model = brought(model, GELU_OPSET)
    except ArtifactError:
        return view
    last = {function.nodes[-1].name: node for function, node in found}
    gone = {item.name for function, _ in found for item in function.nodes}
    nodes = [last.get(node.name, node) for node in model.graph.node if node.name in last or node.name not in gone]
    return View(infer(rewritten(model, nodes)))


def _gelu(view: View, tensor: str) -> tuple[Activation, onnx.NodeProto] | None:
    """Return the nodes after a tensor that are GELU, and the one node that is the same; None if they are not."""
    found = activation(view, tensor)
    kinds = {node.op_type for node in found.nodes} if found else set()
    if found is None or not kinds & _INNER.keys():
        return None
    ends = [node for node in found.nodes if found.output in node.output]
    approximate = _INNER["Erf" if "Erf" in kinds else "Tanh"]
    node = helper.make_node("Gelu", [tensor], [found.output], name=ends[0].name, approximate=approximate)
    model = helper.make_model(
        helper.make_graph(
            [node], "gelu", [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["n"])],
            [helper.make_tensor_value_info(found.output, TensorProto.FLOAT, ["n"])],
        ),
        opset_imports=[helper.make_opsetid("", GELU_OPSET)], ir_version=view.model.ir_version,
    )  # fmt: skip
    session = open_session(model, threads=1)
    return (found, node) if equals(view, found, lambda x: session.run(None, {tensor: x})[0]) else None
