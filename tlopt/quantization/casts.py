"""Half precision by casts: the graph computes in fp16 or bf16, its input and output stay float32."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.opsets import brought
from tlopt.graphs.precision import opset_of
from tlopt.graphs.view import View
from tlopt.quantization.calibration.activations import observe
from tlopt.quantization.calibration.histogram import Histogram

log = logging.getLogger(__name__)

Half = Literal["fp16", "bf16"]

_TYPE = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST = {"fp16": 65504.0, "bf16": 3.38e38}
HEADROOM = 0.5  # share of the largest number that the calibration images may reach
# Convolutions and pools take bfloat16 from this version of the operators on.
_OPSET = {"fp16": 13, "bf16": 22}
# TensorRT for RTX 1.7 does not take these in bfloat16. The first two are products of x and a gate that it does take.
_GATES = {"HardSwish": ("HardSigmoid",), "Mish": ("Softplus", "Tanh")}
_NO_BFLOAT16 = frozenset({"LpNormalization"})
# Inputs that stay float32, whatever the data's type.
_FLOAT32 = {"Resize": (1, 2), "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2)}
_NAME = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}  # in ONNX's definitions of operators


def overflowing(view: View, histograms: Mapping[str, Histogram], half: Half) -> list[str]:
    """Return the names of the nodes that make or read values too large for the format.

    Args:
        view: Of a cleaned float graph.
        histograms: Of its computed float tensors, on real images.
        half: The format.
    """
    limit = HEADROOM * LARGEST[half]
    large = {name for name, found in histograms.items() if max(-found.low, found.high) > limit}
    for initializer in view.initializers.values():
        if initializer.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(initializer)
            # The infinite bound of a Clip is no number to overflow.
            finite = values[np.isfinite(values)]
            if finite.size and np.abs(finite).max() > limit:
                large.add(initializer.name)
    return [node.name for node in view.nodes if large & {*node.input, *node.output}]


def to_half(
    view: View, half: Half, batches: Iterable[np.ndarray], *, keep: Collection[str] = ()
) -> tuple[onnx.ModelProto, list[str]]:
    """Return a graph in half precision, and the nodes that stay float32 because their values exceed it.

    Args:
        view: Of a cleaned float graph.
        half: The format.
        batches: Network inputs that show how large the values get.
        keep: Names of more nodes that stay float32.
    """
    floats = [name for node in view.nodes for name in node.output if view.is_float(name)]
    large = overflowing(view, observe(view, floats, batches, infinite=True), half)
    if large:
        log.warning("%d of %d nodes stay fp32: their values exceed %s", len(large), len(view.nodes), half)
    return cast(view, half, keep={*large, *keep}), large


def cast(view: View, half: Half, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """Return the graph in half precision.

    Args:
        view: Of a cleaned float graph.
        half: The format.
        keep: Names of the nodes that stay float32.
    """
    if opset_of(view.model) < _OPSET[half]:
        view = View(infer(brought(view.model, _OPSET[half])))
    return _Caster(view, half, frozenset(keep)).rewritten()


class _Caster:
    """Walks the nodes in order and keeps, for each float tensor, its name in either precision."""

    def __init__(self, view: View, half: Half, keep: frozenset[str]) -> None:
        self.view = view
        self.half = half
        self.keep = keep
        self.opset = opset_of(view.model)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.names: dict[tuple[str, bool], str] = {}  # tensor, in half -> its name there
        self.halved: dict[str, str] = {}  # constant -> its name in half
        self.taken = taken_names(view.model.graph)

    def rewritten(self) -> onnx.ModelProto:
        floats = {name for name in self.view.inputs if self.view.is_float(name)}
        self.names |= {(name, False): name for name in floats}
        for node in self.view.nodes:
            for part in spelled_out(node) if self.half == "bf16" and node.name not in self.keep else [node]:
                copied = onnx.NodeProto()
                copied.CopyFrom(part)
                self._node(copied)
        return infer(rewritten(self.view.model, self.nodes, self.constants.values()))

    def _node(self, node: onnx.NodeProto) -> None:
        fixed, never = _without_half(node, self.opset, self.half)
        halved = node.name not in self.keep and not (self.half == "bf16" and node.op_type in _NO_BFLOAT16)
        halved = halved and not any(self._is_float(node.input[position]) for position in never)
        untouched = {*_FLOAT32.get(node.op_type, ()), *fixed}
        for position, name in enumerate(node.input):
            if name:
                node.input[position] = self._read(name, halved and position not in untouched)
        if halved:
            for item in node.attribute:
                if node.op_type == "Cast" and item.name == "to" and item.i == TensorProto.FLOAT:
                    item.i = _TYPE[self.half]
                elif item.type == onnx.AttributeProto.TENSOR and item.t.data_type == TensorProto.FLOAT:
                    item.t.CopyFrom(_converted(item.t, self.half, item.t.name))
        self.nodes.append(node)
        for position, name in enumerate(node.output):
            if not self.view.is_float(name):
                continue
            if halved and name in self.view.outputs:
                node.output[position] = free_name(f"{name}_{self.half}", self.taken)
                self._cast(node.output[position], name, False)
                self.names[name, True] = node.output[position]
            self.names[name, halved and name not in self.view.outputs] = name

    def _is_float(self, name: str) -> bool:
        """Whether a tensor of the graph is float32 before anything is cast."""
        initializer = self.view.initializers.get(name)
        if initializer is not None:
            return bool(initializer.data_type == TensorProto.FLOAT)
        return (name, True) in self.names or (name, False) in self.names

    def _read(self, name: str, halved: bool) -> str:
        """Return the name of a tensor in the wanted precision, converting it the first time."""
        initializer = self.view.initializers.get(name)
        if initializer is not None:
            if not halved or initializer.data_type != TensorProto.FLOAT:
                return name
            if name not in self.halved:
                converted = self.halved[name] = free_name(f"{name}_{self.half}", self.taken)
                self.constants[converted] = _converted(initializer, self.half, converted)
            return self.halved[name]
        if (name, halved) in self.names:
            return self.names[name, halved]
        if (name, not halved) not in self.names:
            return name  # not a float tensor
        converted = free_name(f"{name}_{self.half if halved else 'fp32'}", self.taken)
        self._cast(self.names[name, not halved], converted, halved)
        self.names[name, halved] = converted
        return converted

    def _cast(self, source: str, target: str, halved: bool) -> None:
        kind = _TYPE[self.half] if halved else TensorProto.FLOAT
        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=kind))


def _without_half(node: onnx.NodeProto, version: int, half: Half) -> tuple[set[int], set[int]]:
    """Return the places of inputs that are float32 by definition, and of those that cannot be in half precision.

    Args:
        node: Of an operator; of one that is not ONNX's own nothing is known.
        version: The opset.
        half: The format.
    """
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return set(), set()
    allowed = {found.type_param_str: found.allowed_type_strs for found in schema.type_constraints}
    last = len(schema.inputs) - 1  # may stand for any number of inputs
    kinds = [schema.inputs[min(place, last)].type_str for place in range(len(node.input))]
    fixed = {place for place, kind in enumerate(kinds) if kind == "tensor(float)"}
    return fixed, {place for place, kind in enumerate(kinds) if _NAME[half] not in allowed.get(kind, ())} - fixed


def spelled_out(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return what a HardSwish or Mish node is made of: the product of its input and a gate; else the node itself."""
    gates = _GATES.get(node.op_type)
    if gates is None:
        return [node]
    source, nodes = node.input[0], []
    name = source
    for operator in gates:
        made = f"{node.output[0]}_{operator.lower()}"
        settings = {"alpha": 1 / 6, "beta": 0.5} if operator == "HardSigmoid" else {}
        nodes.append(helper.make_node(operator, [name], [made], name=f"{node.name}_{operator.lower()}", **settings))
        name = made
    return [*nodes, helper.make_node("Mul", [source, name], list(node.output), name=node.name)]


def _converted(tensor: TensorProto, half: Half, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if half == "fp16":
        limit = np.where(np.isinf(values), np.inf, LARGEST[half])
        return numpy_helper.from_array(np.clip(values, -limit, limit).astype(np.float16), name)
    # The upper half of a float32, rounded to nearest even, is the bfloat16.
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    upper = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return helper.make_tensor(name, TensorProto.BFLOAT16, tensor.dims, upper.tobytes(), raw=True)
