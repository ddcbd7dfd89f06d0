"""ONNX files become graphs that every step can look into."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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
