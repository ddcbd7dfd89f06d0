"""Hard sigmoid and hard swish are computed in integers where ONNX Runtime runs them, and nothing is lost by it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from quantized_graphs import optimized, quantized, run
from tiny_graphs import Builder

from tlopt.graphs.cleaning import clean
from tlopt.graphs.view import View
from tlopt.quantization.grid import UINT8
from tlopt.quantization.hard_sigmoids import hard_sigmoids, precise, with_hard_sigmoids
from tlopt.quantization.int8 import Scheme, calibrate
from tlopt.quantization.placement import place
from tlopt.quantization.quantizers import mse

THREE, SIX, ZERO, SIXTH = (np.float32(value) for value in (3, 6, 0, 1 / 6))


def as_one(b, x):
    return b.node("HardSwish", x)


def as_gate(b, x):
    return b.node("Mul", b.node("HardSigmoid", x, alpha=1 / 6, beta=0.5), x)


def divided(b, x):
    shifted = b.node("Add", x, b.constant(THREE))
    return b.node("Mul", x, b.node("Div", b.node("Clip", shifted, b.constant(ZERO), b.constant(SIX)), b.constant(SIX)))


def divided_last(b, x):
    clipped = b.node("Clip", b.node("Add", b.constant(THREE), x), b.constant(ZERO), b.constant(SIX))
    return b.node("Div", b.node("Mul", clipped, x), b.constant(SIX))


def multiplied(b, x):
    shifted = b.node("Relu", b.node("Add", x, b.constant(THREE)))
    return b.node("Mul", b.node("Mul", x, b.node("Min", shifted, b.constant(SIX))), b.constant(SIXTH))


SPELLINGS = [as_one, as_gate, divided, divided_last, multiplied]


def network(activation, *, size=4.0, head=False, twice=False):
    """Return a cleaned graph with an activation between layers, whose inputs have about the size given."""
    b = Builder()
    x = b.node("Relu", b.conv("images", 3, 8))
    weight = b.random.normal(0, size / np.sqrt(8), (16, 8, 1, 1)).astype(np.float32)
    x = b.node("Conv", x, b.constant(weight), b.constant(b.random.normal(0, size / 4, 16).astype(np.float32)))
    y = activation(b, x)
    if twice:
        y = b.node("Add", x, y)
    return clean(b.model(b.head(y if head else b.node("Relu", b.conv(y, 16, 16)), 16)))


def squeezed(size=2.0):
    """Return a cleaned graph with squeeze and excitation."""
    b = Builder()
    x = b.node("Relu", b.conv("images", 3, 8))
    s = b.conv(b.node("GlobalAveragePool", x), 8, 4, kernel=1)
    weight = b.random.normal(0, 4 * size, (8, 4, 1, 1)).astype(np.float32)
    gate = b.node("HardSigmoid", b.node("Conv", s, b.constant(weight)), alpha=1 / 6, beta=0.5)
    return clean(b.model(b.head(b.node("Relu", b.conv(b.node("Mul", x, gate), 8, 16)), 16)))


def kinds(model):
    return [node.op_type for node in model.graph.node]


def close(made, exact):
    np.testing.assert_allclose(made, exact, atol=0.05 * np.ptp(exact))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_becomes_the_same_two_nodes(spelling, photos_like):
    before = network(spelling)
    after = with_hard_sigmoids(View(before)).model
    assert kinds(after) == ["Conv", "Relu", "Conv", "HardSigmoid", "Mul", "Conv", "Relu", "GlobalAveragePool",
                            "Reshape", "Gemm"]  # fmt: skip
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_allclose(run(after, photos_like), run(before, photos_like), atol=1e-4)


def test_a_hard_sigmoid_of_several_nodes_becomes_one(photos_like):
    def spelled(b, x):
        clipped = b.node("Clip", b.node("Add", x, b.constant(THREE)), b.constant(ZERO), b.constant(SIX))
        return b.node("Div", clipped, b.constant(SIX))

    before = network(spelled)
    after = with_hard_sigmoids(View(before)).model
    assert "HardSigmoid" in kinds(after)
    assert not {"Clip", "Div", "Add"} & set(kinds(after))
    np.testing.assert_allclose(run(after, photos_like), run(before, photos_like), atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        lambda b, x: b.clip(x),
        lambda b, x: b.node("Mul", x, b.node("Sigmoid", x)),
        lambda b, x: b.node("Mul", x, b.node("HardSigmoid", x, alpha=0.3, beta=0.5)),
        lambda b, x: b.clip(b.node("Add", x, b.constant(THREE))),
    ],
)
def test_other_functions_stay(other):
    view = View(network(other))
    assert with_hard_sigmoids(view) is view


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("head", [False, True])
def test_onnx_runtime_computes_hard_swish_in_integers(spelling, head, photos_like, tmp_path):
    before = network(spelling, head=head)
    made = quantized(with_hard_sigmoids(View(before)).model, "onnxruntime", photos_like)
    onnx.checker.check_model(made, full_check=True)
    found = optimized(made, tmp_path)
    assert found["QLinearMul"] == 1
    assert not {"HardSigmoid", "Mul", "Div", "Add", "Min"} & set(found)
    close(run(made, photos_like), run(before, photos_like))


def test_and_the_gate_of_squeeze_and_excitation(photos_like, tmp_path):
    before = squeezed()
    made = quantized(before, "onnxruntime", photos_like)
    found = optimized(made, tmp_path)
    assert found["QLinearMul"] == 1
    assert not {"HardSigmoid", "Mul"} & set(found)
    close(run(made, photos_like), run(before, photos_like))


@pytest.mark.parametrize("slope", [1 / 6, 0.2, 0.5])
@pytest.mark.parametrize("high", [0.0, 0.7, 3.0, 8.0, 40.0])
def test_the_integers_are_the_hard_sigmoid_of_what_they_stand_for(slope, high):
    """Of each of the 256 integers, with the Clip and the second scale."""
    b = Builder()
    b.node("HardSigmoid", b.conv("images", 3, 8), alpha=slope, beta=0.5)
    b.node("Mul", b.nodes[-2].output[0], b.nodes[-1].output[0])
    model = clean(b.model(b.head(b.nodes[-1].output[0], 8)))
    (gate,) = hard_sigmoids(View(model)).values()
    scale = gate.grid(UINT8).fit(-100.0, high)
    assert scale.range[0] == pytest.approx(-0.5 / slope, rel=1e-6)
    assert scale.range[1] >= high - 1e-5
    integers = np.arange(256)
    x = (integers - scale.zero) * scale.scale
    gated = np.minimum(integers, 2 * scale.zero) * scale.scale * slope
    np.testing.assert_allclose(gated, np.clip(slope * x + 0.5, 0, 1), atol=1e-6)


@pytest.mark.parametrize("size", [0.05, 0.2, 2000.0])
def test_inputs_that_would_be_told_apart_less_finely_stay_free(size, photos_like):
    """Small ones are never near the smallest integer, and huge ones lie far beyond the largest."""
    before = with_hard_sigmoids(View(network(as_one, size=size)))
    found = calibrate(before, Scheme(runtime="onnxruntime"), [photos_like])
    assert not found.placement.hard_sigmoids
    close(run(found.graph(), photos_like), run(before.model, photos_like))
    small = calibrate(View(squeezed(size=0.01)), Scheme(runtime="onnxruntime"), [photos_like])
    assert not small.placement.hard_sigmoids


def test_a_scale_is_bound_only_where_that_costs_little():
    view = with_hard_sigmoids(View(network(as_one)))
    found = hard_sigmoids(view)
    (gate,) = found.values()
    assert precise(found, {gate.input: UINT8.fit(-3.0, 5.0)}) == found
    assert precise(found, {gate.input: UINT8.fit(-1.5, 5.0)}) == found
    assert not precise(found, {gate.input: UINT8.fit(-1.0, 1.0)})
    assert not precise(found, {gate.input: UINT8.fit(-3.0, 800.0)})
    assert not precise(found, {})  # a layer that stays float


def test_what_something_else_reads_is_no_gate():
    assert not hard_sigmoids(with_hard_sigmoids(View(network(as_gate, twice=True))))
    assert hard_sigmoids(with_hard_sigmoids(View(network(as_gate))))


def test_hard_sigmoids_of_other_offsets_are_none():
    view = View(network(lambda b, x: b.node("Mul", x, b.node("HardSigmoid", x, alpha=0.2, beta=0.4))))
    assert not hard_sigmoids(view)


def test_with_a_float_layer_around_it_hard_swish_is_float(photos_like):
    view = with_hard_sigmoids(View(network(as_one)))
    whole = calibrate(view, Scheme(runtime="onnxruntime", choose=mse.choose), [photos_like])
    (gate,) = whole.placement.hard_sigmoids.values()
    for name in gate.nodes:
        made = whole.graph([name])
        assert "HardSigmoid" in kinds(made)
        close(run(made, photos_like), run(view.model, photos_like))
    assert "HardSigmoid" not in kinds(whole.graph())


@pytest.mark.parametrize("runtime", ["openvino", "tensorrt"])
def test_other_runtimes_keep_their_own_way(runtime, photos_like):
    view = with_hard_sigmoids(View(network(as_one)))
    assert "HardSigmoid" in kinds(quantized(view.model, runtime, photos_like))


def test_scales_that_were_trained_bind_nothing():
    view = with_hard_sigmoids(View(network(as_one)))
    edges = place(view, "onnxruntime").edges
    scheme = Scheme(runtime="onnxruntime", trained=dict.fromkeys(edges, (0.05, 128)))
    assert "HardSigmoid" in kinds(calibrate(view, scheme, []).graph())


def test_logits_that_are_hard_sigmoids_stay_float(photos_like):
    """Of a classifier with several labels: behind a Flatten, or before a Softmax."""
    for after in ("Flatten", "Softmax"):
        b = Builder()
        x = b.node("Flatten", b.node("GlobalAveragePool", b.node("Relu", b.conv("images", 3, 8))))
        weight = b.constant(b.random.normal(0, 4, (5, 8)).astype(np.float32))
        x = b.node("HardSigmoid", b.node("Gemm", x, weight, transB=1), alpha=1 / 6, beta=0.5)
        before = clean(b.model(b.node(after, x)))
        made = quantized(before, "onnxruntime", photos_like)
        assert "HardSigmoid" in kinds(made)
        np.testing.assert_allclose(run(made, photos_like), run(before, photos_like), atol=0.05)


def test_a_hard_sigmoid_that_nothing_reads_does_no_harm(photos_like):
    b = Builder()
    x = b.node("Relu", b.conv("images", 3, 8))
    b.node("HardSigmoid", b.conv(x, 8, 8), alpha=1 / 6, beta=0.5)
    quantized(clean(b.model(b.head(x, 8))), "onnxruntime", photos_like)


def test_what_moves_the_values_keeps_their_scale(photos_like, tmp_path):
    """Squeeze and excitation with a matrix product: its result gets the axes of images by a Reshape."""
    b = Builder()
    x = b.node("Relu", b.conv("images", 3, 8))
    s = b.node("Flatten", b.node("GlobalAveragePool", x))
    s = b.node("Gemm", s, b.constant(b.random.normal(0, 3, (8, 8)).astype(np.float32)), transB=1)
    gate = b.node("HardSigmoid", s, alpha=1 / 6, beta=0.5)
    gate = b.node("Reshape", gate, b.constant(np.array([-1, 8, 1, 1], np.int64)))
    before = clean(b.model(b.head(b.node("Relu", b.conv(b.node("Mul", x, gate), 8, 16)), 16)))
    found = calibrate(View(before), Scheme(runtime="onnxruntime"), [photos_like])
    (name,) = found.placement.hard_sigmoids
    scales = found.scales()
    assert scales[name] == scales[View(before).readers(name)[0].output[0]]
    assert optimized(found.graph(), tmp_path)["QLinearMul"] == 1
    close(run(found.graph(), photos_like), run(before, photos_like))


def test_a_clip_far_from_zero_is_no_part_of_it(photos_like):
    def bounded(b, x):
        return b.node("HardSwish", b.node("Clip", x, b.constant(np.float32(-10)), b.constant(np.float32(10))))

    before = network(bounded, size=30.0)
    after = with_hard_sigmoids(View(before)).model
    np.testing.assert_allclose(run(after, photos_like), run(before, photos_like), atol=1e-4)
    assert "Clip" in kinds(after)


def test_names_of_nodes_are_taken_by_none_twice(photos_like):
    def named(b, x):
        y = b.node("HardSwish", x)
        b.nodes[-1].name = "act"
        z = b.node("Neg", y)
        b.nodes[-1].name = "act_gate"
        return b.node("Neg", z)

    run(with_hard_sigmoids(View(network(named))).model, photos_like)


def test_what_goes_on_in_float_is_not_rounded_in_between(photos_like):
    """A factor and a shift after hard swish, as in PP-LCNet, where the next layer's border keeps them apart."""
    before = network(lambda b, x: b.node("Add", b.node("HardSwish", x), b.constant(np.float32(0.7))))
    made = quantized(with_hard_sigmoids(View(before)).model, "onnxruntime", photos_like)
    assert "HardSigmoid" in kinds(made)
    close(run(made, photos_like), run(before, photos_like))


def test_training_for_8_bits_binds_no_scale(photos_like):
    view = with_hard_sigmoids(View(network(as_one)))
    scheme = Scheme(runtime="onnxruntime", integer_hard_sigmoids=False)
    assert not calibrate(view, scheme, [photos_like]).placement.hard_sigmoids


def test_behind_a_convolution_that_stays_float_hard_swish_does_too(photos_like):
    """Groups of few channels are slow in 8 bits: what they give is not rounded before hard swish."""
    before = network(lambda b, x: b.node("HardSwish", b.conv(x, 16, 16, group=4)))
    made = quantized(with_hard_sigmoids(View(before)).model, "onnxruntime", photos_like)
    assert "HardSigmoid" in kinds(made)
    close(run(made, photos_like), run(before, photos_like))
