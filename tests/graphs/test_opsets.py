"""Graphs of old opsets give the same answers in the new one."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter

from tlopt.errors import ArtifactError
from tlopt.graphs import opsets
from tlopt.graphs.cleaning import clean
from tlopt.sessions import open_session


def graph(opset, kind, *constants, **attributes):
    values = [numpy_helper.from_array(np.asarray(value), f"c{index}") for index, value in enumerate(constants)]
    node = helper.make_node(kind, ["x", *(value.name for value in values)], ["y"], **attributes)
    made = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 6, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, None, None])], values,
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)


def same(before, after):
    inputs = np.random.default_rng(1).normal(size=(2, 2, 6, 8)).astype(np.float32)
    wanted, found = (open_session(model).run(None, {"x": inputs})[0] for model in (before, after))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2, 2), (1.5, 3), (0.75, 0.5)])
def test_resizes_sample_where_they_did(mode, scales):
    before = graph(10, "Resize", np.float32([1, 1, *scales]), mode=mode)
    same(before, clean(before))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsamples_sample_where_they_did(mode):
    for before in (
        graph(7, "Upsample", mode=mode, scales=[1.0, 1.0, 1.5, 2.0]),
        graph(9, "Upsample", np.float32([1, 1, 1.5, 2]), mode=mode),
    ):
        same(before, clean(before))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_borders_keep_their_values(mode):
    before = graph(9, "Pad", mode=mode, pads=[0, 0, 1, 2, 0, 0, 2, 1], value=0.5)
    same(before, clean(before))


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3])
def test_a_maximum_looks_over_all_axes_from_its_own_on(kind, axis):
    before = graph(11, kind, **({} if axis is None else {"axis": axis}))
    same(before, clean(before))


def test_an_operator_that_the_converter_changes_is_refused(monkeypatch):
    def wrong(model, version):
        made = convert(model, version)
        made.graph.node[0].op_type = "Elu"
        return made

    convert = version_converter.convert_version
    monkeypatch.setattr(version_converter, "convert_version", wrong)
    with pytest.raises(ArtifactError, match="answers would change"):
        clean(graph(9, "Relu"))


def test_a_new_graph_stays_as_it_is():
    model = graph(18, "Relu")
    assert opsets.brought(model, 13) is model
