"""What is told of a graph before it is quantized."""

from __future__ import annotations

import onnx
from any_nets import AnyNet
from onnx import helper

import tlopt
from tlopt.artifact import Artifact
from tlopt.quantization.float_graph import float_graph


def with_gelu(folder, domain) -> Artifact:
    """Return a network with a GELU in the middle: an operator of ONNX, or the one that ONNX Runtime puts there."""
    net = AnyNet(opset=20)
    middle = net.add("Gelu", net.deep, domain=domain)
    net.output(net.conv(middle, 8, 6), "mask")
    model = onnx.load(net.save(folder / "plain.onnx"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, folder / "net.onnx")
    return tlopt.import_model(folder / "net.onnx", folder / "net", task="any", preset="0..1")


def test_operators_that_are_none_of_onnx_are_told(tmp_path, caplog):
    float_graph(with_gelu(tmp_path, "com.microsoft"), precision="int8", runtime="openvino")
    (told,) = [message for message in caplog.messages if "com.microsoft.Gelu" in message]
    assert "layers there stay float" in told
    assert "before ONNX Runtime optimized it" in told


def test_operators_of_onnx_are_not_told(tmp_path, caplog):
    float_graph(with_gelu(tmp_path, ""), precision="int8", runtime="openvino")
    assert not [message for message in caplog.messages if "ONNX does not define" in message]


def test_hard_swish_is_known_though_the_next_layer_could_take_its_factor(tmp_path):
    """As Paddle2ONNX writes it: the division by 6 would become part of the next convolution."""
    net = AnyNet(opset=17)
    x = net.conv(net.deep, 8, 8)
    clipped = net.add("Clip", net.add("Add", x, net.constant(3.0)), net.constant(0.0), net.constant(6.0))
    middle = net.add("Div", net.add("Mul", x, clipped), net.constant(6.0))
    net.output(net.conv(middle, 8, 6), "mask")
    fp32 = tlopt.import_model(net.save(tmp_path / "net.onnx"), tmp_path / "fp32", task="any", preset="0..1")
    kinds = {node.op_type for node in float_graph(fp32, precision="int8", runtime="onnxruntime").nodes}
    assert "HardSigmoid" in kinds
    assert not kinds & {"Add", "Clip", "Div"}
