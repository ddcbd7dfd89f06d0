"""Means over windows and batch norms become depthwise convolutions where ONNX Runtime gains by it, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from quantized_graphs import optimized, quantized, run
from tiny_graphs import Builder

from tlopt.graphs.cleaning import clean
from tlopt.graphs.rewriting.folding import fold
from tlopt.graphs.view import View
from tlopt.quantization.depthwise import with_depthwise


def pooled(*, before=True, size=16, **attributes):
    """Return a cleaned graph with a mean over windows, after a layer or after what has no integer kernel."""
    b = Builder()
    x = b.conv("images", 3, 8)
    x = b.node("AveragePool", x if before else b.node("Exp", x), **attributes)
    return clean(b.model(b.head(b.node("Relu", b.conv(x, 8, 16)), 16), size))


def normed(*, outlet="Relu"):
    """Return a cleaned and folded graph with a batch norm that no convolution can take in."""
    b = Builder()
    x = b.node("Relu", b.conv("images", 3, 8))
    parts = [b.random.uniform(0.2, 2, 8), *b.random.normal(0, 1, (2, 8)), b.random.uniform(0.2, 2, 8)]
    parts[0][3] = 0  # a channel that training has switched off
    y = b.node("BatchNormalization", x, *(b.constant(part.astype(np.float32)) for part in parts))
    y = b.conv(b.node(outlet, y), 8, 8)
    return fold(clean(b.model(b.head(b.node("Add", x, y), 8))))


def kinds(model):
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        {"kernel_shape": [3, 2], "strides": [1, 2], "auto_pad": "VALID"},
    ],
)
def test_a_mean_over_windows_is_a_depthwise_convolution(attributes, photos_like, tmp_path):
    before = pooled(**attributes)
    after = with_depthwise(View(before), "onnxruntime").model
    assert "AveragePool" not in kinds(after)
    np.testing.assert_allclose(run(after, photos_like), run(before, photos_like), atol=1e-5)
    assert not optimized(quantized(after, "onnxruntime", photos_like), tmp_path)["QLinearAveragePool"]


@pytest.mark.parametrize(
    "how",
    [
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},  # the border has other divisors
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "size": 17},  # so has the last window
        {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [2, 2], "before": False},  # another rounding would come before it
    ],
)
def test_a_mean_that_is_none_or_that_would_be_rounded_once_more_stays(how):
    view = View(pooled(**how))
    assert with_depthwise(view, "onnxruntime") is view


def test_a_batch_norm_between_layers_is_a_depthwise_convolution(photos_like, tmp_path):
    before = normed()
    assert "BatchNormalization" in kinds(before)
    after = with_depthwise(View(before), "onnxruntime").model
    assert "BatchNormalization" not in kinds(after)
    np.testing.assert_allclose(run(after, photos_like), run(before, photos_like), atol=1e-5)
    found = optimized(quantized(after, "onnxruntime", photos_like), tmp_path)
    assert (found["QLinearConv"], found["BatchNormalization"], found["Relu"]) == (3, 0, 0)


def test_its_weights_lose_nothing_in_8_bits(photos_like):
    """So the integers are as near to the float graph as those of a batch norm in float."""
    before = normed()
    wanted = run(before, photos_like)
    errors = [
        np.square(run(quantized(model, "onnxruntime", photos_like), photos_like) - wanted).mean()
        for model in (before, with_depthwise(View(before), "onnxruntime").model)
    ]
    assert errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize(
    "how", [{"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}]
)
def test_a_mean_that_stays_is_computed_in_float(how, photos_like, tmp_path):
    """In 8 bits ONNX Runtime is slower."""
    before = pooled(**how)
    found = optimized(made := quantized(before, "onnxruntime", photos_like), tmp_path)
    assert (found["QLinearAveragePool"], found["AveragePool"], found["QLinearConv"]) == (0, 1, 2)
    assert np.abs(run(made, photos_like) - run(before, photos_like)).max() < 0.05 * np.ptp(run(before, photos_like))


@pytest.mark.parametrize(
    ("runtime", "after", "kind"),
    [
        ("openvino", "Add", "Conv"),
        ("openvino", "Concat", "BatchNormalization"),
        ("openvino", "Relu", "BatchNormalization"),
        ("onnxruntime", "Concat", "Conv"),
        ("tensorrt", "Add", "BatchNormalization"),
    ],
)
def test_a_batch_norm_stays_where_it_is_faster(runtime, after, kind):
    b = Builder()
    x = b.node("Relu", b.conv("images", 3, 8))
    x = (
        b.node("Add", x, b.conv(x, 8, 8))
        if after == "Add"
        else b.node("Concat", b.conv(x, 8, 4), b.conv(x, 8, 4), axis=1)
    )
    y = b.node("BatchNormalization", x, *(b.constant(b.random.uniform(0.2, 2, 8).astype(np.float32)) for _ in range(4)))
    graph = fold(clean(b.model(b.head(b.node("Add", x, b.conv(b.node("Relu", y), 8, 8)), 8))))
    found = with_depthwise(View(graph), runtime).producer[y]
    assert found.op_type == kind


def test_a_mean_over_windows_stays_in_openvino():
    view = View(pooled(kernel_shape=[2, 2], strides=[2, 2]))
    assert with_depthwise(view, "openvino") is view
