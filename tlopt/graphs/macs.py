"""How many multiply-adds a node takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx

from tlopt.graphs.view import attribute


def multiply_adds(node: onnx.NodeProto, shape: Callable[[str], Sequence[int]]) -> int:
    """Return the multiply-adds of a convolution or matrix product, 0 of any other node.

    Args:
        node: The node.
        shape: Tensor -> lengths of its axes.
    """
    if node.op_type == "Conv":
        return math.prod(shape(node.output[0])) * math.prod(shape(node.input[1])[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])
    if node.op_type == "Gemm":
        inner = shape(node.input[1])[1 if attribute(node, "transB", 0) else 0]
        return math.prod(shape(node.output[0])) * inner
    if node.op_type == "MatMul":
        return math.prod(shape(node.output[0])) * shape(node.input[0])[-1]
    return 0
