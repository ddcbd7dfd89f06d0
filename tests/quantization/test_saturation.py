"""Integer kernels that saturate: told from those that do not, and avoided by weights of half the range."""

from __future__ import annotations

import numpy as np
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

import tlopt
from tlopt import backends
from tlopt.backends import reduced_range
from tlopt.errors import MissingLibraryError
from tlopt.graphs.view import View
from tlopt.quantization import saturation
from tlopt.quantization.int8 import Scheme, calibrate
from tlopt.quantization.quantizers import minmax
from tlopt.sessions import open_session

EXACT = saturation.INPUTS * 64 * 127


def test_sums_of_pairs_that_stop_at_16_bits_are_found():
    assert not saturation.saturated(EXACT)
    assert saturation.saturated(np.full_like(EXACT, 32 * (2**15 - 1)))


def integers(builder, result, inputs, constants):
    """Return a graph of float32 images whose other constants are as given."""
    graph = helper.make_graph(
        builder,
        "integers",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, inputs.shape)],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(runtime, model, inputs):
    if runtime == "onnxruntime":
        return open_session(model).run(None, {"images": inputs})[0]
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)({0: inputs})[0]


RUNTIMES = ["onnxruntime", "openvino"]
Q, DQ = "QuantizeLinear", "DequantizeLinear"
LAYERS = {
    "pointwise": ("Conv", (64, 64, 1, 1), 64, {}),
    "dense": ("Conv", (64, 64, 3, 3), 64, {}),
    "grouped": ("Conv", (64, 8, 3, 3), 64, {"group": 8}),
    "stem": ("Conv", (32, 3, 3, 3), 64, {}),
    "linear": ("Gemm", (10, 64), 64, {"transB": 1}),
    "depthwise": ("Conv", (64, 1, 3, 3), 127, {"group": 64}),
    "depthwise, odd": ("Conv", (61, 1, 3, 3), 127, {"group": 61}),
    "depthwise, wide": ("Conv", (64, 1, 7, 7), 127, {"group": 64}),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("layer", LAYERS)
def test_no_layer_saturates_within_its_limit(runtime, layer, sign):
    """Largest inputs times largest weights: half the range, or all of it where a kernel is depthwise."""
    kind, shape, limit, attributes = LAYERS[layer]
    channels = shape[1] * attributes.get("group", 1)
    inputs = np.full((1, channels, 8, 8) if kind == "Conv" else (1, channels), 255, np.float32)
    total = int(np.prod(shape[1:])) * 255 * limit
    constants = {
        "one": np.float32(1), "zero": np.uint8(0), "weight": np.full(shape, sign * limit, np.int8),
        "step": np.float32(total / 255), "end": np.uint8(0 if sign > 0 else 255),
    }  # fmt: skip
    nodes = [
        helper.make_node(Q, ["images", "one", "zero"], ["levels"]),
        helper.make_node(DQ, ["levels", "one", "zero"], ["inputs"]),
        helper.make_node(DQ, ["weight", "one"], ["weights"]),
        helper.make_node(kind, ["inputs", "weights"], ["sums"], **attributes),
        helper.make_node(Q, ["sums", "step", "end"], ["results"]),
        helper.make_node(DQ, ["results", "step", "end"], ["logits"]),
    ]
    found = run(runtime, integers(nodes, "logits", inputs, constants), inputs)
    # One step of the result's scale.
    np.testing.assert_allclose(found, sign * total, atol=1.01 * total / 255)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_products_of_two_activations_do_not_saturate(runtime):
    """No limit of weights protects them."""
    inputs = np.full((1, 64, 64), 255, np.float32)
    total = 64 * 255 * 255
    constants = {"one": np.float32(1), "zero": np.uint8(0), "step": np.float32(total / 255)}
    nodes = [
        helper.make_node(Q, ["images", "one", "zero"], ["levels"]),
        helper.make_node(DQ, ["levels", "one", "zero"], ["inputs"]),
        helper.make_node("MatMul", ["inputs", "inputs"], ["sums"]),
        helper.make_node(Q, ["sums", "step", "zero"], ["results"]),
        helper.make_node(DQ, ["results", "step", "zero"], ["logits"]),
    ]
    found = run(runtime, integers(nodes, "logits", inputs, constants), inputs)
    np.testing.assert_allclose(found, total, atol=1.01 * total / 255)


def test_auto_asks_the_runtime_and_a_gpu_never_needs_it(monkeypatch):
    for answer in (True, False):
        monkeypatch.setattr(backends, "saturates", lambda _, answer=answer: answer)
        assert reduced_range("onnxruntime", "auto") is answer
        assert reduced_range("onnxruntime", "on")
        assert not reduced_range("onnxruntime", "off")
    assert not reduced_range("tensorrt", "auto")


def test_a_runtime_that_is_not_here_gets_the_whole_range(monkeypatch, caplog):
    def missing(name):
        raise MissingLibraryError(name)

    monkeypatch.setattr(backends, "saturates", missing)
    assert not reduced_range("openvino", "auto")
    assert "saturation was not tested. Weights use the whole int8 range" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("saturates", "reduce_range"), [(True, "off"), (True, "on"), (False, "off")])
def test_a_graph_that_saturates_where_it_is_opened_is_told(
    exported, tmp_path, monkeypatch, caplog, saturates, reduce_range
):
    made = tlopt.quantize(exported, tmp_path / "int8", samples=8, rounding="nearest", reduce_range=reduce_range)
    monkeypatch.setattr(backends, "saturates", lambda _: saturates)
    caplog.clear()
    with backends.open_runner(made):
        pass
    assert ("gives wrong answers" in caplog.text) is (saturates and reduce_range == "off")


@pytest.mark.parametrize("rounding", [True, False])
def test_all_weights_but_depthwise_ones_keep_to_half_the_range(build, photos_like, rounding):
    model = build("mobile")
    scheme = Scheme(runtime="onnxruntime", reduced=True, choose=minmax.choose)
    found = calibrate(View(model), scheme, [photos_like])
    made = (found.rounded(lambda: [photos_like]) if rounding else found).graph()
    constants = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    largest: dict[tuple[int, bool], int] = {}
    for name, values in constants.items():
        if name.endswith("_weight_quantized"):
            key = (values.ndim, values.shape[1] == 1)
            largest[key] = max(largest.get(key, 0), int(np.abs(values.astype(int)).max()))
    assert largest == {(4, False): 64, (4, True): 127, (2, False): 64}
