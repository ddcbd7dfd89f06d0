"""Graphs of other frameworks in plain form: known shapes, padding convolutions, no transposes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tlopt.graphs.cleaning import clean
from tlopt.graphs.rewriting.pads import merge_lowest_pads, merge_pads
from tlopt.graphs.rewriting.transposes import cancel_transposes
from tlopt.graphs.shapes import fold_shapes
from tlopt.sessions import open_session

FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # where a Transpose puts the channels
WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)


def graph(nodes, shape, output, **constants):
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)], values,
    )  # fmt: skip
    return clean(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def counted(model):
    return Counter(node.op_type for node in model.graph.node)


def same(before, after, shape):
    onnx.checker.check_model(after)
    inputs = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    wanted, found = (open_session(model).run(None, {"x": inputs})[0] for model in (before, after))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], name=output, **attributes)


def test_arithmetic_on_a_known_height_is_done_but_the_batch_stays_free():
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s two", "h"), node("Add", "h one", "h1"), node("Div", "h1 two1", "d"),
        node("Unsqueeze", "d zero", "d0"), node("Gather", "s zero0", "n"), node("Unsqueeze", "n zero", "n0"),
        node("Concat", "n0 minus d0", "shape", axis=0), node("Reshape", "x shape", "y"),
    ]  # fmt: skip
    before = graph(
        nodes, ["n", 2, 7, 4], ["n", "a", "b"], two=np.int64(2), one=np.int64(1), two1=np.int64(2),
        zero=np.int64([0]), zero0=np.int64(0), minus=np.int64([-1]),
    )  # fmt: skip
    after = fold_shapes(before)
    assert counted(after)["Div"] == 0
    assert counted(after)["Shape"] == 1
    same(before, after, (3, 2, 7, 4))


def test_shapes_that_are_known_whole_leave_nothing_behind():
    nodes = [
        node("Shape", "x", "s"), node("Slice", "s two three", "hw"), node("Concat", "ones hw", "shape", axis=0),
        node("Expand", "c shape", "e"), node("Mul", "x e", "y"),
    ]  # fmt: skip
    before = graph(
        nodes, ["n", 2, 5, 4], ["n", 2, 5, 4], two=np.int64([2]), three=np.int64([4]), ones=np.int64([1, 1]),
        c=np.float32([[[[2]]]]),
    )  # fmt: skip
    after = fold_shapes(before)
    assert counted(after) == {"Mul": 1}
    same(before, after, (3, 2, 5, 4))


@pytest.mark.parametrize("own", [None, [1, 0, 0, 1]])
def test_a_convolution_takes_over_zeros(own):
    attributes = {} if own is None else {"pads": own}
    nodes = [node("Pad", "x pads", "p"), node("Conv", "p w", "y", **attributes)]
    before = graph(nodes, ["n", 3, 8, 8], ["n", 4, "h", "v"], pads=np.int64([0, 0, 1, 2, 0, 0, 0, 1]), w=WEIGHT)
    after = merge_pads(before)
    assert counted(after) == {"Conv": 1}
    same(before, after, (2, 3, 8, 8))


@pytest.mark.parametrize(
    ("pads", "more", "attributes"),
    [
        ([0, 1, 1, 1, 0, 0, 1, 1], {}, {}),  # channels
        ([0, 0, -1, 0, 0, 0, 0, 0], {}, {}),
        ([0, 0, 1, 1, 0, 0, 1, 1], {"fill": np.float32(1)}, {}),
        ([0, 0, 1, 1, 0, 0, 1, 1], {}, {"mode": "reflect"}),
    ],
)
def test_other_padding_stays(pads, more, attributes):
    channels = 3 + pads[1] + pads[5]
    weight = np.ones((4, channels, 3, 3), np.float32)
    inputs = " ".join(["x", "pads", *more])
    nodes = [node("Pad", inputs, "p", **attributes), node("Conv", "p w", "y")]
    before = graph(nodes, ["n", 3, 8, 8], ["n", 4, "h", "v"], pads=np.int64(pads), w=weight, **more)
    assert counted(merge_pads(before)) == {"Pad": 1, "Conv": 1}


@pytest.mark.parametrize("fill", [-np.inf, np.finfo(np.float32).min])
@pytest.mark.parametrize("own", [None, [1, 0, 0, 1]])
def test_a_maximum_pool_leaves_out_the_lowest_numbers(fill, own):
    how = {"kernel_shape": [3, 3], "strides": [2, 2], **({} if own is None else {"pads": own})}
    nodes = [node("Pad", "x pads fill", "p"), node("MaxPool", "p", "y", **how)]
    before = graph(
        nodes, ["n", 3, 8, 8], ["n", 3, "h", "v"], pads=np.int64([0, 0, 1, 1, 0, 0, 0, 1]), fill=np.float32(fill)
    )
    after = merge_lowest_pads(before)
    assert counted(after) == {"MaxPool": 1}
    same(before, after, (2, 3, 8, 8))


@pytest.mark.parametrize(
    ("pads", "fill", "attributes"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 0, {}),
        ([0, 0, 1, 1, 0, 0, 1, 1], -np.inf, {"ceil_mode": 1}),
        ([0, 0, 3, 0, 0, 0, 0, 0], -np.inf, {}),  # a whole window
        ([0, 1, 0, 0, 0, 0, 0, 0], -np.inf, {}),  # channels
    ],
)
def test_other_borders_of_maximum_pools_stay(pads, fill, attributes):
    nodes = [node("Pad", "x pads fill", "p"), node("MaxPool", "p", "y", kernel_shape=[3, 3], **attributes)]
    before = graph(nodes, ["n", 3, 8, 8], ["n", 3 + pads[1], "h", "v"], pads=np.int64(pads), fill=np.float32(fill))
    assert merge_lowest_pads(before) is before


def channels_last(*inner, **constants):
    """Return a graph with the channels last around two convolutions, and these nodes from a to b between."""
    nodes = [
        node("Transpose", "x", "t", perm=FIRST), node("Conv", "t w", "c"), node("Transpose", "c", "a", perm=LAST),
        *inner, node("Transpose", "b", "u", perm=FIRST), node("Conv", "u v", "y"),
    ]  # fmt: skip
    square = np.random.default_rng(2).normal(size=(2, 4, 1, 1)).astype(np.float32)
    return graph(nodes, ["n", 8, 8, 3], ["n", 2, "h", "v2"], w=WEIGHT, v=square, **constants)


@pytest.mark.parametrize(
    "inner",
    [
        [node("Relu", "a", "b")],
        [node("Mul", "a k", "m"), node("Add", "m k", "b")],
        [node("Add", "a one", "b")],
        [node("Sigmoid", "a", "s"), node("Mul", "a s", "b")],
        [node("Pad", "a pads", "b")],
        [node("Relu", "a", "r"), node("Concat", "a r", "c2", axis=3), node("Slice", "c2 from to three", "b")],
        [node("ReduceMean", "a plane", "g", keepdims=1), node("Mul", "a g", "b")],
    ],
    ids=["relu", "scale", "scalar", "swish", "pad", "concat", "squeeze"],
)
def test_transposes_between_convolutions_go(inner):
    before = channels_last(
        *inner, k=np.float32([1, 2, 3, 4]), one=np.float32(0.5), plane=np.int64([1, 2]),
        pads=np.int64([0, 1, 0, 0, 0, 0, 2, 0]), **{"from": np.int64([2]), "to": np.int64([6]), "three": np.int64([3])},
    )  # fmt: skip
    after = cancel_transposes(before)
    assert counted(after)["Transpose"] == (3 if inner[-1].op_type == "Slice" else 1)
    same(before, after, (2, 8, 8, 3))


def test_what_is_done_to_the_image_first_is_done_behind_its_transpose():
    nodes = [
        node("Sub", "x mean", "a"), node("Pad", "a pads", "b"), node("Transpose", "b", "t", perm=FIRST),
        node("Conv", "t w", "y"),
    ]  # fmt: skip
    before = graph(
        nodes, ["n", 8, 8, 3], ["n", 4, "h", "v"], mean=np.float32([1, 2, 3]), w=WEIGHT,
        pads=np.int64([0, 1, 1, 0, 0, 0, 1, 0]),
    )  # fmt: skip
    after = cancel_transposes(before)
    assert [one.op_type for one in after.graph.node] == ["Transpose", "Sub", "Pad", "Conv"]
    same(before, after, (2, 8, 8, 3))


def test_a_mean_of_the_plane_is_a_pool():
    nodes = [
        node("Transpose", "x", "t", perm=FIRST), node("Conv", "t w", "c"), node("Transpose", "c", "a", perm=LAST),
        node("Relu", "a", "r"), node("ReduceMean", "r plane", "y", keepdims=0),
    ]  # fmt: skip
    before = graph(nodes, ["n", 8, 8, 3], ["n", 4], w=WEIGHT, plane=np.int64([1, 2]))
    after = cancel_transposes(before)
    assert counted(after) == {"Transpose": 1, "Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1}
    same(before, after, (2, 8, 8, 3))


def test_a_graph_without_transposes_is_the_same_object():
    before = graph([node("Conv", "x w", "y")], ["n", 3, 8, 8], ["n", 4, "h", "v"], w=WEIGHT)
    assert cancel_transposes(before) is before
    assert merge_pads(before) is before
    assert fold_shapes(before) is before
