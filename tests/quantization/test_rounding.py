"""Rounding weights by the layer's output error."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tlopt.graphs.view import View
from tlopt.quantization import float8
from tlopt.quantization.calibration.activations import observe
from tlopt.quantization.calibration.moments import Moments, gather, parts
from tlopt.quantization.grid import Grid, Scale
from tlopt.quantization.rounding import round_weight
from tlopt.quantization.weight_grids import FLOAT8, quantize_weight
from tlopt.sessions import open_session

FINE = Scale(grid=Grid(low=-(2**31), high=2**31, symmetric=True), scale=1e-6, zero=0)  # next to no rounding


def correlated(n: int, length: int, random: np.random.Generator) -> np.ndarray:
    mixed = random.normal(0, 1, (n, length // 4)) @ random.normal(0, 1, (length // 4, length))
    return (mixed + random.normal(0, 0.1, (n, length)) + 2).astype(np.float32)


@pytest.mark.parametrize("across", [False, True])
def test_the_output_error_is_far_below_that_of_rounding_each_weight(across):
    random = np.random.default_rng(0)
    inputs = correlated(2000, 64, random)
    weight = random.normal(0, 1, (16, 64)).astype(np.float32)
    moments = Moments.empty(1, 64)
    moments.add(inputs[None], FINE)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=0 if across else 1)
    found = round_weight(node, weight.T.copy() if across else weight, moments, noise=1e-4)
    real = found.real().T if across else found.real()
    assert found.shift is not None
    expected = inputs @ weight.T
    nearest = np.square(expected - inputs @ quantize_weight(weight, 0).real().T).mean()
    rounded = np.square(expected - (inputs @ real.T + found.shift)).mean()
    assert rounded < 0.2 * nearest


def test_eight_bit_floats_are_chosen_by_the_output_error_as_well():
    random = np.random.default_rng(0)
    inputs = correlated(2000, 64, random)
    weight = random.normal(0, 1, (16, 64)).astype(np.float32)
    moments = Moments.empty(1, 64)
    moments.add(inputs[None], FINE)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    found = round_weight(node, weight, moments, noise=0.0, levels=FLOAT8)
    assert found.values.dtype == np.uint8
    assert found.shift is not None
    expected = inputs @ weight.T
    scale = np.abs(weight).max(1, keepdims=True) / float8.LARGEST
    nearest = np.square(expected - inputs @ (float8.nearest(weight / scale) * scale).T).mean()
    rounded = np.square(expected - (inputs @ found.real().T + found.shift)).mean()
    assert rounded < 0.2 * nearest


@pytest.mark.parametrize("groups", [1, 2])
def test_a_patch_too_long_for_its_covariance_is_rounded_in_parts(groups, monkeypatch):
    monkeypatch.setattr("tlopt.quantization.calibration.moments.LONGEST", 40)
    random = np.random.default_rng(0)
    inputs = np.stack([np.concatenate([correlated(2000, 32, random) for _ in range(2)], 1) for _ in range(groups)])
    weight = random.normal(0, 1, (16 * groups, 64)).astype(np.float32)
    moments = Moments.empty(groups, 64)
    for half in np.split(inputs, 2, axis=1):
        moments.add(half, FINE)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups)
    found = round_weight(node, weight.reshape(-1, 64, 1, 1), moments, noise=1e-4)
    assert found.values.shape == (16 * groups, 64, 1, 1)

    def answers(values):
        rows = values.reshape(groups, 16, 64)
        return np.einsum("gnd,god->gno", inputs, rows)

    nearest = np.square(answers(weight) - answers(quantize_weight(weight, 0).real())).mean()
    shift = found.shift.reshape(groups, 1, 16)
    rounded = np.square(answers(weight) - answers(found.real()) - shift).mean()
    assert rounded < 0.2 * nearest


@pytest.mark.parametrize(("length", "count"), [(4608, 1), (9216, 2), (25088, 7), (4621, 1)])  # the last is a prime
def test_parts_are_equal_and_short_enough_where_that_can_be(length, count):
    assert parts(length) == count


def test_a_large_weight_on_a_dead_input_does_not_stretch_the_scale():
    random = np.random.default_rng(0)
    inputs = np.abs(random.normal(0, 1, (1000, 8))).astype(np.float32)
    inputs[:, 3] = 0
    weight = random.normal(0, 1, (4, 8)).astype(np.float32)
    weight[:, 3] = 900
    moments = Moments.empty(1, 8)
    moments.add(inputs[None], FINE)
    found = round_weight(helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), weight, moments, noise=1e-6)
    error = inputs @ weight.T - (inputs @ found.real().T + found.shift)
    assert np.abs(error).max() < 0.5


@pytest.mark.parametrize("nearest", [False, True])
def test_without_a_bias_to_undo_it_the_mean_counts(nearest):
    random = np.random.default_rng(0)
    inputs = random.normal(0, 1, (1000, 8)).astype(np.float32)
    inputs[:, 3] = 5  # it never varies
    weight = random.normal(0, 1, (4, 8)).astype(np.float32)
    weight[:, 3] = 90
    moments = Moments.empty(1, 8)
    moments.add(inputs[None], FINE)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    found = round_weight(node, weight.T.copy(), moments, noise=1e-6, nearest=nearest, shifted=False)
    assert found.shift is None
    error = inputs @ weight.T - inputs @ found.real()
    assert np.abs(error).max() < 0.05 * 90 / 2


def test_moments_are_those_of_the_patches_a_convolution_meets(build, photos_like):
    model = build("mobile")
    view = View(model)
    nodes = [node for node in view.nodes if node.op_type == "Conv"]
    moments = gather(
        view,
        nodes[:2],
        [photos_like[:16], photos_like[16:]],
        {name: FINE for node in nodes for name in node.input},
        seed=0,
    )
    first, depthwise = moments[nodes[0].name], moments[nodes[1].name]
    assert first.mean.shape == (1, 27)
    assert depthwise.mean.shape == (8, 9)
    # All 64 places of the first convolution were looked at: its mean output follows from the moments.
    weight, bias = (view.constant(name) for name in nodes[0].input[1:3])
    from tlopt.quantization.calibration.activations import tapped

    outputs = open_session(tapped(model, [nodes[0].output[0]])).run(None, {"images": photos_like})[0]
    expected = outputs.mean((0, 2, 3))
    np.testing.assert_allclose(weight.reshape(8, 27) @ first.mean[0] + bias, expected, atol=1e-4)
    variance = np.einsum("od,de,oe->o", weight.reshape(8, 27), first.second(centered=True)[0], weight.reshape(8, 27))
    np.testing.assert_allclose(variance, outputs.var((0, 2, 3)), rtol=1e-3)


def test_an_image_far_larger_than_the_others_weighs_as_much_as_a_few(build, photos_like):
    view = View(build("mobile"))
    first = next(node for node in view.nodes if node.op_type == "Conv")
    large = photos_like.copy()
    large[5] *= 100
    (seen,) = observe(view, ["images"], [large]).values()

    def found(images, **more):
        return gather(view, [first], [images], {"images": FINE}, seed=0, **more)[first.name]

    usual, weighed, plain = found(photos_like), found(large, histograms={"images": seen}), found(large)
    mean = [moments.rounded_mean / 2 + moments.mean / 2 for moments in (usual, weighed, plain)]
    away = [float(np.abs(one - mean[0]).max()) for one in mean[1:]]
    assert 4 * away[0] < away[1]  # so the bias is not corrected for that image alone
    variance = [float(np.einsum("gii->", moments.second(centered=True))) for moments in (usual, weighed, plain)]
    assert variance[1] < 1.3 * variance[0]
    assert variance[2] > 100 * variance[0]


@pytest.mark.parametrize("spread", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize("shifted", [True, False])
def test_inputs_that_hardly_vary_about_a_large_mean_have_a_sound_covariance(spread, shifted):
    """Black, blank and flat images: what a layer reads is next to constant."""
    random = np.random.default_rng(0)
    mean = random.uniform(-100, 100, 32)
    batches = [(mean + spread * random.normal(0, 1, (500, 32))).astype(np.float32) for _ in range(4)]
    weight = random.normal(0, 1, (8, 32)).astype(np.float32)
    moments = Moments.empty(1, 32)
    for inputs in batches:
        moments.add(inputs[None], FINE)
    every = np.concatenate(batches).astype(np.float64)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    found = round_weight(node, weight, moments, noise=1e-12, shifted=shifted)
    error = every @ weight.T - (every @ found.real().T + (found.shift if shifted else 0))
    # Without a bias only the weights can make up for the mean: to within a step of one of them, times its input.
    assert np.abs(error).max() < (1e-3 if shifted else found.scale.max() * 100)


def test_the_covariance_is_that_of_float64():
    random = np.random.default_rng(0)
    batches = [(1000 + k + random.normal(0, 0.01, (100, 6))).astype(np.float32) for k in range(3)]
    every = np.concatenate(batches).astype(np.float64)
    for centered, expected in ((True, np.cov(every.T, bias=True)), (False, every.T @ every / len(every))):
        moments = Moments.empty(1, 6)
        for inputs in batches:
            moments.add(inputs[None], FINE)
        np.testing.assert_allclose(moments.second(centered=centered)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("broken", [-1.0, np.nan])
def test_a_matrix_that_no_damping_helps_gives_the_nearest_integers(broken, caplog):
    random = np.random.default_rng(0)
    weight = random.normal(0, 1, (4, 8)).astype(np.float32)
    moments = Moments.empty(1, 8)
    moments.add(random.normal(0, 1, (1000, 1, 8)).astype(np.float32).transpose(1, 0, 2), FINE)
    moments.product = np.full((1, 8, 8), broken) * 1e6
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="head", transB=1)
    found = round_weight(node, weight, moments, noise=0.0)
    np.testing.assert_allclose(found.real(), weight, atol=found.scale.max() / 2 + 1e-6)
    assert "the weights of head are rounded to nearest" in caplog.text


def test_a_matrix_that_is_not_positive_definite_is_damped_more(caplog):
    random = np.random.default_rng(0)
    inputs = random.normal(0, 1, (1000, 8)).astype(np.float32)
    moments = Moments.empty(1, 8)
    moments.add(inputs[None], FINE)
    moments.product[0, :2, :2] = [[100, 106], [106, 100]]  # an eigenvalue of -6 of 1,000 patches
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="head", transB=1)
    found = round_weight(node, random.normal(0, 1, (4, 8)).astype(np.float32), moments, noise=0.0)
    assert np.isfinite(found.real()).all()
    assert "nearest" not in caplog.text
