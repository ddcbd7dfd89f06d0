"""Branches that an exporter left open though the shapes decide them: the one that is always taken stays."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.nesting import inside, needed
from tlopt.graphs.view import attribute
from tlopt.sessions import open_session

log = logging.getLogger(__name__)

_BATCHES = (1, 2, 3, 5)  # images that the conditions are computed for
# What a result's lengths depend on beside its operands' lengths: the values of these operands, or of all.
_LENGTHS_BY: dict[str, range] = {
    "Reshape": range(1, 2), "Expand": range(1, 2), "Tile": range(1, 2), "Pad": range(1, 2), "Upsample": range(1, 2),
    "Squeeze": range(1, 2), "Unsqueeze": range(1, 2), "TopK": range(1, 2), "CenterCropPad": range(1, 2),
    "OneHot": range(1, 2), "Slice": range(1, 5), "Resize": range(2, 4), "ConstantOfShape": range(1), "Range": range(3),
    "Split": range(1, 2), "ReduceSum": range(1, 2), "ReduceMean": range(1, 2), "ReduceMax": range(1, 2),
    "ReduceMin": range(1, 2), "ReduceL2": range(1, 2), "ReduceProd": range(1, 2),
}  # fmt: skip
_LENGTHS_BY_VALUES = frozenset(
    {"NonZero", "Unique", "Compress", "NonMaxSuppression", "If", "Loop", "Scan", "SplitToSequence", "SequenceAt",
     "ConcatFromSequence", "StringSplit", "MaxUnpool"}
)  # fmt: skip


def settle_branches(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph without each If whose condition follows from lengths of axes alone.

    torch's older exporter writes such an If for a squeeze, as in `LocalResponseNorm`: it asks at each run whether an
    axis has the length one. An If goes if its condition depends on no value and not on the number of images, and is the
    same for some numbers of images. Branches within branches follow.

    Args:
        model: Stays as it is. Returned itself if nothing can go: an axis beside the first has no fixed length, say.
    """
    while True:
        lengths = _Lengths(model.graph)
        ifs = [node for node in model.graph.node if node.op_type == "If" and not _has_sparse(node)]
        taken = _conditions(model, [node.input[0] for node in ifs if lengths.decide(node.input[0])])
        if not taken:
            return model
        model = _inlined(model, taken)


class _Lengths:
    """What follows from the lengths of axes, but for the first one of the input, which is free."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.producer = {made: node for node in graph.node for made in node.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.constants |= {
            node.output[0]: value
            for node in graph.node
            if node.op_type == "Constant" and (value := attribute(node, "value")) is not None
        }
        self.known: dict[tuple[str, str], bool] = {}

    def decide(self, tensor: str) -> bool:
        """Whether they decide a tensor's values, and the number of images does not."""
        return self._once("values", tensor)

    def _once(self, what: str, tensor: str) -> bool:
        key = what, tensor
        if key not in self.known:
            self.known[key] = False  # for a circle, which no graph has
            self.known[key] = self._values(tensor) if what == "values" else self._shape(tensor)
        return self.known[key]

    def _values(self, tensor: str) -> bool:
        node = self.producer.get(tensor)
        if tensor in self.constants or node is None:
            return tensor in self.constants
        if node.op_type == "Constant":
            return True
        if any(inside(node)) or node.op_type in ("Shape", "Size"):
            return node.op_type == "Shape" and attribute(node, "start", 0) > 0 and self._once("shape", node.input[0])
        if node.op_type == "Gather" and self._picks_later_axes(node):
            return self._once("shape", self.producer[node.input[0]].input[0])
        return bool(node.input) and all(self._once("values", name) for name in node.input if name)

    def _shape(self, tensor: str) -> bool:
        """Whether a tensor's shape depends on no value; its first axis may be the number of images."""
        node = self.producer.get(tensor)
        if node is None:
            return True
        if node.op_type in _LENGTHS_BY_VALUES or any(inside(node)):
            return False
        by = [node.input[i] for i in _LENGTHS_BY.get(node.op_type, ()) if i < len(node.input) and node.input[i]]
        return all(self._of_lengths(name) for name in by) and all(
            self._once("shape", name) for name in node.input if name and name not in by
        )

    def _of_lengths(self, tensor: str) -> bool:
        """Whether a tensor's values come from constants and lengths alone, the number of images among them."""
        names, seen = [tensor], set()
        while names:
            name = names.pop()
            node = self.producer.get(name)
            if name in self.constants or name in seen:
                continue
            seen.add(name)
            if node is None or any(inside(node)):
                return False
            if node.op_type in ("Shape", "Size"):
                if not self._once("shape", node.input[0]):
                    return False
            else:
                names += [read for read in node.input if read]
        return True

    def _picks_later_axes(self, node: onnx.NodeProto) -> bool:
        """Whether a Gather picks lengths from a Shape, and not that of the first axis."""
        source, index = self.producer.get(node.input[0]), self.constants.get(node.input[1])
        if source is None or source.op_type != "Shape" or index is None or attribute(source, "start", 0):
            return False
        return bool((numpy_helper.to_array(index) > 0).all())


def _has_sparse(node: onnx.NodeProto) -> bool:
    """Whether a branch holds sparse weights, which stay where they are."""
    return any(inner.sparse_initializer for inner in inside(node))


def _conditions(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, bool]:
    """Return those conditions that are the same for any number of images; empty if the graph does not run."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in constants]
    if not names or not all(map(_has_fixed_sides, inputs)):
        return {}
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None) for name in dict.fromkeys(names)
    )
    found: dict[str, set[bool]] = {}
    try:
        session = open_session(asked, optimize=False, arena=False)
        for batch in _BATCHES:
            answers = session.run(None, {entry.name: _zeros(entry, batch) for entry in inputs})
            for output, answer in zip(asked.graph.output, answers, strict=True):
                found.setdefault(output.name, set()).add(bool(np.asarray(answer).reshape(-1)[0]))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base but Exception
        log.info("branches stay open, the graph does not run: %s", error)
        return {}
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def _has_fixed_sides(entry: onnx.ValueInfoProto) -> bool:
    """Whether all axes of an input but the first have a fixed length."""
    kind = entry.type.tensor_type
    return kind.HasField("shape") and all(dim.dim_value for dim in kind.shape.dim[1:])


def _zeros(entry: onnx.ValueInfoProto, batch: int) -> np.ndarray:
    """Return a value of an input: so many images, if their number is free."""
    kind = entry.type.tensor_type
    shape = [dim.dim_value or batch for dim in kind.shape.dim]
    return np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))


def _inlined(model: onnx.ModelProto, taken: Mapping[str, bool]) -> onnx.ModelProto:
    """Return a graph with the branches that are taken in the place of their Ifs."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    names = taken_names(graph)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "If" or node.input[0] not in taken:
            nodes.append(node)
            continue
        branch = attribute(node, "then_branch" if taken[node.input[0]] else "else_branch")
        own = [name for one in branch.node for name in one.output if name]
        own += [tensor.name for tensor in branch.initializer]
        new = {name: free_name(name, names) for name in own}
        for tensor in branch.initializer:
            graph.initializer.append(tensor)
            graph.initializer[-1].name = new[tensor.name]
        nodes += [_renamed(one, new) for one in branch.node]
        nodes += [
            helper.make_node("Identity", [new.get(value.name, value.name)], [output])
            for value, output in zip(branch.output, node.output, strict=True)
        ]
    kept = needed(nodes, {output.name for output in graph.output})
    del graph.node[:]
    graph.node.extend(kept)
    return made


def _renamed(node: onnx.NodeProto, new: Mapping[str, str]) -> onnx.NodeProto:
    """Return a node, and all within it, with other names of tensors."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.name = ""  # those of several branches may be the same
    made.input[:] = [new.get(name, name) for name in made.input]
    made.output[:] = [new.get(name, name) for name in made.output]
    for inner in inside(made):
        nodes = [_renamed(one, new) for one in inner.node]
        del inner.node[:]
        inner.node.extend(nodes)
        for value in inner.output:
            value.name = new.get(value.name, value.name)
    return made
