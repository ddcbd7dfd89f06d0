"""Where a network is rounded while it trains, by the names of its exported graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tlopt.graphs.view import View
from tlopt.quantization.int8 import Calibrated


@dataclass(frozen=True, kw_only=True)
class Place:
    """A tensor that is rounded.

    Args:
        scale: Step between two integers, to begin with.
        zero: The integer that stands for 0.
        leader: The tensor whose scale it shares; its own name if none.
        readers: First outputs of the nodes that read it rounded.
    """

    scale: float
    zero: int
    leader: str
    readers: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a graph is rounded, by the names of its tensors.

    Args:
        low: Smallest integer of an activation.
        high: Largest.
        tensors: Tensor -> how it is rounded.
        weights: Output of each node whose weight is rounded -> largest magnitude of its integers.
        names: All tensors that the ONNX graph computes.
        gates: SiLU's answer -> the sigmoid in it, which is a node of its own in the ONNX graph.
    """

    low: int
    high: int
    tensors: Mapping[str, Place]
    weights: Mapping[str, int]
    names: frozenset[str]
    gates: Mapping[str, str] = field(default_factory=dict)


def places_of(calibrated: Calibrated) -> Places:
    """Return where training rounds a network, by the names that its graph has, and the scales that it begins with."""
    view, placement, scales = calibrated.view, calibrated.placement, calibrated.scales()
    results = {node.name: node.output[0] for node in view.nodes}
    integers = np.iinfo(placement.grid.dtype)
    return Places(
        low=int(integers.min),
        high=int(integers.max),
        tensors={
            tensor: Place(
                scale=scales[tensor].scale,
                zero=scales[tensor].zero,
                leader=placement.root(tensor),
                readers=frozenset(results[name] for name in readers),
            )
            for tensor, readers in placement.edges.items()
        },
        weights={node.output[0]: placement.limit(view, node) for node in view.nodes if node.name in placement.weights},
        names=frozenset([*results.values(), view.inputs[0]]),
        gates=_gates(view),
    )


def _gates(view: View) -> dict[str, str]:
    """Return the product x * sigmoid(x) -> the sigmoid, of every one in a graph."""
    sigmoids = {node.output[0]: node.input[0] for node in view.nodes if node.op_type == "Sigmoid"}
    products = [node for node in view.nodes if node.op_type == "Mul"]
    return {
        node.output[0]: gate
        for node in products
        for gate, other in (node.input, reversed(node.input))
        if sigmoids.get(gate) == other
    }
