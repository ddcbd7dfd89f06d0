"""A graph that answers otherwise than the network it was made of is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tlopt.errors import CheckError
from tlopt.imports.formats import comparison
from tlopt.imports.formats.comparison import Original, examples, filled


def graph():
    """Return a graph of means over the image plane."""
    nodes = [helper.make_node("ReduceMean", ["image"], ["answer"], axes=[1, 2], keepdims=0)]
    ends = (helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 4, 6, 3]),
            helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 3]))  # fmt: skip
    made = helper.make_graph(nodes, "net", ends[:1], ends[1:])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_graph_is_compared_image_by_image():
    inputs = examples((6, 4, 6, 3), np.float32)
    wanted = inputs.mean((1, 2))
    comparison.check(Original(graph=graph(), inputs=inputs, answers=[wanted], runtime="it"), Path("net"))
    wanted = wanted.copy()
    wanted[1, 0] *= 1.1  # of pixels of 0 to 1, beside which others of 0 to 255 are large
    with pytest.raises(CheckError, match="otherwise than it on 6 generated images, in the output 'answer'"):
        comparison.check(Original(graph=graph(), inputs=inputs, answers=[wanted], runtime="it"), Path("net"))


def test_other_answers_are_no_match():
    inputs = examples((6, 4, 6, 3), np.float32)
    with pytest.raises(CheckError):
        comparison.check(
            Original(graph=graph(), inputs=inputs, answers=[np.zeros((6, 4), np.float32)], runtime="it"), Path("net")
        )
    inputs[0] = np.nan
    with pytest.raises(CheckError):
        comparison.check(
            Original(graph=graph(), inputs=inputs, answers=[np.zeros((6, 3), np.float32)], runtime="it"), Path("net")
        )


def test_an_image_on_which_the_network_overflows_says_nothing():
    inputs = examples((6, 4, 6, 3), np.float32)
    wanted = inputs.mean((1, 2))
    wanted[0] = np.inf
    comparison.check(Original(graph=graph(), inputs=inputs, answers=[wanted], runtime="it"), Path("net"))


@pytest.mark.parametrize(
    ("shape", "size", "width", "wanted"),
    [
        ((None, None, None, 3), None, None, (6, 224, 224, 3)),
        ((None, None, None, 3), 32, None, (6, 32, 32, 3)),
        ((None, 3, None, None), 32, 48, (6, 3, 32, 48)),
        ((1, 64, 48, 3), 32, None, (1, 64, 48, 3)),
        ((None, 28, 28, 1), None, None, (6, 28, 28, 1)),
    ],
)
def test_free_lengths_are_filled_in(shape, size, width, wanted):
    assert filled(shape, size, width) == wanted
    assert examples(wanted, np.float32).shape == wanted


def test_examples_have_the_scales_that_networks_are_trained_with():
    found = examples((6, 3, 32, 32), np.float32)
    assert found[[0, 3]].max() > 100
    assert 0 <= found[[1, 4]].min() <= found[[1, 4]].max() <= 1
    assert -1 <= found[[2, 5]].min() < 0
    assert examples((2, 32, 32, 3), np.uint8).dtype == np.uint8
