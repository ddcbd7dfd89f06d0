"""Hard sigmoids, alone or inside of hard swish, that ONNX Runtime computes in integers without a rounding of their own.

A hard sigmoid is ``min(max(slope * x + 1/2, 0), 1)``. Let the smallest integer of x stand for the value at which that
becomes 0, ``-1 / (2 * slope)``. Below it nothing is told apart, so nothing is lost. Then the hard sigmoid of x is the
same integers with another scale, up to twice the zero point: the operator is a Clip of integers. Hard swish is the
product of both. In float it takes a DequantizeLinear, two operators and a QuantizeLinear, which make up a quarter of
the time of MobileNetV3 in ONNX Runtime 1.32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from tlopt.graphs.activations import Activation, activation, function
from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.view import View, attribute
from tlopt.quantization.grid import Grid, Scale

_SLOPE = 1 / 6
_TRIED = np.linspace(-8, 8, 1001, dtype=np.float32)  # beyond it a hard sigmoid is 0 or 1
_SAME = 1e-5  # what two ways to compute it in float32 may differ by
_PARTS = frozenset({"Add", "Clip", "Div", "HardSigmoid", "HardSwish", "Max", "Min", "Mul", "Relu"})
_MADE_OF = frozenset({"Clip", "HardSwish", "Min", "HardSigmoid"})  # one of them is in every spelling
_HALF = 0.5
_COARSER = 1.25  # steps that still count as the same: the result's own rounding is as large


@dataclass(frozen=True, kw_only=True)
class Gate:
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
    taken = taken_names(view.model.graph)
    gone: set[str] = set()
    made: dict[str, list[onnx.NodeProto]] = {}  # the last node of a spelling -> what takes its place
    for node in view.nodes:
        found = _spelled(view, str(node.output[0])) if node.output else None
        if found is None or gone & {item.name for item in found.nodes}:
            continue
        kind = _kind(view, found)
        if not kind:
            continue
        last = next(item for item in found.nodes if found.output in item.output)
        gone |= {item.name for item in found.nodes}
        inner = found.output if kind == "HardSigmoid" else free_name(f"{found.output}_gate", taken)
        name = last.name if kind == "HardSigmoid" else free_name(f"{last.name}_gate", taken)
        made[last.name] = [helper.make_node("HardSigmoid", [found.input], [inner], name=name, alpha=_SLOPE, beta=_HALF)]
        if kind == "HardSwish":
            made[last.name].append(helper.make_node("Mul", [found.input, inner], [found.output], name=last.name))
    if not made:
        return view
    nodes = [new for node in view.nodes for new in made.get(node.name, () if node.name in gone else (node,))]
    return View(infer(rewritten(view.model, nodes)))


def _spelled(view: View, tensor: str) -> Activation | None:
    """Return the function after a tensor if its nodes could be a hard sigmoid or hard swish that is not spelled so."""
    found = activation(view, tensor)
    kinds = [node.op_type for node in found.nodes] if found else []
    plain = kinds in (["HardSigmoid"], ["HardSigmoid", "Mul"], ["Clip"])
    return None if plain or not _MADE_OF & set(kinds) or set(kinds) - _PARTS else found


def _kind(view: View, found: Activation) -> str:
    """Return what a function is, HardSigmoid or HardSwish; empty if it is neither."""
    if view.rank(found.input) != view.rank(found.output):
        return ""
    given, gate = function(view, found)(_TRIED), np.clip(_TRIED * _SLOPE + _HALF, 0, 1)
    for kind, own in (("HardSigmoid", gate), ("HardSwish", _TRIED * gate)):
        if given.shape == own.shape and np.abs(given - own).max() < _SAME:
            return kind
    return ""


def gates(view: View) -> dict[str, Gate]:
    """Return the hard sigmoids that can be integers, by the tensor that each makes.

    The input of one comes from a layer that gives integers, and nothing else reads it but the product of hard swish:
    its values below the lowest are told apart no longer.

    Args:
        view: Of a cleaned graph.
    """
    found: dict[str, Gate] = {}
    for node in view.nodes:
        if node.op_type != "HardSigmoid":
            continue
        source, result = str(node.input[0]), str(node.output[0])
        producer, slope = view.producer.get(source), attribute(node, "alpha", 0.2)
        products = [other for other in view.readers(source) if other.name != node.name]
        if (
            producer is None
            or not view.weight(producer)
            or not slope > 0
            or not math.isclose(attribute(node, "beta", 0.5), _HALF)
            or any(other.op_type != "Mul" or set(other.input) != {source, result} for other in products)
            or len(products) > 1
            or {source, result} & set(view.outputs)
        ):
            continue
        nodes = frozenset({producer.name, node.name, *(other.name for other in products)})
        found[result] = Gate(input=source, slope=float(slope), nodes=nodes, product=bool(products))
    return found


def precise(found: Mapping[str, Gate], free: Mapping[str, Scale]) -> dict[str, Gate]:
    """Return the gates whose inputs are told apart about as finely as if their scales were free.

    An input that is never near the lowest would lose the levels below, and one with huge values lie between them.

    Args:
        found: Tensor -> its gate.
        free: Tensor -> the scale that the values alone ask for.
    """
    kept = {}
    for result, gate in found.items():
        if gate.input not in free:  # it stays float
            continue
        scale = free[gate.input]
        grid = gate.grid(scale.grid)
        bound = grid.fit(*scale.range)
        reached = min(scale.range[1], grid.highest)
        if bound.scale <= _COARSER * scale.scale and bound.range[1] >= reached - bound.scale:
            kept[result] = gate
    return kept
