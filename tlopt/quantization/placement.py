"""Where a graph is quantized: the pattern of Q/DQ pairs that each runtime fuses."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx

from tlopt.graphs.activations import activation
from tlopt.graphs.view import MOVES, WEIGHTED, View, attribute, fused_activation
from tlopt.quantization.grid import FP8, INT8, UINT8, Grid
from tlopt.quantization.hard_sigmoids import HardSigmoid
from tlopt.quantization.turning import before_fixed_axes
from tlopt.quantization.weight_grids import LIMIT, REDUCED

Runtime = Literal["onnxruntime", "openvino", "tensorrt"]

# Operators with an integer kernel in ONNX Runtime's CPU provider that takes integers in and gives integers out.
_INTEGER = frozenset({"Add", "Mul", "GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu", "Concat"})
_FEW_PAIRS = 16  # of channels in a group, as in the first stage of ResNeXt-50 (32x4d)
_POOLS = frozenset({"GlobalAveragePool", "AveragePool"})
# What gives integers, or takes them, in one runtime or another; Relu and Clip with what lies before them.
_NEAR_INTEGERS = _INTEGER | WEIGHTED | {"MaxPool", "Relu", "Clip"}


@dataclass
class Placement:
    """What is quantized, and which tensors share a scale.

    Attributes:
        runtime: The runtime whose pattern this is.
        float8: Quantize to E4M3 instead of integers.
        reduced: Keep weights to half their range, for integer kernels that saturate (`tlopt.quantization.saturation`).
        edges: Tensor -> names of the nodes that read its quantized form.
        weights: Names of the nodes whose constant weight is quantized.
        leader: Tensor -> the tensor whose scale it uses.
        hard_sigmoids: Tensor -> the hard sigmoid that it is; its integers are those of its input.
    """

    runtime: Runtime
    float8: bool = False
    reduced: bool = False
    edges: dict[str, set[str]] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    leader: dict[str, str] = field(default_factory=dict)
    hard_sigmoids: dict[str, HardSigmoid] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The numbers of activations."""
        if self.float8:
            return FP8
        return INT8 if self.runtime == "tensorrt" else UINT8

    def grid_of(self, tensor: str) -> Grid:
        """Return the numbers of a tensor: before a hard sigmoid they begin where that is 0."""
        after = [found for found in self.hard_sigmoids.values() if found.input == tensor]
        return after[0].grid(self.grid) if after else self.grid

    @property
    def integer_bias(self) -> bool:
        """Whether a bias is stored as int32, as the runtime's integer kernels take it.

        TensorRT refuses an int32 DequantizeLinear; OpenVINO adds biases in float.
        """
        return self.runtime == "onnxruntime"

    def limit(self, view: View, node: onnx.NodeProto) -> int:
        """Return the largest magnitude of a weight's integers.

        Depthwise kernels add one product at a time, in 32 bits: their weights keep the whole range.
        """
        return REDUCED if self.reduced and not view.is_depthwise(node) else LIMIT

    def is_eight_bit(self, view: View, node: onnx.NodeProto) -> bool:
        """Whether a runtime computes a convolution or matrix product in 8 bits.

        ONNX Runtime has an integer convolution only where the result is quantized, too.
        """
        if node.op_type == "MatMul" and not view.weight(node):
            return all(node.name in self.edges.get(name, ()) for name in node.input)
        if node.name not in self.weights:
            return False
        whole = node.op_type in ("Gemm", "MatMul") or self.runtime != "onnxruntime"
        result = fused_activation(view, node.output[0])
        return whole or (bool(self.edges.get(result)) and result not in view.outputs)

    def root(self, tensor: str) -> str:
        """Return the tensor whose scale a tensor uses."""
        while (up := self.leader.get(tensor, tensor)) != tensor:
            tensor = up
        return tensor

    def share(self, first: str, second: str) -> None:
        """Make two tensors use one scale."""
        self.leader[self.root(second)] = self.root(first)


def place(
    view: View,
    runtime: Runtime,
    *,
    floats: Collection[str] = (),
    float8: bool = False,
    reduced: bool = False,
    hard_sigmoids: Mapping[str, HardSigmoid] | None = None,
) -> Placement:
    """Choose the tensors and weights to quantize.

    Args:
        view: Of a cleaned graph.
        runtime: Where it will run.
        floats: Names of the nodes that stay float.
        float8: Quantize to E4M3 instead of integers; TensorRT alone has kernels for it.
        reduced: Keep weights to half their range.
        hard_sigmoids: Tensor -> the hard sigmoid that it is, if that may be computed in integers.
    """
    assert runtime == "tensorrt" or not float8
    placement = (
        _around(view, floats, hard_sigmoids or {}) if runtime == "onnxruntime" else _before(view, runtime, floats)
    )
    placement.float8, placement.reduced = float8, reduced
    return placement


def _around(view: View, floats: Collection[str], hard_sigmoids: Mapping[str, HardSigmoid]) -> Placement:
    """Quantize all inputs and outputs of every operator that has an integer kernel.

    ONNX Runtime fuses DequantizeLinear, operator and QuantizeLinear into one integer operator.
    A tensor that is quantized is read in its quantized form by all: a second, float reader would
    keep the producer from fusing. An activation function fuses into what lies before it, so only its
    output is quantized. One of several nodes is computed in float as a whole if it has no integer kernel in the
    middle, as GELU's Erf: a product inside would be rounded for nothing. So are convolutions before what needs its
    axes in their order (`turning`). Logits stay float.
    """
    placement = Placement("onnxruntime")
    fixed, logits = before_fixed_axes(view), _logits(view)
    placement.hard_sigmoids = {
        name: found
        for name, found in hard_sigmoids.items()
        if found.nodes.isdisjoint(fixed.union(floats)) and name not in logits and view.readers(name)
    }
    inside = fixed | _in_float(view).difference(*(found.nodes for found in placement.hard_sigmoids.values()))
    wanted: set[str] = set()
    for node in view.nodes:
        if node.name in floats or node.name in inside:
            continue
        if view.weight(node):
            if not _has_kernel(view, node, "onnxruntime"):
                continue
            placement.weights.append(node.name)
            inputs = [node.input[0]]
        elif _computes_integers(view, node) or node.output[0] in placement.hard_sigmoids:
            inputs = list(node.input)
        elif node.op_type in MOVES and node.input[0] in wanted:
            inputs = [node.input[0]]
            placement.share(node.input[0], node.output[0])
        else:
            continue
        if not all(view.is_float(name) for name in inputs):
            if node.name in placement.weights:
                placement.weights.pop()
            continue
        wanted.update(inputs)
        result = node.output[0]
        wanted.add(fused_activation(view, result) if node.op_type in WEIGHTED | {"Add"} else result)
    for tensor in wanted:
        readers = {node.name for node in view.readers(tensor)}
        if tensor in logits:  # stays float; layers that compute in integers read a rounded form of it
            readers &= set(placement.weights)
        if readers:
            placement.edges[tensor] = readers
    _share_concatenated(view, placement)
    return placement


def _in_float(view: View) -> set[str]:
    """Return the nodes of activation functions of several nodes, some of which have no integer kernel."""
    found: set[str] = set()
    for node in view.nodes:
        tensor = str(node.output[0])
        if node.name in found or fused_activation(view, tensor) != tensor:
            continue
        function = activation(view, tensor)
        if function and any(item.op_type not in _INTEGER for item in function.nodes):
            found |= {item.name for item in function.nodes}
    return found


def _share_concatenated(view: View, placement: Placement) -> None:
    """Give what one Concat reads, and nothing else, the scale of the result.

    It is rounded once then instead of twice, and copied instead of computed anew. What has its scale from another
    tensor, or gives it to one, keeps it: the range of a wide neighbour would reach what is read by itself.
    """
    bound = {*placement.leader, *placement.leader.values(), *placement.hard_sigmoids}
    for node in view.nodes:
        if node.op_type != "Concat" or not placement.edges.get(node.output[0]):
            continue
        for name in node.input:
            alone = view.only_reader(name) is not None and name not in bound
            if alone and node.name in placement.edges.get(name, ()):
                placement.share(node.output[0], name)


def _computes_integers(view: View, node: onnx.NodeProto) -> bool:
    """Whether ONNX Runtime computes a node without a constant weight in 8 bits, and gains by it.

    A mean over a volume, as in the channels of torch's `LocalResponseNorm`, is slower in 8 bits than in float.
    """
    if node.op_type in _POOLS:
        return view.rank(node.input[0]) in (-1, 4) and not _between_floats(view, node)
    return node.op_type in _INTEGER or (node.op_type == "MatMul" and not view.weight(node))


def _between_floats(view: View, node: onnx.NodeProto) -> bool:
    """Whether a pool stands between operators that compute in float: rounding it would save nothing.

    The generalized mean is one: the root behind it spreads what the power before it brought close to 0.
    """
    producer = view.producer.get(node.input[0])
    if producer is not None and producer.op_type in _NEAR_INTEGERS | MOVES:
        return False
    waiting = list(view.readers(node.output[0]))
    while waiting:
        reader = waiting.pop()
        if reader.op_type in _NEAR_INTEGERS:
            return False
        if reader.op_type in MOVES:
            waiting += view.readers(reader.output[0])
    return True


def _has_kernel(view: View, node: onnx.NodeProto, runtime: Runtime) -> bool:
    """Whether a runtime computes a weighted node in 8 bits, rightly, and not much more slowly than in float.

    A convolution whose groups have a few channels each takes much longer in 8 bits than in float in ONNX Runtime 1.32,
    unless it is depthwise. ResNeXt has them, and FastViT.

    A transposed convolution stays float in ONNX Runtime, which has no such operator, and in engines of TensorRT for
    RTX 1.7, whatever stands around it: rounding it would cost accuracy and save nothing. A product with a stack of
    several matrices comes out wrong in OpenVINO 2026.4 if each column has a scale of its own.
    """
    if node.op_type == "ConvTranspose":
        return runtime == "openvino"
    if node.op_type == "Conv" and runtime == "onnxruntime" and 1 < _pairs(view, node) <= _FEW_PAIRS:
        return False
    stacked = node.op_type == "MatMul" and math.prod(view.shape(node.input[1])[:-2]) > 1
    return not (stacked and runtime == "openvino")


def _pairs(view: View, node: onnx.NodeProto) -> int:
    """Return how many pairs of an input and an output channel a group has: 1 if depthwise, 0 if there are no groups."""
    groups, (outputs, inputs, *_) = attribute(node, "group", 1), view.shape(node.input[1])
    return inputs * (outputs // groups) if groups > 1 else 0


def _logits(view: View) -> set[str]:
    """Return the outputs, and the tensors that they are but a reshaped, shifted or normalized form of."""
    found: set[str] = set()
    waiting = list(view.outputs)
    while waiting:
        tensor = waiting.pop()
        found.add(tensor)
        node = view.producer.get(tensor)
        if node is None:
            continue
        computed = [name for name in node.input if name and name not in view.initializers]
        shifts = node.op_type == "Add" and len(computed) == 1
        if shifts or node.op_type in MOVES - {"MaxPool"} or node.op_type in ("Softmax", "LogSoftmax"):
            waiting.append(computed[0])
    return found


def _before(view: View, runtime: Runtime, floats: Collection[str]) -> Placement:
    """Quantize what weighted operators and pools read, and one branch of each residual addition.

    TensorRT and OpenVINO move Q/DQ pairs through the graph themselves. Of a sum's two operands the
    one that comes from a convolution of its own is left float: runtimes fuse the sum into it and
    add before they round; NVIDIA TensorRT documentation 10.x, "Q/DQ layer-placement recommendations".
    """
    placement = Placement(runtime)
    for node in view.nodes:
        read = [] if node.name in floats else _read_before(view, node, runtime)
        if not read or not all(view.is_float(name) for name in read):
            continue
        if view.weight(node):
            placement.weights.append(node.name)
        for name in read:
            placement.edges.setdefault(name, set()).add(node.name)
            if node.op_type in ("Concat", "MaxPool"):  # of integers with one scale they make integers
                placement.share(*(node.output[0], name) if node.op_type == "Concat" else (name, node.output[0]))
    return placement


def _read_before(view: View, node: onnx.NodeProto, runtime: Runtime) -> list[str]:
    """Return the tensors that a node reads in 8 bits."""
    if view.weight(node):
        return [node.input[0]] if _has_kernel(view, node, runtime) else []
    if node.op_type in _POOLS or node.op_type == "MaxPool":
        return [] if _between_floats(view, node) else [node.input[0]]
    if node.op_type == "Add" and all(view.is_float(name) for name in node.input):
        return [_skip(view, node)]
    joins = node.op_type == "Concat" and node.output[0] not in view.outputs and view.rank(node.output[0]) == 4
    return list(node.input) if joins or node.op_type == "MatMul" else []


def _skip(view: View, node: onnx.NodeProto) -> str:
    """Return the operand of an addition that does not come straight from a convolution of its own."""
    for own, other in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
        producer = view.producer.get(own)
        if producer is not None and producer.op_type in WEIGHTED and view.only_reader(own) is not None:
            return str(other)
    return str(node.input[0])
