"""The arithmetic of Q/DQ pairs, against ONNX's own operators."""

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tlopt.quantization.grid import INT8, TINY, UINT8
from tlopt.quantization.weight_grids import LIMIT, REDUCED, channel_scale, quantize_weight

LIMITED = {"allow_nan": False, "allow_infinity": False, "width": 32}
REALS = st.floats(-1e6, 1e6, **LIMITED)
VALUES = arrays(np.float32, st.integers(1, 20), elements=REALS)
WEIGHTS = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-1e3, 1e3, **LIMITED))
GRIDS = st.sampled_from([UINT8, INT8])


def through_operators(values, scale):
    """Return what a QuantizeLinear and a DequantizeLinear make of the values, by ONNX's reference."""
    kind = {np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8}[scale.grid.dtype.type]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [scale.scale]),
            helper.make_tensor("zero", kind, [], [scale.zero]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    onnx.checker.check_model(model)
    return ReferenceEvaluator(model).run(None, {"x": values})[0]


@given(low=REALS, high=REALS, grid=GRIDS)
def test_a_range_is_spanned_and_zero_is_a_level(low, high, grid):
    low, high = min(low, high), max(low, high)
    scale = grid.fit(low, high)
    assert scale.scale >= np.float32(TINY)
    assert grid.low <= scale.zero <= grid.high
    assert scale.rounded(np.zeros(1)).item() == 0
    # Half a step for the nearest level, half for that of zero; the scale itself is a float32.
    reach = scale.scale + 1e-6 * max(-low, high)
    for end in (low, high):
        assert abs(scale.rounded(np.array([end])).item() - end) <= reach


@given(values=VALUES, grid=GRIDS, more=st.floats(0, 2))
def test_inside_the_range_no_value_is_off_by_more_than_half_a_step(values, grid, more):
    scale = grid.fit(float(values.min()) * (1 + more), float(values.max()) * (1 + more))
    levels = values.astype(np.float64) / scale.scale + scale.zero
    inside = (levels >= grid.low) & (levels <= grid.high)
    error = np.abs(scale.rounded(values.astype(np.float64)) - values)
    assert (error[inside] <= scale.scale / 2 * (1 + 1e-6)).all()


@given(values=VALUES, grid=GRIDS)
def test_rounding_twice_changes_nothing_and_keeps_the_order(values, grid):
    scale = grid.fit(float(values.min()), float(values.max()))
    once = scale.rounded(np.sort(values).astype(np.float64))
    np.testing.assert_allclose(scale.rounded(once), once, rtol=1e-12)
    assert (np.diff(once) >= 0).all()


@given(values=VALUES, grid=GRIDS)
def test_the_pair_of_operators_computes_the_same(values, grid):
    scale = grid.fit(float(values.min()), float(values.max()))
    found = through_operators(values, scale)
    expected = scale.rounded(values / np.float32(scale.scale) * np.float64(scale.scale))
    # The quotient in float32 may fall to the other side of a tie: one step, and a float32 of the product.
    off = np.abs(found - expected) / scale.scale
    assert (np.minimum(off, np.abs(off - 1)) < 1e-4).all()


@given(weight=WEIGHTS, axis=st.integers(0, 1), limit=st.sampled_from([LIMIT, REDUCED]))
def test_a_weight_is_off_by_half_a_step_of_its_channel_at_most(weight, axis, limit):
    made = quantize_weight(weight, axis, limit=limit)
    assert made.values.dtype == np.int8
    assert made.scale.shape == (weight.shape[axis],)
    assert np.abs(made.values.astype(int)).max() <= limit
    step = np.expand_dims(channel_scale(weight, axis, limit=limit), 1 - axis)
    assert (np.abs(made.real() - weight) <= step * (0.5 + 1e-4)).all()
    np.testing.assert_array_equal(quantize_weight(-weight, axis, limit=limit).values, -made.values)
