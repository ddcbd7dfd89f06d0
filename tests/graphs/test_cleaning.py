"""Operators that ONNX infers no shapes for."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tlopt.graphs.cleaning import clean
from tlopt.graphs.view import View
from tlopt.sessions import open_session

WEIGHT = np.random.default_rng(0).normal(size=(4, 4, 3, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "opset", "length"),
    [("GroupNormalization", 18, 2), ("GroupNormalization", 21, 4), ("GroupNormalization", 23, 4),
     ("MeanVarianceNormalization", 9, 0), ("MeanVarianceNormalization", 13, 0), ("LayerNormalization", 17, 6),
     ("RMSNormalization", 23, 6)],
)  # fmt: skip
def test_the_shapes_behind_a_normalization_are_known(kind, opset, length):
    random = np.random.default_rng(1)
    names = {"GroupNormalization": ["s", "b"], "LayerNormalization": ["s", "b"], "RMSNormalization": ["s"]}.get(
        kind, []
    )
    values = {"w": WEIGHT} | {name: random.normal(size=length).astype(np.float32) for name in names}
    attributes = {"num_groups": 2} if kind == "GroupNormalization" else {}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node(kind, ["c", *names], ["z"], **attributes),
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], pads=[1] * 4),
    ]
    before = helper.make_model(
        helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 5, 6])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 5, 6])],
            [numpy_helper.from_array(value, name) for name, value in values.items()],
        ), opset_imports=[helper.make_opsetid("", opset)], ir_version=9,
    )  # fmt: skip
    after = clean(before)
    view = View(after)
    assert view.shape("r") == (0, 4, 5, 6)
    assert view.is_float("z")
    assert [node.op_type for node in after.graph.node] == ["Conv", kind, "Relu", "Conv"]
    inputs = random.normal(size=(2, 4, 5, 6)).astype(np.float32)
    wanted, found = (open_session(model).run(None, {"x": inputs})[0] for model in (before, after))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_name_that_is_made_is_no_other_nodes():
    nodes = [
        helper.make_node("Relu", ["images"], ["a"], name="Relu_1"), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"], name="Relu_1"),
    ]  # fmt: skip
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("images", "y")]
    made = clean(helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:])))
    assert len({node.name for node in made.graph.node}) == 3


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3]])
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_a_resize_of_some_axes_becomes_one_of_all(axes, by):
    values = {"s": np.float32([2, 1.5][: len(axes)]) if by == "scales" else np.array([7, 9][: len(axes)])}
    inputs = ["x", "", "s"] if by == "scales" else ["x", "", "", "s"]
    before = helper.make_model(
        helper.make_graph(
            [helper.make_node("Resize", inputs, ["y"], mode="linear", axes=axes)], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 5, 6])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, None, None])],
            [numpy_helper.from_array(value, name) for name, value in values.items()],
        ), opset_imports=[helper.make_opsetid("", 18)], ir_version=9,
    )  # fmt: skip
    after = clean(before)
    assert [item.name for item in after.graph.node[0].attribute] == ["mode"]
    photo = np.random.default_rng(1).normal(size=(2, 4, 5, 6)).astype(np.float32)
    wanted, found = (open_session(model).run(None, {"x": photo})[0] for model in (before, after))
    # A factor may be one rounding larger, so that no pixel is lost.
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3]])
def test_a_pad_of_some_axes_becomes_one_of_all(axes):
    values = {"p": np.arange(1, 2 * len(axes) + 1), "v": np.float32(0.5), "a": np.array(axes)}
    before = helper.make_model(
        helper.make_graph(
            [helper.make_node("Pad", ["x", *values], ["y"])], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 5, 6])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, None, None])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
        ), opset_imports=[helper.make_opsetid("", 18)], ir_version=9,
    )  # fmt: skip
    after = clean(before)
    assert len(after.graph.node[0].input) == 3
    inputs = np.random.default_rng(1).normal(size=(2, 4, 5, 6)).astype(np.float32)
    wanted, found = (open_session(model).run(None, {"x": inputs})[0] for model in (before, after))
    np.testing.assert_array_equal(found, wanted)
