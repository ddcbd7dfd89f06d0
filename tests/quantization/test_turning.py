"""Operators whose axes ONNX Runtime cannot turn stand between convolutions, and the int8 graph runs there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from any_nets import HIGH, WIDE, AnyNet

from tlopt.graphs.cleaning import clean
from tlopt.graphs.rewriting.folding import fold
from tlopt.graphs.view import View
from tlopt.quantization.int8 import Scheme, calibrate
from tlopt.sessions import open_session


def resized(net, *, sizes=None, factors=None, **how):
    given = ["", net.constant(sizes, np.int64)] if sizes else [net.constant(factors)]
    return net.add("Resize", net.deep, "", *given, **how)


def smaller(net):
    return resized(net, factors=[1, 1, 0.75, 0.5], mode="cubic")


def of_sizes(net):
    return resized(net, sizes=[2, 8, 3, 4], mode="cubic")


def of_one_aspect(net):
    return resized(net, sizes=[7, 8], axes=[2, 3], mode="linear", keep_aspect_ratio_policy="not_larger")


def cropped(net):
    return net.add("CenterCropPad", net.deep, net.constant([3, 9], np.int64), axes=[2, 3])


def larger(net):
    return resized(net, factors=[1, 1, 2, 2], mode="cubic")


def made(between, folder):
    """Return a network of four convolutions, its int8 graph, and two images, float32 (2, 3, 16, 24)."""
    net = AnyNet(opset=19)
    net.deep = net.add("MaxPool", net.deep, kernel_shape=[3, 3], pads=[1] * 4)
    behind = net.add("Relu", net.conv(between(net), 8, 8))
    net.output(net.conv(behind, 8, 6), "mask")
    model = onnx.load(net.save(folder / "net.onnx", shape=(2, 3, HIGH, WIDE)))
    images = np.random.default_rng(1).normal(size=(2, 3, HIGH, WIDE)).astype(np.float32)
    scheme = Scheme(runtime="onnxruntime", rounding="nearest", bias_correction=False)
    return model, calibrate(View(fold(clean(model))), scheme, [images]).graph(), images


def eight_bit(model):
    """Return the number of convolutions with integer weights."""
    view = View(model)
    convolutions = [node for node in view.nodes if node.op_type == "Conv"]
    return sum(node.input[1] in view.producer for node in convolutions)


@pytest.mark.parametrize("between", [smaller, of_sizes, of_one_aspect, cropped])
def test_int8_runs_with_what_cannot_be_turned_between_convolutions(between, tmp_path):
    model, quantized, images = made(between, tmp_path)
    wanted, found = (open_session(graph).run(None, {"x": images})[0] for graph in (model, quantized))
    # A few tensors of 8 bits leave about 1 % of the signal, 40 dB; turned axes leave all of it.
    assert 10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum()) > 25
    assert eight_bit(quantized) == 3  # the one before it is float


def test_a_cubic_resize_to_a_larger_image_leaves_all_convolutions_in_integers(tmp_path):
    model, quantized, images = made(larger, tmp_path)
    wanted, found = (open_session(graph).run(None, {"x": images})[0] for graph in (model, quantized))
    assert 10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum()) > 25
    assert eight_bit(quantized) == 4
