"""Small graphs with the patterns of real networks, made with onnx alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tlopt.graphs.cleaning import clean


class Builder:
    """Adds nodes with seeded random weights; each method returns its result's name."""

    def __init__(self, opset: int = 18) -> None:
        self.random = np.random.default_rng(0)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: np.ndarray, name: str = "") -> str:
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"n_{name}", **attributes))
        return name

    def conv(
        self, tensor: str, before: int, after: int, *, kernel: int = 3, group: int = 1, **attributes: object
    ) -> str:
        fan = before // group * kernel * kernel
        weight = self.random.normal(0, 1 / np.sqrt(fan), (after, before // group, kernel, kernel)).astype(np.float32)
        bias = self.random.normal(0, 0.1, after).astype(np.float32)
        pads = [kernel // 2] * 4
        return self.node(
            "Conv", tensor, self.constant(weight), self.constant(bias), pads=pads, group=group, **attributes
        )

    def clip(self, tensor: str) -> str:
        return self.node("Clip", tensor, self.constant(np.float32(0)), self.constant(np.float32(6)))

    def head(self, tensor: str, channels: int, classes: int = 5) -> str:
        plane = self.node("ReduceMean", tensor, self.constant(np.array([2, 3], np.int64)), keepdims=1)
        flat = self.node("Reshape", plane, self.constant(np.array([0, -1], np.int64)))
        weight = self.random.normal(0, 1, (classes, channels)).astype(np.float32)
        bias = self.random.normal(0, 0.1, classes).astype(np.float32)
        return self.node("Gemm", flat, self.constant(weight), self.constant(bias), transB=1)

    def model(self, result: str, size: int = 16) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "logits"
        assert result != "logits"
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, size, size])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        onnx.checker.check_model(made, full_check=True)
        return made


def mobile(b: Builder) -> str:
    x = b.clip(b.conv("images", 3, 8, strides=[2, 2]))
    y = b.clip(b.conv(x, 8, 8, group=8))
    y = b.conv(y, 8, 8, kernel=1)
    x = b.node("Add", y, x)
    return b.head(b.clip(b.conv(x, 8, 16, kernel=1)), 16)


def residual(b: Builder) -> str:
    x = b.node("Relu", b.conv("images", 3, 8))
    x = b.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = b.node("Relu", b.conv(x, 8, 8))
    x = b.node("Relu", b.node("Add", b.conv(y, 8, 8), x))
    y = b.node("Relu", b.conv(x, 8, 16, strides=[2, 2]))
    x = b.node("Relu", b.node("Add", b.conv(y, 16, 16), b.conv(x, 8, 16, kernel=1, strides=[2, 2])))
    return b.head(x, 16)


def squeeze(b: Builder) -> str:
    x = b.conv("images", 3, 8, strides=[2, 2])
    x = b.node("Mul", x, b.node("Sigmoid", x))
    s = b.node("ReduceMean", x, b.constant(np.array([2, 3], np.int64)), keepdims=1)
    s = b.node("Relu", b.conv(s, 8, 4, kernel=1))
    s = b.node("Sigmoid", b.conv(s, 4, 8, kernel=1))
    x = b.node("Mul", x, s)
    return b.head(b.node("HardSwish", b.conv(x, 8, 16, kernel=1)), 16)


def dense(b: Builder) -> str:
    x = b.node("Relu", b.conv("images", 3, 8, strides=[2, 2]))
    y = b.node("Concat", x, b.node("Relu", b.conv(x, 8, 4)), axis=1)
    y = b.node("Concat", y, b.node("Relu", b.conv(y, 12, 4)), axis=1)
    y = b.node("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])
    return b.head(y, 16)


FAMILIES: dict[str, Callable[[Builder], str]] = {
    "mobile": mobile,
    "residual": residual,
    "squeeze": squeeze,
    "dense": dense,
}


@pytest.fixture(params=FAMILIES)
def family(request) -> onnx.ModelProto:
    """A cleaned graph of each family."""
    builder = Builder()
    return clean(builder.model(FAMILIES[request.param](builder)))


@pytest.fixture
def builder() -> Builder:
    """Makes a graph node by node."""
    return Builder()


@pytest.fixture
def build() -> Callable[[str], onnx.ModelProto]:
    """Makes the cleaned graph of one family."""

    def made(name: str) -> onnx.ModelProto:
        builder = Builder()
        return clean(builder.model(FAMILIES[name](builder)))

    return made


@pytest.fixture(scope="session")
def photos_like() -> np.ndarray:
    """Inputs whose neighbours are alike, as in photos: float32 (32, 3, 16, 16)."""
    random = np.random.default_rng(1)
    coarse = random.normal(0, 1, (32, 3, 4, 4)).astype(np.float32)
    fine = random.normal(0, 0.2, (32, 3, 16, 16)).astype(np.float32)
    return coarse.repeat(4, axis=2).repeat(4, axis=3) + fine
