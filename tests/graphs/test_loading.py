"""ONNX files become graphs that every step can look into."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_graphs import Builder

from tlopt.graphs.loading import load_graph
from tlopt.sessions import open_session


def test_functions_of_a_file_are_written_out(tmp_path):
    """As torch 2.1 to 2.4 and exporters of whole modules write them: one calls another, and hands on an attribute."""
    slope = onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    leak = helper.make_node("LeakyRelu", ["a"], ["b"])
    leak.attribute.append(slope)
    given = onnx.AttributeProto(name="slope", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    inner = helper.make_node("Leak", ["c"], ["d"], domain="mine")
    inner.attribute.append(given)
    whole = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    functions = [
        helper.make_function("mine", "Leak", ["a"], ["b"], [leak], whole[:1], ["slope"]),
        helper.make_function(
            "mine", "Block", ["x", "w"], ["d"], [helper.make_node("Conv", ["x", "w"], ["c"]), inner], whole, ["slope"]
        ),
    ]
    weight = np.random.default_rng(0).normal(size=(3, 3, 2, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Block", ["images", "w"], ["t"], domain="mine", slope=0.3),
        helper.make_node("Block", ["t", "w"], ["y"], domain="mine", slope=0.2),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 4, 4])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=whole, functions=functions, ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    made = load_graph(tmp_path / "net.onnx")
    assert not made.functions
    assert [node.op_type for node in made.graph.node] == ["Conv", "LeakyRelu"] * 2
    inputs = np.random.default_rng(1).normal(size=(2, 3, 6, 6)).astype(np.float32)
    wanted, found = (open_session(one).run(None, {"images": inputs})[0] for one in (model, made))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("open_length", [-1, 0])
def test_a_length_of_minus_one_or_of_nothing_is_open(open_length, tmp_path):
    """As Paddle2ONNX and MXNet write the number of images."""
    b = Builder()
    model = b.model(b.head(b.conv("images", 3, 4), 4))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = open_length
    known = helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, [-1, 4, 16, 16])
    model.graph.value_info.append(known)
    onnx.save(model, tmp_path / "net.onnx")
    made = load_graph(tmp_path / "net.onnx")
    for value in (*made.graph.input, *made.graph.output, *made.graph.value_info):
        assert not value.type.tensor_type.shape.dim[0].HasField("dim_value")
    answers = open_session(made).run(None, {"images": np.zeros((7, 3, 16, 16), np.float32)})[0]
    assert answers.shape == (7, 5)


def test_a_weight_without_elements_keeps_its_length(tmp_path):
    """Files of IR 3 list weights among the inputs; the regions of a Resize are such a weight."""
    b = Builder()
    sizes = b.constant(np.array([1, 1, 2, 2], np.float32))
    x = b.node("Resize", b.conv("images", 3, 4), b.constant(np.zeros(0, np.float32), "regions"), sizes)
    model = b.model(b.head(x, 4))
    model.graph.input.append(helper.make_tensor_value_info("regions", TensorProto.FLOAT, [0]))
    onnx.save(model, tmp_path / "net.onnx")
    (regions,) = (value for value in load_graph(tmp_path / "net.onnx").graph.input if value.name == "regions")
    assert regions.type.tensor_type.shape.dim[0].HasField("dim_value")
