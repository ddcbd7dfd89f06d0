"""Fold constant arithmetic for each channel into the weights and biases beside it."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.rewriting.affine import Affine, affine, moved_axis, vector
from tlopt.graphs.rewriting.constants import fold_constants
from tlopt.graphs.view import WEIGHTED, View, attribute


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph whose weighted layers have taken in the arithmetic around them.

    What depends on constants alone is computed first. Then batch norms, and products and sums with constants,
    go into the weights and biases of the convolution or matrix product before them; those before a layer go into it
    where that is exact: without padding, or without a shift. Tensors that something else reads, too, stay.

    Runtimes do the same with float graphs when they load them. They cannot any more once QuantizeLinear and
    DequantizeLinear stand between: then each such node runs in float, and rounds once more.

    Args:
        model: A cleaned graph.
    """
    folding = _Folding(View(fold_constants(model)))
    while folding.sweep():
        pass
    return folding.result()


@dataclass
class _Layer:
    """A weighted node, as constants in float64.

    Attributes:
        node: The node.
        weight: Of its own layout.
        bias: One value for each output channel, None if it adds none.
        inputs: Number of input channels.
        outputs: Number of output channels.
    """

    node: onnx.NodeProto
    weight: np.ndarray
    bias: np.ndarray | None
    inputs: int
    outputs: int

    def scale_outputs(self, change: Affine) -> None:
        """Apply a change to what the layer gives."""
        groups = attribute(self.node, "group", 1)
        if self.node.op_type == "Conv":
            self.weight = self.weight * change.scale.reshape(-1, *[1] * (self.weight.ndim - 1))
        elif self.node.op_type == "ConvTranspose":
            self.weight = _by_group(self.weight, groups, change.scale.reshape(groups, 1, -1))
        elif self._transposed:
            self.weight = self.weight * change.scale[:, None]
        else:
            self.weight = self.weight * change.scale
        bias = change.shift if self.bias is None else self.bias * change.scale + change.shift
        self.bias = bias if self.bias is not None or bias.any() else None

    def scale_inputs(self, change: Affine) -> None:
        """Apply a change to what the layer is given, before it."""
        groups = attribute(self.node, "group", 1)
        if self.node.op_type in ("Conv", "ConvTranspose"):
            first = change.scale.reshape(groups, -1)
            shift = change.shift.reshape(groups, -1)
            if self.node.op_type == "Conv":
                plane = self.weight.reshape(*self.weight.shape[:2], -1).sum(2).reshape(groups, -1, shift.shape[1])
                added = np.einsum("goi,gi->go", plane, shift).reshape(-1)
                self.weight = _by_group(self.weight, groups, first[:, None, :])
            else:
                added = np.zeros(self.outputs)
                self.weight = self.weight * first.reshape(-1, *[1] * (self.weight.ndim - 1))
        elif self._transposed:
            added = self.weight @ change.shift
            self.weight = self.weight * change.scale
        else:
            added = change.shift @ self.weight
            self.weight = self.weight * change.scale[:, None]
        if self.bias is not None or added.any():
            self.bias = added if self.bias is None else self.bias + added

    @property
    def _transposed(self) -> bool:
        return self.node.op_type == "Gemm" and bool(attribute(self.node, "transB", 0))


def _by_group(weight: np.ndarray, groups: int, factor: np.ndarray) -> np.ndarray:
    """Multiply a weight (groups * a, b, …) by factors (groups, a or 1, b or 1)."""
    wide = weight.reshape(groups, -1, *weight.shape[1:])
    product: np.ndarray = wide * factor.reshape(*factor.shape, *[1] * (weight.ndim - 2))
    return product.reshape(weight.shape)


class _Folding:
    """A graph while it is changed: its nodes, and the constants that take the place of others."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.nodes = copy.deepcopy(view.nodes)
        self.constants: dict[str, np.ndarray] = {}
        self.taken = taken_names(view.model.graph)
        self._index()

    def result(self) -> onnx.ModelProto:
        """Return the graph as it is now."""
        made = [numpy_helper.from_array(values, name) for name, values in self.constants.items()]
        return infer(rewritten(self.view.model, self.nodes, made))

    def sweep(self) -> bool:
        """Fold what is beside each layer, from the first to the last; False if there was nothing to fold."""
        folded = False
        for node in [node for node in self.nodes if node.op_type in WEIGHTED]:
            while (layer := self._layer(node)) is not None and (self._after(layer) or self._before(layer)):
                self._index()
                folded = True
        return folded

    def _index(self) -> None:
        self.producer: dict[str, onnx.NodeProto] = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)

    def _constant(self, name: str) -> np.ndarray | None:
        return self.constants[name] if name in self.constants else self.view.constant(name)

    def _only_reader(self, tensor: str) -> onnx.NodeProto | None:
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.view.outputs else None

    def _layer(self, node: onnx.NodeProto) -> _Layer | None:
        """Return a node as a layer, None if its weight or bias is computed or has another form."""
        weight = self._constant(node.input[1])
        if weight is None or weight.ndim < 2 or not np.issubdtype(weight.dtype, np.floating):
            return None
        if node.op_type == "MatMul" and (weight.ndim > 2 or self.view.rank(node.input[0]) < 2):
            return None
        wide, groups = weight.astype(np.float64), attribute(node, "group", 1)
        if node.op_type == "Conv":
            inputs, outputs = weight.shape[1] * groups, weight.shape[0]
        elif node.op_type == "ConvTranspose":
            inputs, outputs = weight.shape[0], weight.shape[1] * groups
        elif node.op_type == "Gemm" and attribute(node, "transB", 0):
            outputs, inputs = weight.shape
        else:
            inputs, outputs = weight.shape[-2:]
        bias = None
        if len(node.input) > 2 and node.input[2]:
            found = self._constant(node.input[2])
            gemm = node.op_type == "Gemm"
            bias = vector(found, 2 if gemm else 1, 1 if gemm else 0, outputs)
            if bias is None:
                return None
            if gemm:
                bias = bias * attribute(node, "beta", 1.0)
        if node.op_type == "Gemm":
            wide = wide * attribute(node, "alpha", 1.0)
        return _Layer(node=node, weight=wide, bias=bias, inputs=inputs, outputs=outputs)

    def _after(self, layer: _Layer) -> bool:
        """Fold the chain of constant arithmetic that follows a layer; reshapes may stand between."""
        node, tensor = layer.node, str(layer.node.output[0])
        rank = self._rank(layer)
        axis = rank - 1 if node.op_type == "MatMul" else 1
        chain: list[onnx.NodeProto] = []
        total = Affine.identity(layer.outputs)
        while (reader := self._only_reader(tensor)) is not None:
            found = affine(reader, tensor, self._constant, rank, axis, layer.outputs)
            if found is not None:
                chain.append(reader)
                total = total.then(found)
            else:
                moved = moved_axis(self.view, reader, tensor, axis)
                if moved is None:
                    break
                rank, axis = moved
            tensor = str(reader.output[0])
        if not chain or (len(chain) == 1 and not total.scales and not self._takes_bias(layer)):
            return False
        layer.scale_outputs(total)
        for reader in chain:
            self._remove(reader)
        self._store(layer)
        return True

    def _before(self, layer: _Layer) -> bool:
        """Fold the constant arithmetic that what a layer reads was made by, where that is exact."""
        node = layer.node
        producer = self.producer.get(node.input[0])
        alone = self._only_reader(node.input[0]) is not None
        if producer is None or not alone or attribute(node, "transA", 0):
            return False
        rank = self._rank(layer)
        axis = rank - 1 if node.op_type == "MatMul" else 1
        for data in dict.fromkeys(producer.input):
            found = affine(producer, data, self._constant, rank, axis, layer.inputs)
            if found is None or self._constant(data) is not None:
                continue
            # An image of one channel may become one of three here.
            alike = self.view.rank(data) == rank and self.view.shape(data)[axis] == layer.inputs
            # Padding adds zeros after the shift: at the border the layer would see another image.
            exact = not found.shifts or (_without_border(node) and (found.scales or self._takes_bias(layer)))
            if not (alike and exact):
                return False
            layer.scale_inputs(found)
            node.input[0] = data
            self.nodes.remove(producer)
            self._store(layer)
            return True
        return False

    def _rank(self, layer: _Layer) -> int:
        if layer.node.op_type == "MatMul":
            return self.view.rank(layer.node.input[0])
        return 2 if layer.node.op_type == "Gemm" else layer.weight.ndim

    def _takes_bias(self, layer: _Layer) -> bool:
        """Whether a layer has a place for a bias, or can be a Gemm that has one."""
        return layer.node.op_type != "MatMul" or self._rank(layer) == 2

    def _remove(self, node: onnx.NodeProto) -> None:
        """Take a node out whose one input has no other reader: its producer gives the node's output instead."""
        before = next(name for name in node.input if name in self.producer)
        producer = self.producer.pop(before)
        producer.output[list(producer.output).index(before)] = node.output[0]
        self.producer[node.output[0]] = producer
        self.nodes.remove(node)

    def _store(self, layer: _Layer) -> None:
        """Write a layer's constants back."""
        node = layer.node
        kind = self._constant(node.input[1]).dtype  # type: ignore[union-attr]
        names = [node.input[0], self._own(node, 1, layer.weight.astype(kind))]
        if layer.bias is not None and not self._takes_bias(layer):
            self._add(layer, layer.bias.astype(kind))
        elif layer.bias is not None:
            names.append(self._own(node, 2, layer.bias.astype(kind)))
            node.op_type = "Gemm" if node.op_type == "MatMul" else node.op_type
        node.input[:] = names
        kept = [item for item in node.attribute if node.op_type != "Gemm" or item.name not in ("alpha", "beta")]
        del node.attribute[:]
        node.attribute.extend(kept)

    def _add(self, layer: _Layer, shift: np.ndarray) -> None:
        """Add a shift after a matrix product that has no place for one."""
        node, result = layer.node, layer.node.output[0]
        node.output[0] = free_name(f"{result}_product", self.taken)
        name = free_name(f"{node.name}_shift", self.taken)
        self.constants[name] = shift
        added = helper.make_node("Add", [node.output[0], name], [result], name=name)
        self.nodes.insert(self.nodes.index(node) + 1, added)

    def _own(self, node: onnx.NodeProto, position: int, values: np.ndarray) -> str:
        """Store one of a node's constants under its name, or a new one if something else reads it, too."""
        name = str(node.input[position]) if len(node.input) > position else ""
        if not name or len(self.readers[name]) > 1:
            name = free_name(f"{node.name}_{'weight' if position == 1 else 'bias'}", self.taken)
        self.constants[name] = values
        return name


def _without_border(node: onnx.NodeProto) -> bool:
    """Whether a layer adds no padding: ConvTranspose has borders even without."""
    if node.op_type == "ConvTranspose":
        return False
    padding = attribute(node, "auto_pad", b"NOTSET")
    if all(length == 1 for length in attribute(node, "kernel_shape", [2])) and padding != b"NOTSET":
        return True
    return padding == b"VALID" or (padding == b"NOTSET" and not math.fsum(attribute(node, "pads", [0])))
