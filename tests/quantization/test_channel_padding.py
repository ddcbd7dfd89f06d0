"""Depthwise convolutions get more channels for ONNX Runtime, where nothing could notice them."""

from __future__ import annotations

import numpy as np
import pytest
from quantized_graphs import quantized, run
from tiny_graphs import Builder

from tlopt.graphs.cleaning import clean
from tlopt.graphs.view import View
from tlopt.quantization.channel_padding import with_padded_channels
from tlopt.quantization.int8 import Scheme, calibrate
from tlopt.quantization.search.blocks import blocks_of

ONE = np.float32(1)


def plain(b, x):
    return b.node("Relu", x)


def squeeze(b, x):
    s = b.node("GlobalAveragePool", x)
    s = b.node("Relu", b.conv(s, 12, 4, kernel=1))
    return b.node("Mul", x, b.node("HardSigmoid", b.conv(s, 4, 12, kernel=1)))


def scaled(b, x):
    factors = b.constant(b.random.uniform(1, 2, (1, 12, 1, 1)).astype(np.float32))
    shifts = b.constant(b.random.normal(0, 1, (12, 1, 1)).astype(np.float32))
    return b.node("Div", b.node("Sub", b.node("Mul", x, factors), shifts), factors)


def residual(b, x):
    return b.node("Add", b.conv(x, 12, 12, kernel=1), b.node("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4))


def twice(b, x):
    return b.conv(b.node("Clip", x, b.constant(np.float32(0)), b.constant(np.float32(6))), 12, 12, kernel=5, group=12)


def divided(b, x):
    return b.node("Div", b.node("Relu", x), b.node("Add", b.node("GlobalMaxPool", b.node("Abs", x)), b.constant(ONE)))


def inverted(b, x):
    return b.node("Div", b.constant(ONE), b.node("Add", b.node("Abs", x), b.constant(ONE)))


def everywhere(b, x):
    """A factor for each place, the same for all channels."""
    return b.node("Mul", x, b.node("Sigmoid", b.conv(x, 12, 1, kernel=1)))


def block(inside, *, channels=12, after=None):
    """Return a graph with a depthwise convolution in the middle of a block."""
    b = Builder()
    x = b.node("Relu", b.conv("images", 3, 8))
    y = b.node("Relu", b.conv(x, 8, channels, kernel=1))
    y = inside(b, b.conv(y, channels, channels, group=channels))
    y = after(b, y) if after else b.node("Relu", b.conv(y, channels, 16, kernel=1))
    return clean(b.model(b.head(y, 16)))


def widths(model):
    view = View(model)
    return sorted(view.shape(node.input[1])[0] for node in view.nodes if view.is_depthwise(node))


@pytest.mark.parametrize("inside", [plain, squeeze, scaled, residual, twice, everywhere, divided, inverted])
def test_channels_are_added_to_a_depthwise_convolution_and_change_nothing(inside, photos_like):
    before = block(inside)
    after = with_padded_channels(View(before), "onnxruntime").model
    assert set(widths(before)) == {12}
    assert set(widths(after)) == {16}
    np.testing.assert_allclose(run(after, photos_like), run(before, photos_like), atol=1e-5)
    exact, made = run(before, photos_like), run(quantized(after, "onnxruntime", photos_like), photos_like)
    np.testing.assert_allclose(made, exact, atol=0.05 * np.ptp(exact))


def test_a_weight_that_two_convolutions_share_is_filled_for_the_one_that_needs_it(photos_like):
    b = Builder()
    x = b.node("Relu", b.conv("images", 3, 12))
    shared = b.constant(b.random.normal(0, 0.3, (12, 12, 1, 1)).astype(np.float32))
    y = b.conv(b.node("Relu", b.node("Conv", x, shared)), 12, 12, group=12)
    z = b.node("Concat", b.node("Conv", x, shared), b.conv(b.node("Relu", y), 12, 4, kernel=1), axis=1)
    before = clean(b.model(b.head(z, 16)))
    after = with_padded_channels(View(before), "onnxruntime").model
    assert widths(after) == [16]
    np.testing.assert_allclose(run(after, photos_like), run(before, photos_like), atol=1e-5)


def concatenated(b, y):
    return b.node("Relu", b.conv(b.node("Concat", y, y, axis=1), 24, 16, kernel=1))


def shuffled(b, y):
    split = b.node("Reshape", y, b.constant(np.array([0, 2, 6, 16, 16], np.int64)))
    mixed = b.node("Transpose", split, perm=[0, 2, 1, 3, 4])
    return b.conv(b.node("Reshape", mixed, b.constant(np.array([0, 12, 16, 16], np.int64))), 12, 16, kernel=1)


def normalized(b, y):
    scale, shift = (b.constant(np.full(12, value, np.float32)) for value in (1, 0))
    return b.conv(b.node("InstanceNormalization", y, scale, shift), 12, 16, kernel=1)


def grouped(b, y):
    return b.node("Concat", b.conv(y, 12, 12, group=3), b.conv(y, 12, 4, group=2), axis=1)


def averaged_over_channels(b, y):
    mean = b.node("ReduceMean", y, b.constant(np.array([1], np.int64)), keepdims=1)
    return b.conv(b.node("Concat", b.conv(y, 12, 15, kernel=1), mean, axis=1), 16, 16, kernel=1)


@pytest.mark.parametrize("after", [concatenated, shuffled, normalized, grouped, averaged_over_channels])
def test_where_more_would_be_noticed_the_channels_stay(after):
    view = View(block(plain, after=after))
    assert with_padded_channels(view, "onnxruntime") is view


def test_so_does_what_the_graph_gives_away():
    b = Builder()
    x = b.conv(b.conv("images", 3, 12), 12, 12, group=12)
    view = View(clean(b.model(b.head(x, 12))))
    assert with_padded_channels(view, "onnxruntime") is view  # the head reads flattened channels


@pytest.mark.parametrize("runtime", ["openvino", "tensorrt"])
def test_other_runtimes_get_the_channels_as_they_are(runtime):
    view = View(block(plain))
    assert with_padded_channels(view, runtime) is view


def test_whole_sixteens_stay():
    view = View(block(plain, channels=32))
    assert with_padded_channels(view, "onnxruntime") is view


def squeezed(bias):
    """Return a graph whose squeeze and excitation lets next to nothing pass, for which the next layer makes up."""
    b = Builder()
    y = b.node("Relu", b.conv(b.node("Relu", b.conv("images", 3, 8)), 8, 12, kernel=1))
    x = b.conv(y, 12, 12, group=12)
    s = b.node("Relu", b.conv(b.node("GlobalAveragePool", x), 12, 4, kernel=1))
    inner = b.constant(b.random.normal(0, 0.3, (12, 4, 1, 1)).astype(np.float32))
    gate = b.node("Sigmoid", b.node("Conv", s, inner, b.constant(np.full(12, bias, np.float32))))
    outer = b.random.normal(0, (1 + np.exp(-bias)) / 4, (16, 12, 1, 1)).astype(np.float32)
    y = b.node("Relu", b.node("Conv", b.node("Mul", x, gate), b.constant(outer)))
    return clean(b.model(b.head(y, 16)))


def test_what_is_added_widens_no_range(photos_like):
    """A channel of zeros would be 0.5 behind the sigmoid, a hundred times what the others are."""
    before = squeezed(-5.0)
    exact = run(before, photos_like)
    errors = [
        np.abs(run(quantized(graph, "onnxruntime", photos_like), photos_like) - exact).mean()
        for graph in (before, with_padded_channels(View(before), "onnxruntime").model)
    ]
    assert errors[1] < 1.5 * errors[0]


def test_blocks_keep_their_names():
    """People name them by hand, as they are told them."""
    b = Builder()
    x = b.node("Relu", b.conv("images", 3, 8))
    y = b.node("Relu", b.conv(x, 8, 12, kernel=1))
    y = b.node("Relu", b.conv(b.node("Relu", b.conv(y, 12, 12, group=12)), 12, 8, kernel=1))
    view = View(clean(b.model(b.head(b.node("Relu", b.conv(b.node("Add", x, y), 8, 16)), 16))))
    padded = with_padded_channels(view, "onnxruntime")
    assert widths(padded.model) == [16]
    assert [block.name for block in blocks_of(padded)] == [block.name for block in blocks_of(view)]


def test_scales_that_were_trained_fit_the_filled_graph(photos_like):
    before = View(block(squeeze))
    found = calibrate(before, Scheme(runtime="onnxruntime", integer_hard_sigmoids=False), [photos_like]).scales()
    scheme = Scheme(runtime="onnxruntime", trained={name: (scale.scale, scale.zero) for name, scale in found.items()})
    plain, filled = (
        run(calibrate(view, scheme, []).graph(), photos_like)
        for view in (before, with_padded_channels(before, "onnxruntime"))
    )
    np.testing.assert_allclose(filled, plain, atol=1e-5)


def test_no_channel_is_added_that_is_divided_by_zero(photos_like):
    def by_its_largest(b, x):
        return b.node("Div", x, b.node("GlobalMaxPool", b.node("Abs", x)))

    before = block(by_its_largest)
    after = with_padded_channels(View(before), "onnxruntime").model
    assert set(widths(after)) == {16}
    np.testing.assert_allclose(run(after, photos_like), run(before, photos_like), atol=1e-5)
