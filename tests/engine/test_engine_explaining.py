import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tlopt.engine.building.explaining import explain
from tlopt.engine.layers import Layers


def convolution():
    """A convolution of 3 to 8 channels on 4 x 4 pixels: 3,456 multiply-adds."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "weight"], ["logits"], name="conv", pads=[1, 1, 1, 1])],
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 8, 4, 4])],
        [numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def layers(*rows):
    names = ("type", "inputs")
    more = {"tactic": "", "onnx": ["conv"], "outputs": [], "weights": ""}
    return Layers(
        source="builder log",
        rows=tuple({"name": f"layer{i}", **dict(zip(names, row, strict=True)), **more} for i, row in enumerate(rows)),
    )


@pytest.mark.parametrize(
    ("rows", "inside"),
    [
        ([("kgen", ["Float"]), ("correlation", ["Int8"]), ("kgen", ["Float"])], 3456),
        ([("kgen", ["Float"]), ("correlation", ["Float"]), ("kgen", ["Int8", "Float"])], 0),
        ([("runtime_fusion", ["Int8"])], 3456),
        ([("CaskConvolution", ["Float"])], 0),
    ],
)
def test_a_node_computes_in_what_its_convolution_reads_not_in_what_the_kernels_around_it_read(rows, inside):
    found = explain(layers(*rows), convolution(), "int8")
    assert (found.inside, found.macs) == (inside, 3456)
    assert [stray.layer for stray in found.strays] == ([] if inside else [f"layer{min(1, len(rows) - 1)}"])


def test_a_node_that_no_layer_names_counts_as_outside():
    found = explain(layers(), convolution(), "int8")
    assert (found.heavy, found.inside, found.macs) == (0, 0, 3456)
