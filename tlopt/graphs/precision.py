"""What numbers an ONNX file computes in, read from the file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import onnx
from onnx import TensorProto

from tlopt.graphs.nesting import graphs

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]

_FLOAT8 = frozenset(
    {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ}
)
_FLOATS: dict[int, Precision] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.DOUBLE: "fp32",  # a card knows no wider numbers
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
}
_SIGNED = (TensorProto.INT8, TensorProto.INT4)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of a model's ONNX operators, 0 if it names none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def precision_of(model: onnx.ModelProto) -> Precision:
    """Return what a model computes in.

    "int8" or "fp8" where its nodes are quantized, or dequantize. Elsewhere the type of most of its weights.
    """
    if any(_is_integer(node) for node in _nodes(model.graph)):
        return "fp8" if _FLOAT8 & {tensor.data_type for tensor in _constants(model.graph)} else "int8"
    sizes: Counter[Precision] = Counter()
    for tensor in _constants(model.graph):
        if tensor.data_type in _FLOATS:
            sizes[_FLOATS[tensor.data_type]] += math.prod(tensor.dims)
        elif tensor.data_type in _FLOAT8:
            sizes["fp8"] += math.prod(tensor.dims)
    return max(sizes, key=lambda name: sizes[name]) if sizes.total() else "fp32"


def tensorrt_objection(model: onnx.ModelProto) -> str:
    """Return why TensorRT refuses how a model is quantized, empty if it does not.

    TensorRT reads QuantizeLinear and DequantizeLinear of signed integers whose zero point is 0, and biases in float:
    NVIDIA TensorRT documentation 10.x, "Explicit quantization".
    """
    nodes = list(_nodes(model.graph))
    operators = sorted({node.op_type for node in nodes if _is_integer(node)} - {"QuantizeLinear", "DequantizeLinear"})
    if operators:
        return f"it has integer operators ({operators[0]}), where TensorRT reads QuantizeLinear and DequantizeLinear"
    constants = {tensor.name: tensor for tensor in _constants(model.graph)}
    for node in nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if (values := constants.get(node.input[0])) is not None and values.data_type == TensorProto.INT32:
            return "its biases are integers of 32 bits"
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is not None and zero.data_type not in (*_SIGNED, *_FLOAT8):
            return "its activations are unsigned integers"
        if zero is not None and zero.data_type == TensorProto.INT8 and onnx.numpy_helper.to_array(zero).any():
            return "its zero points are not 0"
    return ""


def _is_integer(node: onnx.NodeProto) -> bool:
    """Whether a node quantizes, dequantizes or computes in integers."""
    kind = node.op_type
    whole = ("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "MatMulNBits")
    return kind.startswith("QLinear") or kind.endswith("QuantizeLinear") or kind in (*whole, "DequantizeLinear")


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for part in graphs(graph):
        yield from part.node


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for part in graphs(graph):
        yield from part.initializer
    for node in _nodes(graph):
        if node.op_type != "Constant":
            continue
        for item in node.attribute:
            if item.type == onnx.AttributeProto.TENSOR:
                found = onnx.TensorProto()
                found.CopyFrom(item.t)
                found.name = node.output[0]
                yield found
