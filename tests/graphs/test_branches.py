"""Branches that shapes decide go, and the answers stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tlopt.errors import ArtifactError
from tlopt.graphs.branches import settle_branches
from tlopt.graphs.cleaning import clean
from tlopt.sessions import open_session


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def branch(name, *nodes, output, constants=()):
    made = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    return helper.make_graph(list(nodes), name, [], [made], list(constants))


def graph(condition, *, sides=("n", 3, 4, 4), then=None, other=None, constants=()):
    """Return a graph that answers with one of two branches; the tensor `asked` decides."""
    then = then or branch("then", helper.make_node("Relu", ["x"], ["inner"]), output="inner")
    other = other or branch("else", helper.make_node("Neg", ["x"], ["inner"]), output="inner")
    nodes = [*condition, helper.make_node("If", ["asked"], ["y"], then_branch=then, else_branch=other)]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, sides)],
        [constant("axis", np.int64(1)), constant("three", np.int64(3)), *constants],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def channels_are_three():
    return [
        helper.make_node("Shape", ["x"], ["sides"]), helper.make_node("Gather", ["sides", "axis"], ["channels"]),
        helper.make_node("Equal", ["channels", "three"], ["asked"]),
    ]  # fmt: skip


def kinds(model):
    return [node.op_type for node in model.graph.node]


def same(before, after):
    inputs = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)
    wanted, found = (open_session(model).run(None, {"x": inputs})[0] for model in (before, after))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("turned", "kind"), [(False, "Relu"), (True, "Neg")])
def test_the_branch_that_is_always_taken_stays(turned, kind):
    condition = channels_are_three()
    if turned:
        condition[-1].output[0] = "is_three"
        condition.append(helper.make_node("Not", ["is_three"], ["asked"]))
    before = graph(condition)
    after = settle_branches(before)
    assert kinds(after) == [kind, "Identity"]
    same(before, after)
    same(before, clean(before))


def test_branches_within_branches_follow():
    inside = branch("inside", helper.make_node("Abs", ["x"], ["inner2"]), output="inner2")
    otherwise = branch("otherwise", helper.make_node("Exp", ["x"], ["inner2"]), output="inner2")
    nested = helper.make_node("If", ["asked"], ["inner"], then_branch=inside, else_branch=otherwise)
    before = graph(channels_are_three(), then=branch("then", nested, output="inner"))
    after = clean(before)
    assert kinds(after) == ["Abs"] or kinds(after) == ["Abs", "Identity"]
    same(before, after)


def test_names_of_a_branch_never_meet_those_outside():
    then = branch(
        "then",
        helper.make_node("Add", ["x", "one"], ["inner"]),
        output="inner",
        constants=[constant("one", np.float32(1))],
    )
    before = graph(channels_are_three(), then=then)
    twice = onnx.ModelProto.FromString(before.SerializeToString())
    again = onnx.NodeProto.FromString(twice.graph.node[-1].SerializeToString())
    again.output[0] = "z"
    twice.graph.node.append(again)
    twice.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3, 4, 4]))
    after = settle_branches(twice)
    onnx.checker.check_model(after, full_check=True)
    same(twice, after)


def test_a_branch_may_answer_with_a_tensor_from_outside():
    before = graph(
        channels_are_three(), then=branch("then", helper.make_node("Identity", ["x"], ["inner"]), output="inner")
    )
    same(before, clean(before))


@pytest.mark.parametrize("sides", [("n", 3, 4, 4), ("n", "c", 4, 4)])
def test_what_pixels_or_free_axes_decide_stays_a_branch(sides):
    values = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "limit"], ["asked"]),
    ]
    before = graph(
        values if sides[1] == 3 else channels_are_three(), sides=sides, constants=[constant("limit", np.float32(0))]
    )
    assert settle_branches(before) is before
    with pytest.raises(ArtifactError, match="control flow"):
        clean(before)


@pytest.mark.parametrize("asks", ["Equal", "Greater"])
def test_what_the_number_of_images_decides_stays_a_branch(asks):
    """It may be false for every number that was tried, and true for another."""
    condition = channels_are_three()
    condition[1].input[1] = "first"
    condition[2] = helper.make_node(asks, ["channels", "many"], ["asked"])
    before = graph(condition, constants=[constant("first", np.int64(0)), constant("many", np.int64(40))])
    assert settle_branches(before) is before


def test_what_the_number_of_found_values_decides_stays_a_branch():
    found = [
        helper.make_node("Greater", ["x", "zero"], ["bright"]), helper.make_node("NonZero", ["bright"], ["places"]),
        helper.make_node("Shape", ["places"], ["sides"]), helper.make_node("Gather", ["sides", "axis"], ["count"]),
        helper.make_node("Equal", ["count", "none"], ["asked"]),
    ]  # fmt: skip
    before = graph(found, constants=[constant("zero", np.float32(0)), constant("none", np.int64(0))])
    assert settle_branches(before) is before


def test_an_input_without_a_shape_leaves_its_branches():
    before = graph(channels_are_three())
    before.graph.input[0].type.tensor_type.ClearField("shape")
    assert settle_branches(before) is before


def test_nodes_of_branches_may_have_the_names_of_others():
    nested = helper.make_node("If", ["asked"], ["inner"], name="same")
    for side, kind in (("then_branch", "Abs"), ("else_branch", "Exp")):
        body = branch(side, helper.make_node(kind, ["x"], ["inner2"], name="same"), output="inner2")
        nested.attribute.append(helper.make_attribute(side, body))
    condition = channels_are_three()
    condition[0].name = "same"
    before = graph(condition, then=branch("then", nested, output="inner"))
    same(before, clean(before))


@pytest.mark.filterwarnings("ignore")
def test_a_normalization_over_channels_of_an_older_exporter_is_settled(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.LocalResponseNorm(5)).eval()
    file = tmp_path / "lrn.onnx"
    torch.onnx.export(
        network, (torch.randn(1, 3, 4, 4),), file, dynamo=False, input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}, opset_version=17,
    )  # fmt: skip
    before = onnx.load(file)
    assert "If" in kinds(before)
    after = clean(before)
    assert "If" not in kinds(after)
    inputs = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)
    wanted, found = (open_session(model).run(None, {"x": inputs})[0] for model in (before, after))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
