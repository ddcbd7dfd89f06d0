"""Small graphs with branches, built node by node."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 6


class Net:
    """A graph that grows node by node, with random weights."""

    def __init__(self, seed: int = 0, rank: int = 4, channels: int = CHANNELS) -> None:
        self.random = np.random.default_rng(seed)
        self.rank, self.channels = rank, channels
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, *shape: int, low: float = -1) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(self.random.uniform(low, 1, shape).astype(np.float32), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def conv(self, data: str, *kernel: int, groups: int = 1, bias: bool = True, **attributes: object) -> str:
        attributes.setdefault("pads", [k // 2 for k in kernel] * 2)
        inputs = [data, self.constant(self.channels, self.channels // groups, *kernel)]
        inputs += [self.constant(self.channels)] if bias else []
        return self.node("Conv", *inputs, group=groups, **attributes)

    def norm(self, data: str) -> str:
        of_each = [self.constant(self.channels, low=low) for low in (-1, -1, -1, 0.1)]
        return self.node("BatchNormalization", data, *of_each)

    def model(self, *outputs: str) -> onnx.ModelProto:
        lengths = ["n", self.channels, *[9] * (self.rank - 2)]
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("images", TensorProto.FLOAT, lengths)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs], self.constants,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def classifier(self, data: str, classes: int = 4) -> onnx.ModelProto:
        """End in a mean over the image and a linear layer."""
        means = self.node("Flatten", self.node("GlobalAveragePool", data))
        return self.model(self.node("Gemm", means, self.constant(self.channels, classes)))

    def repvgg(self, data: str) -> str:
        """Add what a block of RepVGG computes while it is trained."""
        branches = [self.norm(self.conv(data, size, size, bias=False)) for size in (3, 1)]
        return self.node("Relu", self.node("Add", self.node("Add", *branches), self.norm(data)))
