"""Hard sigmoids, alone or inside of hard swish, that ONNX Runtime computes in integers without a rounding of their own.

A hard sigmoid is ``min(max(slope * x + 1/2, 0), 1)``. Let the smallest integer of x stand for the value at which that
becomes 0, ``-1 / (2 * slope)``. Below it nothing is told apart, so nothing is lost. Then the hard sigmoid of x is the
same integers with another scale, up to twice the zero point: the operator is a Clip of integers. Hard swish is the
product of both. In float it takes a DequantizeLinear, two operators and a QuantizeLinear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from tlopt.graphs.activations import Activation, activation, activations, equals
from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.view import View, attribute
from tlopt.quantization.grid import Grid, Scale

_SLOPE = 1 / 6
_HALF = 0.5
_PARTS = frozenset({"Add", "Clip", "Div", "HardSigmoid", "HardSwish", "Max", "Min", "Mul", "Relu"})
_MADE_OF = frozenset({"Clip", "HardSwish", "Min", "HardSigmoid"})  # one of them is in every spelling
_COARSER = 1.25  # steps that still count as the same: the result's own rounding is as large


@dataclass(frozen=True, kw_only=True)
class HardSigmoid:
    """A hard sigmoid whose integers are those of its input.

    Attributes:
        input: The tensor that it reads.
        slope: Between its ends.
        nodes: Names of what computes in integers then: what makes its input, itself and, in hard swish, the product.
        product: It is in hard swish.
    """

    input: str
    slope: float
    nodes: frozenset[str]
    product: bool

    def grid(self, grid: Grid) -> Grid:
        """Return a grid of its input, whose smallest integer stands for the largest input that gives 0."""
        end = _HALF / self.slope
        return replace(grid, lowest=-end, highest=math.inf if self.product else end)


def with_hard_sigmoids(view: View) -> View:
    """Return the graph with each hard sigmoid and hard swish, however it is spelled, as a HardSigmoid and a Mul."""
    taken = taken_names(view.model.graph) | {node.name for node in view.nodes}
    gone: set[str] = set()
    made: dict[str, list[onnx.NodeProto]] = {}  # the last node of a spelling -> what takes its place
    for node in view.nodes:
        found, kind = _spelled(view, str(node.output[0])) if node.output else (None, "")
        if found is None or gone & {item.name for item in found.nodes}:
            continue
        last = next(item for item in found.nodes if found.output in item.output)
        gone |= {item.name for item in found.nodes}
        whole = kind == "HardSigmoid"
        inner = found.output if whole else free_name(f"{found.output}_gate", taken)
        name = last.name if whole else free_name(f"{last.name}_gate", taken)
        made[last.name] = [helper.make_node("HardSigmoid", [found.input], [inner], name=name, alpha=_SLOPE, beta=_HALF)]
        if not whole:
            made[last.name].append(helper.make_node("Mul", [found.input, inner], [found.output], name=last.name))
    if not made:
        return view
    nodes = [new for node in view.nodes for new in made.get(node.name, () if node.name in gone else (node,))]
    return View(infer(rewritten(view.model, nodes)))


def _spelled(view: View, tensor: str) -> tuple[Activation | None, str]:
    """Return the longest function after a tensor that is a hard sigmoid or hard swish, and which of them it is.

    None if there is none, or if it is spelled as it should be.
    """
    for found in reversed(list(activations(view, tensor))):
        kinds = [node.op_type for node in found.nodes]
        spelled = kinds in (["HardSigmoid"], ["HardSigmoid", "Mul"])
        if not spelled and _MADE_OF & set(kinds) and not set(kinds) - _PARTS and (kind := _kind(view, found)):
            return found, kind
    return None, ""


def _kind(view: View, found: Activation) -> str:
    """Return what a function is, HardSigmoid or HardSwish; empty if it is neither."""
    if equals(view, found, _hard_sigmoid):
        return "HardSigmoid"
    return "HardSwish" if equals(view, found, lambda x: x * _hard_sigmoid(x)) else ""


def _hard_sigmoid(x: np.ndarray) -> np.ndarray:
    return np.clip(x * _SLOPE + _HALF, 0, 1)


def hard_sigmoids(view: View) -> dict[str, HardSigmoid]:
    """Return the hard sigmoids that can be integers, by the tensor that each makes.

    The input of one comes from a layer that gives integers, and nothing else reads it but the product of hard swish:
    its values below the lowest are told apart no longer. What goes on in float behind it would see one rounding more.

    Args:
        view: Of a cleaned graph.
    """
    found: dict[str, HardSigmoid] = {}
    for node in view.nodes:
        if node.op_type != "HardSigmoid":
            continue
        source, result = str(node.input[0]), str(node.output[0])
        producer, slope = view.producer.get(source), attribute(node, "alpha", 0.2)
        products = [other for other in view.readers(source) if other.name != node.name]
        own = {node.name, *(other.name for other in products)}
        whole = activation(view, source)
        if (
            producer is not None
            and view.weight(producer)
            and slope > 0
            and math.isclose(attribute(node, "beta", 0.5), _HALF)
            and all(other.op_type == "Mul" and set(other.input) == {source, result} for other in products)
            and len(products) <= 1
            and whole is not None
            and {item.name for item in whole.nodes} == own
        ):
            nodes = frozenset({producer.name, *own})
            found[result] = HardSigmoid(input=source, slope=float(slope), nodes=nodes, product=bool(products))
    return found


def precise(found: Mapping[str, HardSigmoid], free: Mapping[str, Scale]) -> dict[str, HardSigmoid]:
    """Return the hard sigmoids whose inputs are told apart about as finely as if their scales were free.

    An input that is never near the lowest would lose the levels below, and one with huge values lie between them.

    Args:
        found: Tensor -> the hard sigmoid that it is.
        free: Tensor -> the scale that the values alone ask for; one that stays float has none.
    """
    kept = {}
    for result, gate in found.items():
        if (scale := free.get(gate.input)) is None:
            continue
        grid = gate.grid(scale.grid)
        bound = grid.fit(*scale.range)
        reached = min(scale.range[1], grid.highest)
        if bound.scale <= _COARSER * scale.scale and bound.range[1] >= reached - bound.scale:
            kept[result] = gate
    return kept
