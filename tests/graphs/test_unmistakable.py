"""What OpenVINO would misread is written another way, and answers as before."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tlopt.graphs.unmistakable import unmistakable
from tlopt.sessions import open_session

ORDER = [2, 0, 3, 1]  # not its own inverse


def graph(opset, *nodes, shape=("n", 4, 7, 8), ir=4, **constants):
    """Return a graph x -> y of nodes (operator, inputs, outputs, attributes)."""
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(
        [helper.make_node(kind, inputs.split(), outputs.split(), **given) for kind, inputs, outputs, given in nodes],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)], values,
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def weight(channels=4):
    return np.random.default_rng(0).normal(size=(5, channels, 3, 3)).astype(np.float32)


def alike(before, shape=(2, 4, 7, 8)):
    """Compare both runtimes on the graph that both read, with ONNX Runtime on the graph as it was."""
    openvino = pytest.importorskip("openvino")
    made = unmistakable(before)
    onnx.checker.check_model(made, full_check=True)
    inputs = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    wanted, own = (open_session(model).run(None, {"x": inputs})[0] for model in (before, made))
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    found = core.compile_model(core.read_model(made.SerializeToString()), "CPU", exact)(inputs)[0]
    # Sums of some hundred products in float32, in another order.
    np.testing.assert_allclose(own, wanted, atol=1e-5)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("places", [ORDER, [-2, 0, -1, 1]])
def test_channels_in_another_order_stay_in_it(places):
    alike(graph(13, ("Gather", "x c", "t", {"axis": 1}), ("Conv", "t w", "y", {}), c=np.array(places), w=weight()))


def test_an_order_may_come_from_a_constant_node():
    order = numpy_helper.from_array(np.array(ORDER))
    nodes = (("Constant", "", "c", {"value": order}), ("Gather", "x c", "t", {"axis": 1}), ("Conv", "t w", "y", {}))
    alike(graph(13, *nodes, w=weight()))


def test_channels_that_lie_last_stay_in_their_order():
    turn, back = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}
    nodes = (("Transpose", "x", "a", turn), ("Gather", "a c", "b", {"axis": 3}), ("Transpose", "b", "t", back))
    alike(graph(13, *nodes, ("Conv", "t w", "y", {}), c=np.array(ORDER), w=weight()))


def test_channels_that_are_split_and_joined_stay_in_their_order():
    nodes = (("Split", "x", "p q r s", {"axis": 1}), ("Concat", "r p s q", "t", {"axis": 1}), ("Conv", "t w", "y", {}))
    alike(graph(13, *nodes, w=weight()))


@pytest.mark.parametrize("opset", [10, 11, 19])
@pytest.mark.parametrize(("window", "stride", "pad"), [(3, 2, 1), (4, 3, 2), (5, 2, 2)])
def test_means_count_no_place_beyond_their_padding(opset, window, stride, pad):
    how = {"kernel_shape": [window] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    alike(graph(opset, ("AveragePool", "x", "y", {**how, "ceil_mode": 1, "count_include_pad": 1})))


@pytest.mark.parametrize("padding", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(
    ("size", "stride", "shape"), [(3, 2, [14, 16]), (4, 2, [15, 17]), (5, 3, [21, 24]), (2, 3, [])]
)
def test_transposed_convolutions_leave_out_the_same_border(padding, size, stride, shape):
    how = {"strides": [stride] * 2, "auto_pad": padding, **({"output_shape": shape} if shape else {})}
    weight = np.random.default_rng(0).normal(size=(4, 5, size, size)).astype(np.float32)
    alike(graph(13, ("ConvTranspose", "x w", "y", how), w=weight))


def test_graphs_that_are_read_alike_stay_as_they_are():
    whole = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}
    for before in (
        graph(13, ("Gather", "x c", "y", {"axis": 1}), c=np.array([0, 1, 2, 3])),
        graph(13, ("Gather", "x c", "y", {"axis": 1}), c=np.array([0, 2, 2, 1])),
        graph(13, ("Gather", "x c", "y", {"axis": 1}), c=np.array(1)),
        graph(13, ("Gather", "x c", "y", {"axis": -3}), c=np.array(ORDER)),
        graph(13, ("Split", "x", "p q", {"axis": 1}), ("Concat", "p q", "y", {"axis": 1})),
        graph(13, ("Concat", "x x", "y", {"axis": 1})),
        graph(13, ("AveragePool", "x", "y", whole)),
        graph(13, ("AveragePool", "x", "y", {**whole, "count_include_pad": 1}), shape=("n", 4, 7, 9)),
    ):
        assert unmistakable(before) == before


def softmax(opset, axis, **more):
    return graph(opset, ("Softmax", "x", "y", {} if axis is None else {"axis": axis}), **more)


@pytest.mark.parametrize("opset", [11, 12])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3, -1])
def test_a_softmax_looks_over_all_axes_from_its_own_on(opset, axis):
    alike(softmax(opset, axis))


def test_a_softmax_that_cannot_be_misread_stays_as_it_is():
    for before in (softmax(12, 3), softmax(9, 1), softmax(13, 1)):
        assert unmistakable(before) is before


def test_a_softmax_over_the_classes_of_one_pixel_stays_as_it_is():
    before = softmax(12, 1, shape=("n", 9, 1, 1))
    assert unmistakable(before) is before


def tiled_norm(shape):
    """Return what torch writes for an InstanceNorm2d with running statistics, between convolutions."""
    nodes = (
        ("Conv", "x v", "a", {"pads": [1] * 4}), ("Reshape", "a whole", "b", {}), ("Shape", "a", "sides", {}),
        ("Slice", "sides zero one", "times", {}), ("Tile", "s times", "p", {}), ("Tile", "m times", "q", {}),
        ("BatchNormalization", "b p q q p", "c", {}), ("Reshape", "c ends", "d", {}), ("Conv", "d w", "y", {}),
    )  # fmt: skip
    small = 0.1 * weight()  # so that sums are
    s, m = np.array([0.5, 2, 3, 1], np.float32), np.array([0.3, -1, 2, 0], np.float32)
    places = {"whole": np.array([1, -1, 7, 8]), "ends": np.array([-1, 4, 7, 8]), "zero": np.array([0])}
    return graph(13, *nodes, shape=shape, v=small[:4], w=small, s=s, m=m, one=np.array([1]), **places)


@pytest.mark.parametrize("shape", [("n", 4, 7, 8), (2, 4, 7, 8)])
def test_channels_of_all_images_side_by_side_are_normalized_for_each_image(shape):
    before = tiled_norm(shape)
    alike(before)
    assert [node.op_type for node in unmistakable(before).graph.node] == ["Conv", "BatchNormalization", "Conv"]


def test_norms_of_one_image_repeat_nothing():
    before = tiled_norm((1, 4, 7, 8))
    alike(before, shape=(1, 4, 7, 8))
    assert "Tile" not in {node.op_type for node in unmistakable(before).graph.node}


def norm_of_two_images(parameters):
    nodes = (("Reshape", "x whole", "b", {}), ("BatchNormalization", "b p p p p", "c", {}))
    places = {"whole": np.array([1, 8, 7, 8]), "ends": np.array([2, 4, 7, 8])}
    values = np.array(parameters, np.float32)
    return graph(13, *nodes, ("Reshape", "c ends", "y", {}), shape=(2, 4, 7, 8), p=values, **places)


def test_parameters_that_are_stored_for_each_image_are_one_images():
    before = norm_of_two_images([1, 2, 3, 4] * 2)
    alike(before)
    assert [node.op_type for node in unmistakable(before).graph.node] == ["BatchNormalization"]


def test_a_norm_whose_parameters_differ_between_images_stays_as_it_is():
    before = norm_of_two_images(range(1, 9))
    assert unmistakable(before) is before
