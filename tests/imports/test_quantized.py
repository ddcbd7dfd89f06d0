"""What is said of a file that is quantized already."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from any_nets import AnyNet, brought

from tlopt.imports.quantized import told


def int8_file(file, *, symmetric=True, after=False):
    """A convolution between Q/DQ pairs, the pair after it only if asked for."""
    net = AnyNet()
    net.nodes.clear()
    kind = np.int8 if symmetric else np.uint8
    zero, step = net.constant(0, kind), net.constant(0.02)
    pair = lambda x: net.add("DequantizeLinear", net.add("QuantizeLinear", x, step, zero), step, zero)  # noqa: E731
    weight = net.add("DequantizeLinear", net.constant(np.ones((8, 3, 1, 1)), np.int8), net.constant(0.01))
    deep = net.add("Relu", net.add("Conv", pair("x"), weight))
    net.output(net.add("Neg", pair(deep) if after else deep), "mask")
    return net.save(file)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "Of 1 layers with weights ONNX Runtime computes 0 in integers, OpenVINO 1. TensorRT takes it."),
        ({"after": True}, "ONNX Runtime computes 1 in integers, OpenVINO 1."),
        ({"symmetric": False, "after": True}, "TensorRT does not take it: its activations are unsigned integers."),
    ],
)
def test_a_file_is_worth_more_on_the_runtime_that_it_was_made_for(tmp_path, how, said):
    assert said in told(onnx.load(int8_file(tmp_path / "m.onnx", **how)))


def test_import_says_it(tmp_path, caplog):
    caplog.set_level("INFO")
    net = AnyNet()
    net.nodes.clear()
    weight = net.add("DequantizeLinear", net.constant(np.ones((8, 3, 1, 1)), np.int8), net.constant(0.01))
    net.output(net.add("Conv", "x", weight), "mask")
    assert brought(net, tmp_path).card.precision == "int8"
    assert "It is in int8 already" in caplog.text
