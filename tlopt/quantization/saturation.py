"""Whether a runtime's integer kernels saturate on this processor, found by running one whose answer is known.

Processors without dot products of 8-bit integers (VNNI on x86) multiply pairs of uint8 and int8 and add them up
in 16 bits, where they saturate: 2 * 255 * 127 is about twice what int16 holds (OpenVINO documentation, "Saturation
(overflow) issue workaround"). Weights of half the range cannot, whatever they are multiplied with.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlopt.quantization.weight_grids import LIMIT

_CHANNELS, _SIZE = 64, 4
INPUTS = np.full((1, _CHANNELS, _SIZE, _SIZE), 255, np.float32)  # of the test graph
_SUM = _CHANNELS * 255 * LIMIT


def test_graph() -> bytes:
    """Return a convolution, as integers, of the largest weights there are: images (1, 64, 4, 4) -> logits, the same."""
    constants = {
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "weight": np.full((_CHANNELS, _CHANNELS, 1, 1), LIMIT, np.int8),
        "step": np.array(_SUM / 255, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "one", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "one", "zero"], ["inputs"]),
        helper.make_node("DequantizeLinear", ["weight", "one"], ["weights"]),
        helper.make_node("Conv", ["inputs", "weights"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "step", "zero"], ["results"]),
        helper.make_node("DequantizeLinear", ["results", "step", "zero"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, INPUTS.shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, INPUTS.shape)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    # The oldest versions that the supported runtimes share.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def saturated(results: np.ndarray) -> bool:
    """Whether what a runtime made of `INPUTS` with the test graph is less than it should be."""
    return bool(results.min() < 0.99 * _SUM)
