"""A calibrated network: any mix of 8-bit and float nodes, from one look at the images."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from any_nets import AnyNet
from onnx import TensorProto, helper

from tlopt.errors import ArtifactError, SettingError
from tlopt.graphs.cleaning import clean
from tlopt.graphs.rewriting.folding import fold
from tlopt.graphs.view import View
from tlopt.quantization.int8 import Scheme, calibrate
from tlopt.quantization.search.blocks import blocks_of
from tlopt.sessions import open_session


def run(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    return open_session(model).run(None, {"images": inputs})[0]


def test_any_mix_is_made_of_the_same_scales_and_roundings(build, photos_like):
    view = View(build("residual"))
    calibrated = calibrate(view, Scheme(runtime="onnxruntime"), [photos_like]).rounded(lambda: [photos_like])
    first = blocks_of(view)[0].nodes
    mixed = calibrated.graph(first)
    fixed = calibrate(view, Scheme(runtime="onnxruntime"), [photos_like], floats=first)
    assert calibrated.graph(first).SerializeToString() == mixed.SerializeToString()
    assert {i.name for i in mixed.graph.initializer} == {i.name for i in fixed.graph().graph.initializer}
    assert fixed.scales() == calibrated.scales(fixed.placement)
    every = [node.name for node in view.nodes]
    np.testing.assert_array_equal(run(calibrated.graph(every), photos_like), run(view.model, photos_like))


def test_the_float_graph_stays_as_it_is(family, photos_like):
    view = View(family)
    before = family.SerializeToString()
    calibrated = calibrate(view, Scheme(runtime="onnxruntime"), [photos_like]).rounded(lambda: [photos_like])
    whole = calibrated.graph().SerializeToString()
    calibrated.graph([view.nodes[0].name])
    assert family.SerializeToString() == before
    assert calibrated.graph().SerializeToString() == whole


def test_trained_scales_need_no_images(build):
    view = View(build("mobile"))
    tensors = calibrate(view, Scheme(runtime="openvino", trained={}), []).placement.edges
    trained = dict.fromkeys(tensors, (0.05, 3))
    calibrated = calibrate(view, Scheme(runtime="openvino", trained=trained), [])
    assert {(scale.scale, scale.zero) for scale in calibrated.scales().values()} == {(0.05, 3)}
    assert calibrated.rounded(list) is calibrated


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_a_few_images_far_larger_than_the_others_do_not_spoil_these(build, photos_like, runtime):
    view, usual = View(build("mobile")), photos_like[1:]
    large = np.concatenate([photos_like, photos_like[:1] * 50])
    calibrated = calibrate(view, Scheme(runtime=runtime), [large]).rounded(lambda: [large])
    exact = run(view.model, usual)
    error = run(calibrated.graph(), usual) - exact
    assert 10 * np.log10(np.square(exact).mean() / np.square(error).mean()) > 24  # 20 where each weighs the same


def test_weights_in_fp8_are_rounded_by_the_output_error(build, photos_like):
    view = View(build("mobile"))
    exact = run(view.model, photos_like)

    def error(rounding, bias_correction):
        scheme = Scheme(runtime="tensorrt", float8=True, rounding=rounding, bias_correction=bias_correction)
        made = calibrate(view, scheme, [photos_like]).rounded(lambda: [photos_like]).graph()
        onnx.checker.check_model(made, full_check=True)
        return np.square(run(made, photos_like) - exact).mean()

    assert error("gptq", True) < 0.8 * error("nearest", False)  # most of it is the activations' rounding


def test_biases_of_weights_in_fp8_are_corrected(builder, photos_like):
    """The input has a mean, so that rounding the weights moves the mean of what the layer gives."""
    b = builder
    view = View(clean(b.model(b.node("Flatten", b.node("GlobalAveragePool", b.conv("images", 3, 5))))))
    images, exact = photos_like + 2, run(view.model, photos_like + 2)

    def mean_error(bias_correction):
        scheme = Scheme(runtime="tensorrt", float8=True, rounding="nearest", bias_correction=bias_correction)
        made = calibrate(view, scheme, [images]).rounded(lambda: [images]).graph()
        return np.abs((run(made, images) - exact).mean(0)).max()

    assert mean_error(True) < 0.3 * mean_error(False)


@pytest.mark.parametrize("float8", [False, True])
def test_a_corrected_bias_takes_no_name_that_another_layer_reads(builder, photos_like, float8):
    b = builder
    pooled = b.node("Flatten", b.node("GlobalAveragePool", b.conv("images", 3, 5)))
    factor = b.constant(np.full(5, 3, np.float32))
    model = b.model(b.node("Mul", pooled, factor))
    name = f"{model.graph.node[0].name}_bias"
    next(tensor for tensor in model.graph.initializer if tensor.name == factor).name = name
    next(node for node in model.graph.node if node.op_type == "Mul").input[1] = name
    view = View(clean(model))
    calibrated = calibrate(view, Scheme(runtime="tensorrt", float8=float8), [photos_like])
    made = calibrated.rounded(lambda: [photos_like]).graph()
    np.testing.assert_array_equal(View(made).constant(name), np.full(5, 3))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_a_matrix_product_with_its_bias_apart_goes_to_integers(builder, photos_like, runtime):
    """The bias that folding makes, and that in integers, may have one name."""
    b = builder
    x = b.node("Flatten", b.node("GlobalAveragePool", b.node("Relu", b.conv("images", 3, 8))))
    x = b.node("MatMul", x, b.constant(b.random.normal(0, 1, (8, 5)).astype(np.float32)))
    bias = b.constant(b.random.normal(0, 0.1, 5).astype(np.float32))
    model = clean(b.model(b.node("Add", x, bias)))
    found = calibrate(View(fold(model)), Scheme(runtime=runtime), [photos_like]).rounded(lambda: [photos_like])
    made = found.graph()
    onnx.checker.check_model(made, full_check=True)
    assert "Gemm" in {node.op_type for node in made.graph.node}
    expected = run(model, photos_like)
    np.testing.assert_allclose(run(made, photos_like), expected, atol=0.04 * np.ptp(expected))


def test_a_graph_without_weights_is_refused(builder, photos_like):
    b = builder
    pooled = b.node("GlobalAveragePool", b.node("Sigmoid", b.node("Concat", "images", "images", axis=1)))
    made = b.node("Slice", b.node("Flatten", pooled), *(b.constant(np.array([i])) for i in (0, 5, 1)))
    view = View(clean(b.model(made)))
    with pytest.raises(ArtifactError, match="no convolution or matrix product with constant weights"):
        calibrate(view, Scheme(runtime="onnxruntime"), [photos_like])


def test_float_nodes_that_leave_nothing_to_quantize_are_refused(build, photos_like):
    view = View(build("mobile"))
    with pytest.raises(SettingError, match="leaves no weights to quantize"):
        calibrate(view, Scheme(runtime="onnxruntime"), [photos_like], floats=[node.name for node in view.nodes])


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", ""])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_an_output_may_be_read_inside_too(activation, runtime, tmp_path):
    net = AnyNet()
    tensor = net.conv(net.deep, 8, 8)
    inner = net.add(activation, tensor) if activation else tensor
    net.outputs.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, ["n", 8, 4, 6]))
    net.output(net.conv(inner, 8, 4), "mask")
    model = onnx.load(net.save(tmp_path / "net.onnx"))
    inputs = np.random.default_rng(0).normal(0, 1, (8, 3, 16, 24)).astype(np.float32)
    view = View(fold(clean(model)))
    calibrated = calibrate(view, Scheme(runtime=runtime), [inputs]).rounded(lambda: [inputs])
    assert len(calibrated.placement.weights) == 4
    made = calibrated.graph()
    for found, wanted in zip(every(made, inputs), every(model, inputs), strict=True):
        assert 10 * np.log10((wanted**2).mean() / ((found - wanted) ** 2).mean()) > 25


def every(model: onnx.ModelProto, inputs: np.ndarray) -> list[np.ndarray]:
    session = open_session(model)
    return session.run(None, {session.get_inputs()[0].name: inputs})
