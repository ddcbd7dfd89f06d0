"""Write QuantizeLinear and DequantizeLinear nodes into a graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tlopt.graphs.cleaning import infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.opsets import brought
from tlopt.graphs.view import View, channel_axis, clip_range, own_bias
from tlopt.quantization import float8
from tlopt.quantization.grid import Scale
from tlopt.quantization.placement import Placement
from tlopt.quantization.weight_grids import (
    QuantizedWeight,
    along,
    channel_scale,
    quantize_weight,
    smallest_scale,
)

FLOAT8_OPSET = 19  # QuantizeLinear knows E4M3 from here on


def insert(
    view: View,
    placement: Placement,
    scales: Mapping[str, Scale],
    weights: Mapping[str, QuantizedWeight] | None = None,
) -> onnx.ModelProto:
    """Return the graph with Q/DQ pairs at the places chosen and weights stored in 8 bits.

    Args:
        view: Of a cleaned float graph.
        placement: The places.
        scales: Tensor -> its scale, for each tensor of ``placement.edges``.
        weights: Node -> its quantized weight, where rounding to nearest is not wanted.
    """
    if placement.float8 and view.model.opset_import[0].version < FLOAT8_OPSET:
        view = View(infer(brought(view.model, FLOAT8_OPSET)))
    return _Writer(view, placement, scales, weights or {}).write()


class _Writer:
    def __init__(
        self,
        view: View,
        placement: Placement,
        scales: Mapping[str, Scale],
        weights: Mapping[str, QuantizedWeight],
    ) -> None:
        self.view = view
        self.placement = placement
        self.scales = scales
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.names: dict[tuple[str, str], str] = {}
        self.taken = taken_names(view.model.graph)

    def write(self) -> onnx.ModelProto:
        for name in self.view.inputs:
            self._activation(name)
        for original in self.view.nodes:
            if original.output[0] in self.placement.hard_sigmoids:
                self._hard_sigmoid(original.input[0], original.output[0])
                continue
            node = onnx.NodeProto()
            node.CopyFrom(original)
            if node.name in self.placement.weights:
                self._weight(node)
            for position, name in enumerate(node.input):
                if node.name in self.placement.edges.get(name, ()):
                    node.input[position] = self._name(name, "_dequantized")
            if self._clipped_by_range(node):
                # The conv's own tensor goes straight to QuantizeLinear, which is how it fuses.
                self._activation(node.output[0], node.input[0])
                continue
            self.nodes.append(node)
            for name in node.output:
                self._activation(name)
        return infer(rewritten(self.view.model, self.nodes, self.constants.values()))

    def _constant(self, name: str, values: np.ndarray) -> str:
        # A scale of one tensor must be a scalar: TensorRT for RTX (1.7) computes in float where it is a vector of one
        # element, and np.ascontiguousarray would make it one.
        self.constants[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def _name(self, of: str, what: str) -> str:
        """Return the name of what is made of a tensor or a node: that of no other tensor, whatever they are called."""
        if (of, what) not in self.names:
            self.names[of, what] = free_name(f"{of}{what}", self.taken)
        return self.names[of, what]

    def _weight_name(self, node: onnx.NodeProto) -> str:
        """Return the name of a node's new weight: the old one's, if that is called so and nothing else reads it."""
        wanted = f"{node.name}_weight"
        if node.input[1] == wanted and len(self.view.readers(wanted)) == 1:
            self.taken.discard(wanted)
        return self._name(node.name, "_weight")

    def _clipped_by_range(self, node: onnx.NodeProto) -> bool:
        """Whether the integers' own range clips all that a ReLU or Clip clips.

        ONNX Runtime drops such a node itself, but not where the scale's rounding to float32 lets
        the range end a trifle beyond the clip's.
        """
        if self.placement.runtime != "onnxruntime" or node.op_type not in ("Relu", "Clip"):
            return False
        output = node.output[0]
        if not self.placement.edges.get(output) or self.view.only_reader(node.input[0]) is None:
            return False
        if output in self.view.outputs:
            return False
        scale = self.scales[output]
        low, high = clip_range(self.view, node)
        slack = scale.scale / 2
        return (scale.grid.low - scale.zero) * scale.scale >= low - slack and (
            scale.grid.high - scale.zero
        ) * scale.scale <= high + slack

    def _activation(self, tensor: str, source: str = "") -> None:
        """Append the Q/DQ pair of a tensor, if it has one; it reads `source` if given."""
        if not self.placement.edges.get(tensor):
            return
        scale = self.scales[tensor]
        step = self._constant(self._name(tensor, "_scale"), np.array(scale.scale, np.float32))
        place = self._name(tensor, "_zero")
        if scale.grid.float8:
            zero = self._float8(place, np.zeros((), np.uint8))
        else:
            zero = self._constant(place, np.array(scale.zero, scale.grid.dtype))
        quantized, back = self._name(tensor, "_quantized"), self._name(tensor, "_dequantized")
        self.nodes += [
            helper.make_node("QuantizeLinear", [source or tensor, step, zero], [quantized], name=f"{tensor}_q"),
            helper.make_node("DequantizeLinear", [quantized, step, zero], [back], name=f"{tensor}_dq"),
        ]

    def _hard_sigmoid(self, source: str, result: str) -> None:
        """Append what makes the integers of a hard sigmoid of those of its input."""
        scale, quantized = self.scales[result], self._name(source, "_quantized")
        ceiling = 2 * self.scales[source].zero  # stands for 1
        if ceiling < scale.grid.high:
            bound = self._constant(self._name(result, "_one"), np.array(ceiling, scale.grid.dtype))
            clipped = self._name(result, "_quantized")
            self.nodes.append(helper.make_node("Clip", [quantized, "", bound], [clipped], name=f"{result}_q"))
            quantized = clipped
        step = self._constant(self._name(result, "_scale"), np.array(scale.scale, np.float32))
        zero = self._constant(self._name(result, "_zero"), np.array(scale.zero, scale.grid.dtype))
        back = self._name(result, "_dequantized")
        self.nodes.append(helper.make_node("DequantizeLinear", [quantized, step, zero], [back], name=f"{result}_dq"))

    def _weight(self, node: onnx.NodeProto) -> None:
        """Replace a node's float weight, and its bias where the runtime wants that, by integers."""
        weight = self.view.constant(node.input[1])
        assert weight is not None
        axis = channel_axis(node, weight)
        if self.placement.float8:
            self._float8_weight(node, weight, axis)
            return
        activation = self.scales[node.input[0]].scale
        bias = own_bias(self.view, node)
        # A grouped ConvTranspose has one weight scale for an output channel of every group: none for each bias.
        fits = bias is not None and len(bias) == weight.shape[axis]
        whole_bias = self.placement.integer_bias and fits
        quantized = self.weights.get(node.name)
        if quantized is None:
            floor = smallest_scale(bias, activation) if whole_bias and bias is not None else None
            limit = self.placement.limit(self.view, node)
            quantized = quantize_weight(weight, axis, channel_scale(weight, axis, floor, limit), limit)
        node.input[1] = self._dequantized(self._weight_name(node), quantized.values, quantized.scale, axis)
        if bias is None:
            return
        if quantized.shift is not None:
            bias = bias + quantized.shift
        if whole_bias:
            scale = (quantized.scale.astype(np.float64) * activation).astype(np.float32)
            levels = np.clip(np.round(bias / scale.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int32)
            name = self._dequantized(self._name(node.name, "_bias"), levels, scale, 0)
        else:
            name = self._constant(self._name(node.name, "_bias"), bias.astype(np.float32))
        node.input[:] = [*node.input[:2], name]

    def _float8_weight(self, node: onnx.NodeProto, weight: np.ndarray, axis: int) -> None:
        """Replace a node's weight by E4M3 numbers, one scale for each output channel."""
        quantized, bias = self.weights.get(node.name), own_bias(self.view, node)
        if quantized is None:
            scale = channel_scale(weight, axis, limit=float8.LARGEST)
            codes = float8.encode(weight / along(scale, axis, weight.ndim))
            quantized = QuantizedWeight(values=codes, scale=scale, axis=axis)
        name = self._weight_name(node)
        names = [
            self._float8(self._name(name, "_quantized"), quantized.values),
            self._constant(self._name(name, "_scale"), quantized.scale),
            self._float8(self._name(name, "_zero"), np.zeros(quantized.scale.shape, np.uint8)),
        ]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [name], name=f"{name}_dq", axis=axis))
        node.input[1] = name
        if bias is not None and quantized.shift is not None:
            shifted = self._constant(self._name(node.name, "_bias"), (bias + quantized.shift).astype(np.float32))
            node.input[:] = [*node.input[:2], shifted]

    def _float8(self, name: str, codes: np.ndarray) -> str:
        kind = onnx.TensorProto.FLOAT8E4M3FN
        self.constants[name] = helper.make_tensor(name, kind, codes.shape, codes.tobytes(), raw=True)
        return name

    def _dequantized(self, name: str, values: np.ndarray, scale: np.ndarray, axis: int) -> str:
        names = [
            self._constant(self._name(name, "_quantized"), values),
            self._constant(self._name(name, "_scale"), scale),
            self._constant(self._name(name, "_zero"), np.zeros(scale.shape, values.dtype)),
        ]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [name], name=f"{name}_dq", axis=axis))
        return name
