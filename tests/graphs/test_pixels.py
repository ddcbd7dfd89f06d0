"""A graph that takes pixels against one that takes what normalize gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_graphs import Builder, mobile

from tlopt.graphs.pixels import FIRST, INPUT, take_pixels
from tlopt.preprocess import Preprocess
from tlopt.sessions import open_session


def graph(layout="nchw", elem_type=TensorProto.FLOAT):
    """A network of another layout or input type than the plain one."""
    builder = Builder()
    model = builder.model(mobile(builder))
    size, first = 16, []
    if elem_type != TensorProto.FLOAT:
        first.append(helper.make_node("Cast", ["images"], ["floats"], "floats", to=TensorProto.FLOAT))
    if layout == "nhwc":
        first.append(helper.make_node("Transpose", [first[-1].output[0] if first else "images"], ["planes"], "planes",
                                      perm=[0, 3, 1, 2]))  # fmt: skip
    if first:
        model.graph.node[0].input[0] = first[-1].output[0]
        for node in reversed(first):
            model.graph.node.insert(0, node)
    shape = ["n", size, size, 3] if layout == "nhwc" else ["n", 3, size, size]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", elem_type, shape))
    return model


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_it_computes_what_the_graph_computes_from_normalized_pixels(layout, channels, elem_type):
    model = graph(layout, elem_type)
    preprocess = Preprocess(size=16, layout=layout, channels=channels, mean=(0.1, 0.4, 0.6), std=(0.2, 0.3, 0.5))
    made = take_pixels(model, preprocess)
    onnx.checker.check_model(made, full_check=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    kind = np.float16 if elem_type == TensorProto.FLOAT16 else np.float32
    (wanted,) = open_session(model).run(None, {"images": preprocess.normalize(pixels).astype(kind)})
    (found,) = open_session(made).run(None, {"images": pixels})
    # The same float32 operations, which ONNX Runtime may fuse; in float16 another rounding of the input.
    np.testing.assert_allclose(found, wanted, atol=1e-5 if kind == np.float32 else 1e-2)


def test_the_graph_itself_stays_as_it_is_and_a_fixed_batch_stays_fixed():
    model = graph()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    before = model.SerializeToString()
    made = take_pixels(model, Preprocess(size=16))
    assert model.SerializeToString() == before
    assert [dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim] == [4, 16, 16, 3]
    assert made.graph.input[0].name == INPUT
    assert FIRST in {name for node in made.graph.node for name in node.input}


def test_a_graph_that_takes_pixels_already_is_the_same():
    model = take_pixels(graph(), Preprocess(size=16))
    assert take_pixels(model, Preprocess(size=16, folded=True)) == model
