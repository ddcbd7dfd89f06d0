"""Precision and opset, read from files of every kind."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from tlopt.graphs.precision import opset_of, precision_of, tensorrt_objection
from tlopt.graphs.view import View
from tlopt.quantization.casts import cast
from tlopt.quantization.int8 import Scheme, calibrate


class Images(CalibrationDataReader):
    def __init__(self, values: np.ndarray) -> None:
        self.rows = iter({"images": value[None]} for value in values[:4])

    def get_next(self):
        return next(self.rows, None)


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_halves_are_read_from_the_weights(family, half):
    assert precision_of(family) == "fp32"
    assert precision_of(cast(View(family), half)) == half


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_what_is_quantized_here_is_known(build, photos_like, runtime):
    made = calibrate(View(build("mobile")), Scheme(runtime=runtime), [photos_like]).graph()
    assert precision_of(made) == "int8"
    assert bool(tensorrt_objection(made)) is (runtime != "tensorrt")


def test_fp8_is_known(build, photos_like):
    made = calibrate(View(build("mobile")), Scheme(runtime="tensorrt", float8=True), [photos_like]).graph()
    assert precision_of(made) == "fp8"
    assert opset_of(made) == 19
    assert not tensorrt_objection(made)


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
@pytest.mark.filterwarnings("ignore")
def test_files_of_other_tools_are_known(build, photos_like, tmp_path, form):
    onnx.save(build("mobile"), tmp_path / "float.onnx")
    given, made = tmp_path / "float.onnx", tmp_path / "made.onnx"
    if form == "dynamic":
        quantize_dynamic(given, made, weight_type=QuantType.QUInt8)
    else:
        quantize_static(given, made, Images(photos_like), quant_format=QuantFormat[form], per_channel=True)
    model = onnx.load(made)
    assert precision_of(model) == "int8"
    reasons = {"QDQ": "integers of 32 bits", "QOperator": "integer operators", "dynamic": "integer operators"}
    assert reasons[form] in tensorrt_objection(model)


def test_constant_nodes_and_branches_count():
    def branch(name: str, dtype: type) -> onnx.GraphProto:
        values = numpy_helper.from_array(np.ones(100, dtype))
        return helper.make_graph(
            [helper.make_node("Constant", [], [name], value=values)], name, [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [100])],
        )  # fmt: skip

    node = helper.make_node(
        "If", ["flag"], ["y"], then_branch=branch("a", np.float16), else_branch=branch("b", np.float16)
    )
    graph = helper.make_graph(
        [node], "branches", [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [100])],
        [numpy_helper.from_array(np.ones(3, np.float32), "three")],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("", 17)]
    )
    assert precision_of(model) == "fp16"
    assert opset_of(model) == 17


def test_a_file_without_weights_is_float():
    graph = helper.make_graph([], "nothing", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("com.microsoft", 1)])
    assert precision_of(model) == "fp32"
    assert opset_of(model) == 0
