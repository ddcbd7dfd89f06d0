"""Which nodes of an ONNX file an engine does not compute in the file's precision, and what keeps them from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlopt.engine.layers import Layers

if TYPE_CHECKING:
    import onnx

# Precision -> what a layer that computes in it reads, as the library calls it.
READS = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16", "int8": "Int8", "fp8": "FP8"}
_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_COMPUTE = ("correlation", "conv", "gemm", "matrix", "matmul")  # in the types of layers that compute them
_MOVES = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")  # they change no value


@dataclass(frozen=True, kw_only=True)
class Stray:
    """A convolution or matrix product that is not computed in the wanted precision.

    Args:
        node: Its name in the ONNX file.
        layer: The engine's layer that computes it, empty if the listing does not tell.
        reads: The types that the layer reads.
        reason: What keeps it from the precision, a clause.
        macs: Its multiply-adds for one image.
    """

    node: str
    layer: str
    reads: tuple[str, ...]
    reason: str
    macs: int = 0

    def __str__(self) -> str:
        return f"{self.node} reads {', '.join(self.reads)} (layer {self.layer}): {self.reason}."


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """How much of a network computes in the wanted precision.

    Args:
        precision: What the artifact is in.
        heavy: Convolutions and matrix products whose types the listing tells.
        strays: Those of them that compute in something else, in the order of the file.
        macs: Multiply-adds of the network for one image.
        inside: Those that compute in the precision.
    """

    precision: str
    heavy: int
    strays: tuple[Stray, ...]
    macs: int
    inside: int

    @property
    def text(self) -> str:
        """The content of ``explanation.txt``."""
        done = self.heavy - len(self.strays)
        head = f"{done} of {self.heavy} convolutions and matrix products compute in {self.precision}."
        if self.macs:
            head += f" They do {100 * self.inside / self.macs:.1f} % of the multiply-adds."
        return "\n".join([head, *map(str, self.strays)]) + "\n"


def explain(layers: Layers, model: onnx.ModelProto, precision: str) -> Explanation:
    """Hold an engine's layers against the nodes that they compute."""
    wanted, graph, work = READS[precision], _Graph(model), _work(model)
    heavy, inside, strays = 0, 0, []
    for node in model.graph.node:
        if node.op_type not in _HEAVY:
            continue
        rows = [row for row in layers.rows if _name(node) in row["onnx"] and (row["inputs"] or row["weights"])]
        # Kernels that prepare what it reads, or go on with what it gives, name the node, too.
        rows = [row for row in rows if any(word in row["type"].lower() for word in _COMPUTE)] or rows
        if not rows:
            continue
        heavy += 1
        if any(wanted in (*row["inputs"], row["weights"]) for row in rows):
            inside += work[_name(node)]
            continue
        row = rows[-1]
        reads = tuple(dict.fromkeys(row["inputs"]))
        reason = graph.why_not_quantized(node) if precision in ("int8", "fp8") else graph.why_not_cast(node, precision)
        strays.append(Stray(node=_name(node), layer=row["name"], reads=reads, reason=reason, macs=work[_name(node)]))
    return Explanation(precision=precision, heavy=heavy, strays=tuple(strays), macs=sum(work.values()), inside=inside)


def _work(model: onnx.ModelProto) -> dict[str, int]:
    """Return the multiply-adds of each convolution and matrix product for one image, 0 where a shape is not known."""
    from tlopt.graphs.cleaning import with_shapes
    from tlopt.graphs.macs import multiply_adds
    from tlopt.graphs.view import View

    view = View(with_shapes(model))
    # Of a batch of any size one image counts.
    shape = lambda tensor: tuple(max(length, 1) for length in view.shape(tensor))  # noqa: E731
    found = {}
    for node in model.graph.node:
        if node.op_type in _HEAVY:
            known = all(view.rank(name) > 0 for name in (*node.input[:2], node.output[0]))
            found[_name(node)] = multiply_adds(node, shape) if known else 0
    return found


def _name(node: onnx.NodeProto) -> str:
    """Return what the library's parser calls a node."""
    return node.name or f"node_of_{node.output[0]}"


class _Graph:
    """An ONNX graph, asked where tensors come from."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._makers: Mapping[str, onnx.NodeProto] = {name: node for node in model.graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def _maker(self, name: str) -> onnx.NodeProto | None:
        """Return the node that a tensor comes from, past those that only move values."""
        node = self._makers.get(name)
        while node is not None and node.op_type in _MOVES:
            node = self._makers.get(node.input[0])
        return node

    def why_not_quantized(self, node: onnx.NodeProto) -> str:
        """Return what keeps a node from being fused with the Q/DQ pairs around it."""
        for what, name in zip(("input", "weight"), node.input, strict=False):
            maker = self._maker(name)
            if maker is None or maker.op_type != "DequantizeLinear":
                source = f"the node {_name(maker)} ({maker.op_type})" if maker is not None else f"the tensor {name}"
                return f"its {what} comes from {source} and not from a DequantizeLinear node"
            dims = list(self._constants[maker.input[1]].dims) if maker.input[1] in self._constants else []
            if what == "input" and dims and math.prod(dims) == 1:
                return f"the scale of {_name(maker)} is a vector of one element, where the builder fuses scalars only"
            if what == "input" and math.prod(dims) > 1:
                return f"the scale of {_name(maker)} differs along an axis of the input"
        return "its Q/DQ pairs are in place, so the builder chose the type"

    def why_not_cast(self, node: onnx.NodeProto, precision: str) -> str:
        """Return which input of a node the file keeps in another type."""
        wanted = {"fp16": 10, "bf16": 16, "fp32": 1}[precision]  # TensorProto.DataType
        for what, name in zip(("input", "weight"), node.input, strict=False):
            maker = self._maker(name)
            if maker is not None and maker.op_type == "Cast":
                to = next((int(entry.i) for entry in maker.attribute if entry.name == "to"), wanted)
                if to != wanted:
                    return f"its {what} is cast to another type by the node {_name(maker)}"
            elif maker is None and name in self._constants and self._constants[name].data_type != wanted:
                return f"its {what} {name} is kept in another type in the file"
        return f"the file keeps its inputs in another type than {precision}"
