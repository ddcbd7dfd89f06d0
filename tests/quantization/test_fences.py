"""What runtimes would compute wrongly as soon as a graph has a Q/DQ pair."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from any_nets import HIGH, WIDE, AnyNet

from tlopt.graphs.cleaning import clean
from tlopt.graphs.rewriting.folding import fold
from tlopt.graphs.view import View
from tlopt.quantization.fences import fenced
from tlopt.quantization.int8 import Scheme, calibrate
from tlopt.sessions import open_session

openvino = pytest.importorskip("openvino")

FACTORS = np.logspace(-1, 1, 8)


def whole(net, *values):
    return net.constant(values, np.int64)


def dealt(net):
    """Deal the values to other channels of other images, and back."""
    factors = net.constant(FACTORS.reshape(1, 8, 1))
    rows = net.add("Mul", net.add("Reshape", net.deep, whole(net, -1, 8, 12)), factors)
    return net.add("Reshape", rows, whole(net, -1, 8, 4, 6)), 8


def normalized(net):
    parts = (net.constant(FACTORS), net.constant(-FACTORS))
    rows = net.add("InstanceNormalization", net.add("Reshape", net.deep, whole(net, -1, 8, 12)), *parts)
    return net.add("Reshape", rows, whole(net, -1, 8, 4, 6)), 8


def padded(net):
    factors = net.constant((FACTORS * np.tile([1, -1], 4)).reshape(1, 8, 1, 1))
    scaled = net.add("Mul", net.add("Tanh", net.conv(net.deep, 8, 8)), factors)
    return net.add("Pad", scaled, whole(net, 0, 0, 1, 1, 0, 0, 1, 1)), 8


def averaged(net):
    return net.add("AveragePool", net.conv(net.deep, 8, 8), kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1), 8


def brightest(net):
    """As in the spatial half of CBAM."""
    norm = [net.constant(FACTORS * by) for by in (1, 0.1, 0.2, 2)]
    scaled = net.add("BatchNormalization", net.add("Relu", net.conv(net.deep, 8, 8)), *norm)
    return net.add("ReduceMax", scaled, axes=[1], keepdims=1), 1


def largest(net):
    """As at the end of networks with a pool of means and maxima."""
    pools = [net.add(kind, net.conv(net.deep, 8, 8)) for kind in ("GlobalMaxPool", "GlobalAveragePool")]
    return net.add("Concat", *pools, axis=1), 16


def subtracted(net):
    rest = net.add("Sub", net.constant(FACTORS.reshape(1, 8, 1, 1)), net.add("Sigmoid", net.deep))
    return net.add("Reshape", rest, whole(net, -1, 8, 2, 6)), 8


def photo_like(count=4):
    random = np.random.default_rng(1)
    coarse = random.normal(0, 1, (count, 3, HIGH // 4, WIDE // 4)).repeat(4, 2).repeat(4, 3)
    return (coarse + random.normal(0, 0.2, coarse.shape)).astype(np.float32)


def in_openvino(model, inputs):
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)({0: inputs})[0]


def in_onnxruntime(model, inputs):
    session = open_session(model)
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def decibels(found, wanted):
    return 10 * np.log10((wanted**2).mean() / max(((found - wanted) ** 2).mean(), 1e-20))


def int8_of(model, inputs):
    scheme = Scheme(runtime="openvino", rounding="nearest", bias_correction=False)
    return calibrate(View(fold(clean(model))), scheme, [inputs]).graph()


@pytest.mark.parametrize("made", [dealt, normalized, padded, averaged, brightest, largest, subtracted])
def test_what_openvino_takes_for_a_dequantization_keeps_its_place(made, tmp_path):
    net = AnyNet()
    tensor, channels = made(net)
    net.output(net.conv(tensor, channels, 6, kernel=1), "mask")
    model, inputs = onnx.load(net.save(tmp_path / "net.onnx")), photo_like()
    quantized = int8_of(model, inputs)
    assert decibels(in_openvino(quantized, inputs), in_onnxruntime(model, inputs)) > 25


def test_a_reshape_to_a_number_of_channels_that_is_no_multiple_compiles(tmp_path):
    net = AnyNet()
    factors = net.constant(FACTORS[:6].reshape(1, 6, 1))
    rows = net.add("Mul", net.add("Reshape", net.deep, whole(net, 0, 6, 32)), factors)
    net.output(net.conv(net.add("Reshape", rows, whole(net, 0, 8, 4, 6)), 8, 6), "mask")
    model, inputs = onnx.load(net.save(tmp_path / "net.onnx")), photo_like()
    assert decibels(in_openvino(int8_of(model, inputs), inputs), in_onnxruntime(model, inputs)) > 25


def test_a_convolution_without_a_bias_may_have_two_readers(tmp_path):
    net = AnyNet()
    weight = net.random.normal(0, 0.2, (8, 1, 3, 3)) * FACTORS.reshape(8, 1, 1, 1)
    tensor = net.add("Conv", net.deep, net.constant(weight), pads=[1] * 4, group=8)
    net.output(net.add("Concat", net.conv(tensor, 8, 6, kernel=1), net.add("Sigmoid", tensor), axis=1), "mask")
    model, inputs = onnx.load(net.save(tmp_path / "net.onnx")), photo_like()
    assert decibels(in_openvino(int8_of(model, inputs), inputs), in_onnxruntime(model, inputs)) > 25


@pytest.mark.parametrize(("before", "fences"), [("Relu", 0), ("Tanh", 1)])
def test_only_a_mean_over_shifted_integers_has_a_fence_and_no_other_reader(tmp_path, before, fences):
    """As in Inception, where convolutions read what the mean reads. Behind a fence they would compute in float."""
    net = AnyNet()
    shared = net.add(before, net.conv(net.deep, 8, 8))
    mean = net.add("AveragePool", shared, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    branches = [net.conv(shared, 8, 4, kernel=1), net.conv(mean, 8, 4, kernel=1)]
    net.output(net.add("Concat", *branches, axis=1), "mask")
    model, inputs = onnx.load(net.save(tmp_path / "net.onnx")), photo_like()
    quantized = int8_of(model, inputs)
    made = [node for node in quantized.graph.node if node.op_type == "Max"]
    assert len(made) == fences
    assert all(View(quantized).only_reader(node.output[0]).op_type == "AveragePool" for node in made)
    assert decibels(in_openvino(quantized, inputs), in_onnxruntime(model, inputs)) > 25


def test_a_fence_changes_no_value_and_plain_networks_have_none(tmp_path):
    net = AnyNet()
    net.output(net.conv(dealt(net)[0], 8, 6), "mask")
    model, inputs = clean(onnx.load(net.save(tmp_path / "net.onnx"))), photo_like()
    np.testing.assert_array_equal(in_onnxruntime(fenced(model, "openvino"), inputs), in_onnxruntime(model, inputs))
    plain = AnyNet()
    plain.output(plain.add("Relu", plain.conv(plain.deep, 8, 6)), "mask")
    model = clean(onnx.load(plain.save(tmp_path / "plain.onnx")))
    assert fenced(model, "openvino") is model


def outlying(shape):
    """Return weights of which one is much larger than all others: with one scale for all, the others become 0."""
    weight = np.random.default_rng(5).normal(0, 0.2, shape)
    weight[0, 0] = 0
    weight.flat[0] = 500
    return weight


def convolved(net, before):
    return net.add("Conv", before, net.constant(outlying((8, 8, 3, 3))), pads=[1] * 4)


def enlarged(net, before):
    return net.add("ConvTranspose", before, net.constant(outlying((8, 8, 2, 2))), strides=[2, 2])


def multiplied(net, before):
    rows = net.add("Flatten", net.add("GlobalAveragePool", before))
    product = net.add("Gemm", rows, net.constant(outlying((8, 8))), net.constant(np.zeros(8)))
    return net.add("Reshape", product, whole(net, -1, 8, 1, 1))


@pytest.mark.parametrize("after", ["", "Relu"])
@pytest.mark.parametrize("made", [convolved, enlarged, multiplied])
def test_the_weights_of_a_layer_that_stays_float_are_not_rounded_in_onnxruntime(made, after, tmp_path):
    net = AnyNet()
    # What the largest weight reads is 0, so that it widens no range of the activations.
    weight = np.random.default_rng(3).normal(0, 0.4, (8, 8, 1, 1))
    weight[0] = 0
    before = net.add("Relu", net.add("Conv", net.deep, net.constant(weight), net.constant([0, *[0.1] * 7])))
    tensor = made(net, before)
    layer = next(node.name for node in net.nodes if node.output[0] == tensor or node.op_type == "Gemm")
    tensor = net.add(after, tensor) if after else tensor
    net.output(net.conv(tensor, 8, 6, kernel=1), "mask")
    model, inputs = onnx.load(net.save(tmp_path / "net.onnx")), photo_like()
    scheme = Scheme(runtime="onnxruntime", rounding="nearest", bias_correction=False)
    quantized = calibrate(View(clean(model)), scheme, [inputs], floats=[layer]).graph()
    assert layer in {node.name for node in quantized.graph.node}
    wanted = in_onnxruntime(model, inputs)
    assert decibels(in_onnxruntime(quantized, inputs), wanted) > 25
