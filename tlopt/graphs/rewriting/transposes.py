"""Channels first throughout: the transposes of graphs from frameworks that put the channels last cancel each other."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.view import View, attribute

# They treat each number alike; what else they read are single numbers.
POINTWISE = frozenset(
    {"Clip", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Erf",
     "Softplus", "Softsign", "Mish", "Exp", "Sqrt", "Abs", "Neg", "Cast"}
)  # fmt: skip
_BROADCAST = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu"})
_CROSSED = POINTWISE | _BROADCAST | {"Pad", "Concat", "ReduceMean", "Transpose"}
_MOST = 100  # sweeps: each moves every Transpose on by as many nodes as it can


def cancel_transposes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph in which transposes have moved until they meet their inverse, and are gone.

    A Transpose moves behind what treats each number alike, behind sums and products of tensors that are
    transposed alike, behind Pad, Concat and means. One at the input stays the first node. Means over the image
    plane become global average pools.

    Args:
        model: A cleaned graph.
    """
    graph = _Graph(View(model))
    for _ in range(_MOST):
        if not graph.sweep():
            break
    return infer(rewritten(model, graph.sorted(), graph.constants.values())) if graph.changed else model


class _Graph:
    """Nodes that are rewritten one at a time."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.nodes = [_copy(node) for node in view.nodes]
        self.constants: dict[str, onnx.TensorProto] = {}
        self.changed = False
        self._names = (f"moved_{i}" for i in itertools.count())
        self._index()

    def _index(self) -> None:
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)

    def sweep(self) -> bool:
        """Try each rule on each node once; return whether one applied."""
        found, at = False, 0
        while at < len(self.nodes):
            node = self.nodes[at]
            made = next((made for rule in _RULES if (made := rule(self, node)) is not None), None)
            if made is None:
                at += 1
                continue
            self.nodes[at : at + 1] = made
            self._index()
            self._drop_unread()
            at, found = min(at + 1, len(self.nodes)), True
        self.changed |= found
        return found

    def _drop_unread(self) -> None:
        kept = [node for node in self.nodes if any(self.readers[o] or o in self.view.outputs for o in node.output)]
        if len(kept) < len(self.nodes):
            self.nodes = kept
            self._index()
            self._drop_unread()

    def sorted(self) -> list[onnx.NodeProto]:
        """Return the nodes so that each comes after those that it reads."""
        done, found = set(self.view.inputs) | set(self.view.initializers) | set(self.constants) | {""}, []
        waiting = list(self.nodes)
        while waiting:
            ready = [node for node in waiting if done.issuperset(node.input)]
            done.update(name for node in ready for name in node.output)
            found += ready
            waiting = [node for node in waiting if not done.issuperset(node.output)]
        return found

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is stored, or left out."""
        return not name or name in self.constants or name in self.view.initializers

    def value(self, name: str) -> np.ndarray | None:
        """Return a constant's values, None for any other tensor."""
        found = self.constants.get(name)
        return self.view.constant(name) if found is None else numpy_helper.to_array(found)

    def constant(self, value: np.ndarray) -> str:
        """Store a constant and return its name."""
        name = f"{next(self._names)}_constant"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def tensor(self) -> str:
        """Return a name for a new tensor."""
        return next(self._names)

    def transpose_before(self, name: str) -> onnx.NodeProto | None:
        """Return the Transpose of four axes that gives a tensor."""
        node = self.producer.get(name)
        return node if node is not None and node.op_type == "Transpose" and len(_order(node)) == 4 else None

    def only(self, name: str) -> bool:
        """Whether one node reads a tensor, and nobody outside."""
        return len(self.readers[name]) == 1 and name not in self.view.outputs

    def movable(self, name: str) -> bool:
        """Whether a Transpose that gives a tensor can move behind all that reads it, or stays for nobody."""
        kinds = {reader.op_type for reader in self.readers[name]}
        return kinds <= _CROSSED and name not in self.view.outputs

    def at_input(self, node: onnx.NodeProto) -> bool:
        """Whether a Transpose is the first thing that happens to the image."""
        return node.input[0] in self.view.inputs

    def behind(self, made: onnx.NodeProto, order: Sequence[int], output: str) -> list[onnx.NodeProto]:
        """Return a node and the Transpose that now follows it."""
        made.output[0] = self.tensor()
        name = f"{made.name}_transposed"
        return [made, helper.make_node("Transpose", [made.output[0]], [output], name=name, perm=list(order))]


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    return made


def _order(node: onnx.NodeProto) -> list[int]:
    return list(attribute(node, "perm", ()))


def _inverse(order: Sequence[int]) -> list[int]:
    found: list[int] = np.argsort(order).tolist()
    return found


def _cancel(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Make one of two transposes in a row, or none."""
    if node.op_type != "Transpose" or (before := graph.transpose_before(node.input[0])) is None:
        return None
    if graph.at_input(before) and not graph.only(before.output[0]):
        return None
    order = [_order(before)[axis] for axis in _order(node)]
    if order == sorted(order):
        if node.output[0] in graph.view.outputs:
            return [helper.make_node("Identity", [before.input[0]], list(node.output), name=node.name)]
        for reader in graph.readers[node.output[0]]:
            reader.input[:] = [before.input[0] if name == node.output[0] else name for name in reader.input]
        return []
    return [helper.make_node("Transpose", [before.input[0]], list(node.output), name=node.name, perm=order)]


def _behind_numbers(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Move transposes behind a node that treats each number alike, or each pair of numbers."""
    if node.op_type not in POINTWISE | _BROADCAST or len(node.output) != 1:
        return None
    orders, inputs = [], []
    for name in node.input:
        if not graph.is_constant(name):
            before = graph.transpose_before(name)
            if before is None or not graph.movable(name) or graph.at_input(before):
                return None
            orders.append(_order(before))
            inputs.append(before.input[0])
        else:
            inputs.append(name)
    if not orders or any(order != orders[0] for order in orders):
        return None
    made = _copy(node)
    for i, name in enumerate(node.input):
        value = graph.value(name) if name else None
        if value is not None and value.size > 1:
            if node.op_type in POINTWISE or value.ndim > 4:
                return None
            four = value.reshape((1,) * (4 - value.ndim) + value.shape)
            inputs[i] = graph.constant(four.transpose(_inverse(orders[0])))
    made.input[:] = inputs
    return graph.behind(made, orders[0], node.output[0])


def _behind_pad(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Move a Transpose behind a Pad."""
    if node.op_type != "Pad" or (before := graph.transpose_before(node.input[0])) is None or graph.at_input(before):
        return None
    pads = graph.value(node.input[1])
    if pads is None or pads.size != 8 or len(node.input) > 3 or not graph.movable(before.output[0]):
        return None
    made = _copy(node)
    made.input[0] = before.input[0]
    made.input[1] = graph.constant(pads.reshape(2, 4)[:, _inverse(_order(before))].reshape(-1))
    return graph.behind(made, _order(before), node.output[0])


def _behind_concat(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Move transposes behind a Concat of tensors that are transposed alike."""
    if node.op_type != "Concat":
        return None
    before = [graph.transpose_before(name) for name in node.input]
    found = [one for one in before if one is not None and graph.movable(one.output[0]) and not graph.at_input(one)]
    if len(found) != len(before) or any(_order(one) != _order(found[0]) for one in found):
        return None
    made = helper.make_node(
        "Concat", [one.input[0] for one in found], list(node.output), name=node.name,
        axis=_order(found[0])[attribute(node, "axis") % 4],
    )  # fmt: skip
    return graph.behind(made, _order(found[0]), node.output[0])


def _behind_mean(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Take a mean over the image plane as a pool, before the Transpose if there is one."""
    before = graph.transpose_before(node.input[0]) if node.op_type == "ReduceMean" else None
    if node.op_type != "ReduceMean" or (before is None and graph.view.rank(node.input[0]) != 4):
        return None
    axes = graph.value(node.input[1]) if len(node.input) > 1 else attribute(node, "axes")
    order = [0, 1, 2, 3] if before is None else _order(before)
    if axes is None or sorted(order[int(axis) % 4] for axis in axes) != [2, 3]:
        return None
    pooled, source = graph.tensor(), node.input[0] if before is None else before.input[0]
    pool = helper.make_node("GlobalAveragePool", [source], [pooled], name=f"{node.name}_pool")
    if attribute(node, "keepdims", 1):
        after = helper.make_node("Transpose", [pooled], list(node.output), name=node.name, perm=order)
    elif [axis for axis in order if axis < 2] == [0, 1]:
        after = helper.make_node("Flatten", [pooled], list(node.output), name=node.name, axis=1)
    else:
        return None
    return [pool, after]


def _as_reshape(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Reshape at once into what a Transpose makes of a vector for each image."""
    before = graph.producer.get(node.input[0]) if node.op_type == "Transpose" and len(_order(node)) == 4 else None
    if before is None or before.op_type != "Reshape" or not graph.only(node.input[0]) or _order(node)[0] != 0:
        return None
    shape = graph.value(before.input[1])
    # 0 stands for as many as before, which is all that is known of the batch.
    if shape is None or shape.size != 4 or sum(size != 1 for size in shape[1:]) > 1 or 0 in shape[1:]:
        return None
    made = _copy(before)
    made.input[1] = graph.constant(shape[_order(node)])
    made.output[0] = node.output[0]
    return [made]


def _to_input(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Move a Transpose before what is done to the image first."""
    before = graph.producer.get(node.input[0]) if node.op_type == "Transpose" and len(_order(node)) == 4 else None
    if before is None or not graph.only(node.input[0]):
        return None
    first = before
    while True:  # all the way from the image
        computed = [name for name in first.input if not graph.is_constant(name)]
        if first.op_type not in POINTWISE | _BROADCAST | {"Pad"} or computed != [first.input[0]]:
            return None
        if first.input[0] not in graph.producer:
            break
        first = graph.producer[first.input[0]]
    if first.input[0] not in graph.view.inputs:
        return None
    order = _order(node)
    moved = helper.make_node("Transpose", [before.input[0]], [graph.tensor()], name=f"{node.name}_first", perm=order)
    made = _copy(before)
    made.input[0], made.output[0] = moved.output[0], node.output[0]
    for i, name in enumerate(before.input[1:], 1):
        value = graph.value(name) if name else None
        if before.op_type == "Pad" and i == 1 and value is not None and value.size == 8:
            made.input[i] = graph.constant(value.reshape(2, 4)[:, order].reshape(-1))
        elif value is not None and value.size > 1:
            if before.op_type not in _BROADCAST or value.ndim > 4:
                return None
            made.input[i] = graph.constant(value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(order))
    return [moved, made]


_RULES: tuple[Callable[[_Graph, onnx.NodeProto], list[onnx.NodeProto] | None], ...] = (
    _cancel, _behind_mean, _as_reshape, _behind_numbers, _behind_pad, _behind_concat, _to_input,
)  # fmt: skip
