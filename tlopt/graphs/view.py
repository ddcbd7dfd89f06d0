"""Look things up in an ONNX graph: who makes a tensor, who reads it, what is constant."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

# What stays 8 bits wide when its input is, with the same scale: it moves values or picks among them.
MOVES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "DepthToSpace", "SpaceToDepth"}
)
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class View:
    """A graph's tensors and nodes by name; made anew after the graph has been changed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = model.graph
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.initializers: dict[str, onnx.TensorProto] = {i.name: i for i in graph.initializer}
        self.inputs = [i.name for i in graph.input if i.name not in self.initializers]
        self.outputs = [o.name for o in graph.output]
        self.producer: dict[str, onnx.NodeProto] = {name: node for node in self.nodes for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._readers[name].append(node)
        self._types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output, *graph.value_info)}

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a tensor."""
        return self._readers.get(tensor, [])

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """Return the one node that reads a tensor, None if there are more, none, or it is an output."""
        readers = self.readers(tensor)
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def constant(self, name: str) -> np.ndarray | None:
        """Return an initializer's values, None if the tensor is computed."""
        found = self.initializers.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def is_float(self, tensor: str) -> bool:
        """Whether a tensor is computed and of float32, as far as shape inference knows."""
        kind = self._types.get(tensor)
        return tensor not in self.initializers and kind is not None and kind.elem_type == onnx.TensorProto.FLOAT

    def rank(self, tensor: str) -> int:
        """Return the number of axes of a tensor, -1 if it is not known."""
        if tensor in self.initializers:
            return len(self.initializers[tensor].dims)
        kind = self._types.get(tensor)
        return len(kind.shape.dim) if kind is not None and kind.HasField("shape") else -1

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return a tensor's shape, 0 for each axis whose length is not known."""
        if tensor in self.initializers:
            return tuple(self.initializers[tensor].dims)
        kind = self._types.get(tensor)
        return tuple(d.dim_value for d in kind.shape.dim) if kind is not None else ()

    def weight(self, node: onnx.NodeProto) -> str:
        """Return the name of a node's constant weight, empty if it has none."""
        if node.op_type not in WEIGHTED or len(node.input) < 2 or node.input[1] not in self.initializers:
            return ""
        return str(node.input[1])

    def is_depthwise(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a convolution of each channel by itself, with a constant weight."""
        if node.op_type != "Conv" or not self.weight(node):
            return False
        shape = self.initializers[node.input[1]].dims
        return bool(attribute(node, "group", 1) == shape[0] > 1 == shape[1])


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute, or the default if it is not set."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def stored(view: View, name: str) -> np.ndarray | None:
    """Return the values of an initializer or of a Constant node, None if the tensor is computed."""
    node = view.producer.get(name)
    value = attribute(node, "value") if node is not None and node.op_type == "Constant" else None
    return view.constant(name) if value is None else numpy_helper.to_array(value)


def channel_axis(node: onnx.NodeProto, weight: np.ndarray) -> int:
    """Return the axis of a weight that runs over the output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return weight.ndim - 1


def fused_activation(view: View, tensor: str) -> str:
    """Return the tensor after the ReLU or Clip that a runtime fuses into a tensor's producer."""
    reader = view.only_reader(tensor)
    return str(reader.output[0]) if reader is not None and reader.op_type in ("Relu", "Clip") else tensor


def clip_range(view: View, node: onnx.NodeProto) -> tuple[float, float]:
    """Return the range that a Relu or Clip node lets through."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = [-np.inf, np.inf]
    for position in (1, 2):
        if len(node.input) > position and node.input[position]:
            value = view.constant(node.input[position])
            # A bound that is computed may be anything: let nothing count as clipped.
            bounds[position - 1] = float(value) if value is not None else (np.inf if position == 1 else -np.inf)
    return bounds[0], bounds[1]


def own_bias(view: View, node: onnx.NodeProto) -> np.ndarray | None:
    """Return the bias of a weighted node, one value for each output channel, zeros if it adds none.

    None if it has no place for one (MatMul), or one that is computed or of another shape.
    """
    weight = view.constant(node.input[1])
    if weight is None or node.op_type == "MatMul":
        return None
    axis = channel_axis(node, weight)
    channels = weight.shape[axis] * (attribute(node, "group", 1) if node.op_type == "ConvTranspose" else 1)
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(channels, np.float32)
    bias = view.constant(node.input[2])
    return bias if bias is not None and bias.shape == (channels,) else None
