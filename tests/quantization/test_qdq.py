"""Q/DQ graphs: valid, fused as meant, and computing what integer arithmetic says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper
from quantized_graphs import optimized, quantized, run

from tlopt.backends import reduced_range
from tlopt.graphs.activations import with_gelu
from tlopt.graphs.cleaning import clean
from tlopt.graphs.view import View
from tlopt.quantization.placement import place

RUNTIMES = ["onnxruntime", "openvino", "tensorrt"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_graph_is_valid_and_close_to_the_float_one(family, runtime, photos_like):
    made = quantized(family, runtime, photos_like)
    onnx.checker.check_model(made, full_check=True)
    expected, found = run(family, photos_like), run(made, photos_like)
    # Random weights: a few tensors of 8 bits each leave about 1 % of the signal, 40 dB; 25 dB would be a wrong scale.
    assert 10 * np.log10(np.square(expected).sum() / np.square(expected - found).sum()) > 25


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_openvino_computes_the_same(family, runtime, photos_like):
    openvino = pytest.importorskip("openvino")
    made = quantized(family, runtime, photos_like)
    core = openvino.Core()
    read = core.read_model(made.SerializeToString())
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(read, "CPU", hints)
    expected, found = run(made, photos_like), compiled(photos_like)[0]
    # A tie that falls to the other side moves one value of a tensor by one step.
    np.testing.assert_allclose(found, expected, atol=0.05 * np.ptp(expected))


def test_onnx_runtime_computes_all_of_a_mobile_network_in_integers(build, photos_like, tmp_path):
    kinds = optimized(quantized(build("mobile"), "onnxruntime", photos_like), tmp_path)
    assert kinds == {
        "QuantizeLinear": 1, "QLinearConv": 4, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1, "Reshape": 1, "QGemm": 1,
    }  # fmt: skip


def test_onnx_runtime_computes_gelu_in_one_step(builder, photos_like, tmp_path):
    """A product inside, rounded for itself, would keep ONNX Runtime from it, and cost accuracy."""
    b = builder
    x = b.conv("images", 3, 8)
    half = b.node("Erf", b.node("Div", x, b.constant(np.float32(np.sqrt(2)))))
    half = b.node("Mul", b.constant(np.float32(0.5)), b.node("Add", half, b.constant(np.float32(1))))
    view = with_gelu(View(clean(b.model(b.head(b.conv(b.node("Mul", x, half), 8, 16), 16)))))
    kinds = optimized(quantized(view.model, "onnxruntime", photos_like), tmp_path)
    assert kinds["Gelu"] == 1
    assert kinds["QLinearConv"] == 2
    assert not kinds["QLinearMul"]


def test_an_activation_with_no_integer_kernel_inside_is_not_rounded_inside(builder):
    """The product of Mish, x tanh(softplus(x)), is followed by one rounding, not preceded by two."""
    b = builder
    x = b.conv("images", 3, 8)
    inner = b.node("Tanh", b.node("Softplus", x))
    whole = b.node("Mul", x, inner)
    view = View(clean(b.model(b.head(b.conv(whole, 8, 16), 16))))
    placement = place(view, "onnxruntime")
    assert {x, whole} <= placement.edges.keys()
    assert inner not in placement.edges


@pytest.mark.parametrize("ending", ["pool", "softmax", "sum"])
def test_logits_stay_float_whatever_follows(builder, photos_like, ending):
    """A tensor that the output is but a form of has no Q/DQ pair."""
    b = builder
    x = b.node("Relu", b.conv("images", 3, 8))
    x = b.node("Relu", b.conv(x, 8, 5))
    shape = b.constant(np.array([0, -1], np.int64))
    last = b.node("Reshape", b.node("GlobalAveragePool", x), shape)
    if ending != "pool":
        weight = b.constant(b.random.normal(0, 1, (5, 5)).astype(np.float32))
        last = b.node("MatMul", last, weight)
    if ending == "sum":
        last = b.node("Add", last, b.constant(np.ones(5, np.float32)))
    if ending == "softmax":
        last = b.node("Softmax", last, axis=1)
    made = quantized(clean(b.model(last)), "onnxruntime", photos_like)
    producer = {name: node for node in made.graph.node for name in node.output}
    node = producer["logits"]
    while node.op_type not in ("GlobalAveragePool", "MatMul"):
        node = producer[node.input[0]]
        assert node.op_type != "DequantizeLinear"


@pytest.mark.parametrize(("runtime", "count"), [("onnxruntime", 2), ("tensorrt", 2), ("openvino", 3)])
def test_a_transposed_convolution_is_in_8_bits_where_a_runtime_has_a_kernel(builder, photos_like, runtime, count):
    b = builder
    x = b.node("Relu", b.conv("images", 3, 8))
    weight = b.constant(b.random.normal(0, 0.3, (8, 4, 2, 2)).astype(np.float32))
    view = View(clean(b.model(b.head(b.node("ConvTranspose", x, weight, strides=[2, 2]), 4))))
    placement = place(view, runtime)
    assert len(placement.weights) == count
    inside = [node.op_type for node in view.nodes if placement.is_eight_bit(view, node)]
    assert ("ConvTranspose" in inside) == (runtime == "openvino")


@pytest.mark.parametrize(
    ("groups", "outputs", "integers"),
    [(1, 16, True), (16, 16, True), (16, 32, False), (8, 8, False), (4, 16, False), (2, 16, True)],
)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_convolutions_of_narrow_groups_stay_float_in_onnxruntime(builder, groups, outputs, integers, runtime):
    b = builder
    x = b.node("Relu", b.conv("images", 3, 16))
    weight = b.constant(b.random.normal(0, 0.3, (outputs, 16 // groups, 3, 3)).astype(np.float32))
    x = b.node("Relu", b.node("Conv", x, weight, pads=[1] * 4, group=groups))
    view = View(clean(b.model(b.head(x, outputs))))
    placement = place(view, runtime)
    node = next(node for node in view.nodes if node.op_type == "Conv" and node.input[1] == weight)
    assert placement.is_eight_bit(view, node) == (integers or runtime == "openvino")


@pytest.mark.parametrize("channels", [1, 4])
def test_a_grouped_transposed_convolution_keeps_a_float_bias(builder, photos_like, channels):
    b = builder
    x = b.node("Relu", b.conv("images", 3, 8))
    weight = b.constant(b.random.normal(0, 0.3, (8, channels, 2, 2)).astype(np.float32))
    bias = b.constant(b.random.normal(0, 0.1, 2 * channels).astype(np.float32))
    x = b.node("ConvTranspose", x, weight, bias, strides=[2, 2], group=2)
    model = clean(b.model(b.head(x, 2 * channels)))
    made = quantized(model, "openvino", photos_like)
    onnx.checker.check_model(made, full_check=True)
    expected, found = run(model, photos_like), run(made, photos_like)
    assert 10 * np.log10(np.square(expected).sum() / np.square(expected - found).sum()) > 25


def test_older_files_whose_weights_are_inputs_go_to_int8(builder, photos_like):
    b = builder
    b.opset = 11
    x = b.node("Relu", b.conv("images", 3, 8))
    x = b.node("Flatten", b.node("GlobalAveragePool", x))
    weight, bias = b.constant(np.ones((8, 5), np.float32)), b.constant(np.ones(5, np.float32))
    last = b.node("Gemm", x, weight, bias)
    old = b.model(last)
    old.ir_version = 3
    old.graph.input.extend(
        onnx.helper.make_tensor_value_info(i.name, i.data_type, list(i.dims)) for i in old.graph.initializer
    )
    model = clean(old)
    assert [entry.name for entry in model.graph.input] == ["images"]
    made = quantized(model, "onnxruntime", photos_like)
    onnx.checker.check_model(made, full_check=True)
    expected, found = run(model, photos_like), run(made, photos_like)
    np.testing.assert_allclose(found, expected, atol=0.03 * np.ptp(expected))


def test_onnx_runtime_computes_all_of_a_residual_network_in_integers(build, photos_like, tmp_path):
    kinds = optimized(quantized(build("residual"), "onnxruntime", photos_like), tmp_path)
    assert kinds["QLinearConv"] == 6
    assert kinds["QLinearAdd"] == 2
    assert not {"Conv", "FusedConv", "Add", "Relu", "DequantizeLinear"} & set(kinds)


def test_onnx_runtime_leaves_only_hard_swish_of_a_squeeze_network_in_float(build, photos_like, tmp_path):
    kinds = optimized(quantized(build("squeeze"), "onnxruntime", photos_like), tmp_path)
    assert kinds["QLinearConv"] == 4
    assert kinds["QLinearMul"] == kinds["QLinearSigmoid"] == 2
    assert not {"Conv", "FusedConv", "Sigmoid"} & set(kinds)
    assert kinds["Mul"] == 1  # ONNX Runtime writes HardSwish as HardSigmoid and Mul


@pytest.mark.parametrize("reduced", [True, False])
def test_an_integer_convolution_in_numpy_confirms_the_scales(build, photos_like, reduced):
    """The first convolution, in integers: (x - zero) * w summed in int32, times the two scales."""
    if not reduced and reduced_range("onnxruntime", "auto"):
        pytest.skip("ONNX Runtime's kernels saturate on this processor with weights of the whole range.")
    model = build("mobile")
    made = quantized(model, "onnxruntime", photos_like, rounding=False, reduced=reduced)
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in made.graph.initializer}
    first = next(node for node in made.graph.node if node.op_type == "Conv")
    x_scale, x_zero = constants["images_scale"], constants["images_zero"].astype(np.int32)
    weight = constants[f"{first.input[1]}_quantized"].astype(np.int32)
    bias = constants[f"{first.input[2]}_quantized"]
    scale = constants[f"{first.input[1]}_scale"] * x_scale
    np.testing.assert_array_equal(constants[f"{first.input[2]}_scale"], scale)

    levels = np.clip(np.round(photos_like / x_scale) + x_zero, 0, 255).astype(np.int32) - x_zero
    windows = sliding_window_view(np.pad(levels, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))[:, :, ::2, ::2]
    sums = np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]
    y_name = next(n for n in made.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == first.output[0])
    y_scale, y_zero = constants[y_name.input[1]], constants[y_name.input[2]].astype(np.int32)
    expected = np.clip(np.round(sums * (scale / y_scale)[:, None, None]) + y_zero, 0, 255)

    del made.graph.output[:]
    made.graph.output.append(
        onnx.helper.make_tensor_value_info(y_name.output[0], onnx.TensorProto.UINT8, ["n", 8, 8, 8])
    )
    found = run(made, photos_like)
    # Float32 and float64 may round a tie to different sides.
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found == expected).mean() > 0.999


def test_tensorrt_gets_float_biases_and_symmetric_activations(build, photos_like):
    made = quantized(build("residual"), "tensorrt", photos_like)
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in made.graph.initializer}
    assert not [name for name, values in constants.items() if values.dtype == np.int32]
    zeros = [values for name, values in constants.items() if name.endswith("_zero")]
    assert zeros
    assert all(values.dtype == np.int8 and not values.any() for values in zeros)


def test_a_channel_without_weights_keeps_its_bias(build, photos_like):
    """An int32 bias of a channel whose weights are zero must not overflow its tiny scale."""
    model = build("mobile")
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    for i in model.graph.initializer:
        if i.name == first.input[1]:
            values = onnx.numpy_helper.to_array(i).copy()
            values[0] = 0
            i.CopyFrom(onnx.numpy_helper.from_array(values, i.name))
    for rounding in (True, False):
        made = quantized(model, "onnxruntime", photos_like, rounding=rounding)
        expected, found = run(model, photos_like), run(made, photos_like)
        assert 10 * np.log10(np.square(expected).sum() / np.square(expected - found).sum()) > 25


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give tensors and nodes the names that a quantized graph's own tensors have."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    endings = ("", "_scale", "_zero", "_quantized", "_dequantized", "_weight", "_bias", "_weight_scale")
    kept = {"images", *(output.name for output in graph.output)}
    tensors = [*(i.name for i in graph.initializer), *(name for node in graph.node for name in node.output)]
    free = (f"{base}{ending}" for base in ("images", *"cdefghijk") for ending in endings[base == "images" :])
    names = {name: next(free) for name in tensors if name not in kept}
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    layers = (f"{base}{ending}" for ending in ("", "_weight", "_bias") for base in ("c", "d", "e", "f", "g", "h", "i"))
    for node in graph.node:
        node.name = next(layers)
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
    del graph.value_info[:]
    return onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True, data_prop=True)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["mobile", "residual"])
def test_what_a_graph_calls_its_tensors_changes_no_answer(build, runtime, kind, photos_like):
    model = build(kind)
    plain, odd = (quantized(one, runtime, photos_like) for one in (model, _renamed(model)))
    onnx.checker.check_model(odd, full_check=True)
    np.testing.assert_array_equal(run(odd, photos_like), run(plain, photos_like))


def test_what_is_only_concatenated_has_the_scale_of_the_result(builder):
    b = builder
    x = b.node("Relu", b.conv("images", 3, 8))
    own = b.node("Relu", b.conv(x, 8, 4))
    whole = b.node("Concat", x, own, axis=1)
    placement = place(View(clean(b.model(b.head(b.conv(whole, 12, 8), 8)))), "onnxruntime")
    assert placement.root(own) == whole
    assert placement.root(x) == x  # a layer reads it, too, and is better off with its own scale


def test_what_two_concatenate_or_what_is_bound_to_another_tensor_keeps_its_scale(builder):
    """The scale of a wide neighbour would reach what is read by itself."""
    b = builder
    x = b.node("Relu", b.conv("images", 3, 8))
    pooled = b.node("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    twice = b.node("Relu", b.conv(x, 8, 4))
    first = b.node("Concat", pooled, twice, axis=1)
    second = b.node("Concat", twice, b.conv(first, 12, 4), axis=1)
    placement = place(View(clean(b.model(b.head(b.conv(second, 8, 8), 8)))), "onnxruntime")
    assert placement.root(pooled) == placement.root(x) == x
    assert placement.root(twice) == twice


@pytest.mark.parametrize(("shape", "quantizes"), [(("n", 3, 8, 8), True), (("n", 1, 3, 8, 8), False)])
def test_a_mean_over_a_volume_stays_float_in_onnx_runtime(shape, quantizes):
    pool = helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[3] * (len(shape) - 2))
    nodes = [pool, helper.make_node("Sigmoid", ["pooled"], ["y"])]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = clean(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert ("images" in place(View(model), "onnxruntime").edges) is quantizes


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_generalized_mean_is_not_rounded_inside(builder, photos_like, runtime):
    b = builder
    x = b.node("Clip", b.conv("images", 3, 8), b.constant(np.float32(1e-6)))
    mean = b.node("GlobalAveragePool", b.node("Pow", x, b.constant(np.float32(3))))
    root = b.node("Pow", mean, b.constant(np.float32(1 / 3)))
    model = b.model(b.head(b.conv(root, 8, 8, kernel=1), 8))
    view = View(quantized(clean(model), runtime, photos_like))
    pools = [view.producer[node.input[0]].op_type for node in view.nodes if node.op_type == "GlobalAveragePool"]
    assert sorted(pools) == ["DequantizeLinear", "Pow"]  # the second one of both is that of the head


def test_a_stack_of_matrices_stays_float_in_openvino(builder):
    b = builder
    stack = b.constant(b.random.normal(0, 0.3, (1, 8, 16, 16)).astype(np.float32))
    x = b.node("Relu", b.node("MatMul", b.node("Relu", b.conv("images", 3, 8)), stack))
    view = View(clean(b.model(b.head(b.conv(x, 8, 8), 8))))
    kinds = {node.name: node.op_type for node in view.nodes}
    found = {runtime: {kinds[name] for name in place(view, runtime).weights} for runtime in ("onnxruntime", "openvino")}
    assert found == {"onnxruntime": {"Conv", "MatMul", "Gemm"}, "openvino": {"Conv", "Gemm"}}
