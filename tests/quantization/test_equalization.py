"""Scaling channels leaves what the graph computes and makes them alike."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from tlopt.graphs.view import View
from tlopt.quantization.calibration.activations import tapped
from tlopt.quantization.equalization import equalize
from tlopt.quantization.int8 import Scheme, calibrate
from tlopt.quantization.quantizers import minmax
from tlopt.sessions import open_session


def run(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    return open_session(model).run(None, {"images": inputs})[0]


def uneven(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make the output channels of each convolution differ in width by up to 2^7."""
    names = {name for node in model.graph.node if node.op_type == "Conv" for name in node.input[1:3]}
    for i in model.graph.initializer:
        if i.name in names:
            values = numpy_helper.to_array(i)
            factor = 2.0 ** -(np.arange(values.shape[0]) % 8).reshape(-1, *[1] * (values.ndim - 1))
            i.CopyFrom(numpy_helper.from_array((values * factor).astype(np.float32), i.name))
    return model


def test_the_graph_computes_the_same(family, photos_like):
    made = equalize(View(family), [photos_like]).model
    onnx.checker.check_model(made, full_check=True)
    expected = run(family, photos_like)
    np.testing.assert_allclose(run(made, photos_like), expected, atol=1e-4 * np.ptp(expected))


def test_uneven_channels_lose_less_to_8_bits(build, photos_like):
    model = uneven(build("residual"))
    expected = run(model, photos_like)

    def error(view: View) -> float:
        found = calibrate(view, Scheme(runtime="onnxruntime", choose=minmax.choose), [photos_like])
        return float(np.square(run(found.graph(), photos_like) - expected).mean())

    assert error(equalize(View(model), [photos_like])) < 0.8 * error(View(model))


def test_tensors_that_a_clip_bounds_are_left_alone(build, photos_like):
    model = uneven(build("mobile"))
    made = equalize(View(model), [photos_like]).model
    bounded = [node.input[0] for node in model.graph.node if node.op_type == "Clip"]
    for before, after in zip(
        open_session(tapped(model, bounded)).run(None, {"images": photos_like}),
        open_session(tapped(made, bounded)).run(None, {"images": photos_like}),
        strict=True,
    ):
        np.testing.assert_allclose(before, after, atol=1e-4)
