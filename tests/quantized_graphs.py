"""Graphs are quantized, run, and optimized as ONNX Runtime does it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime

from tlopt.backends import reduced_range
from tlopt.graphs.view import View
from tlopt.quantization.int8 import Scheme, calibrate
from tlopt.quantization.quantizers import minmax
from tlopt.sessions import open_session


def quantized(
    model: onnx.ModelProto, runtime: str, inputs: np.ndarray, *, rounding: bool = True, reduced: bool | None = None
) -> onnx.ModelProto:
    reduced = reduced_range(runtime, "auto") if reduced is None else reduced
    found = calibrate(View(model), Scheme(runtime=runtime, reduced=reduced, choose=minmax.choose), [inputs])
    return (found.rounded(lambda: [inputs]) if rounding else found).graph()


def run(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    return open_session(model).run(None, {"images": inputs})[0]


def optimized(model: onnx.ModelProto, tmp_path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
