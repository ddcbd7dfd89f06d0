"""What each quantizer makes of a distribution with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from tlopt.quantization.calibration.histogram import Histogram, mean_squares
from tlopt.quantization.grid import INT8, UINT8
from tlopt.quantization.quantizers import entropy, minmax, mse, percentile


def histogram(values: np.ndarray) -> Histogram:
    found = Histogram()
    found.add(values.astype(np.float32))
    return found


def test_minmax_keeps_the_outlier():
    assert minmax.choose(histogram(np.array([-1.0, 0.5, 100.0])), UINT8) == (-1.0, 100.0)


def test_percentile_leaves_one_value_in_ten_thousand_outside():
    values = np.linspace(0, 1, 100_001)[1:]
    low, high = percentile.choose(histogram(values), UINT8)
    assert low == 0
    assert abs((values > high).mean() - 1e-4) < 5e-4  # a bin of the histogram holds 1/2048 of the range


def test_mse_and_entropy_clip_a_lone_outlier():
    values = np.append(np.random.default_rng(0).normal(0, 1, 100_000), 30)
    for quantizer in (mse, entropy):
        low, high = quantizer.choose(histogram(values), INT8)
        assert 3 < max(-low, high) < 22


def test_mse_finds_the_range_that_a_search_over_the_values_finds():
    values = np.random.default_rng(1).laplace(0, 1, 20_000)
    found = mse.choose(histogram(values), INT8)
    largest = np.abs(values).max()

    def error(limit: float) -> float:
        return float(np.square(values - INT8.fit(-limit, limit).rounded(values)).mean())

    best = min(error(share * largest) for share in np.linspace(0.1, 1, 200))
    assert error(max(-found[0], found[1])) < 1.02 * best


def test_mse_spends_no_levels_on_what_the_activation_makes_alike():
    """SiLU of -20 is 0, as that of -10: the range ends where its answers do."""
    values = np.random.default_rng(2).normal(-4, 6, 20_000)
    plain, silu = histogram(values), histogram(values)
    silu.function = lambda x: x / (1 + np.exp(-x))
    low, high = mse.choose(silu, UINT8)
    assert mse.choose(plain, UINT8)[0] < -15
    assert -9 < low < -3

    def error(bounds: tuple[float, float]) -> float:
        rounded = UINT8.fit(*bounds).rounded(values)
        return float(np.square(silu.seen(values) - silu.seen(rounded)).mean())

    assert error((low, high)) < 0.6 * error(mse.choose(plain, UINT8))


def test_mse_does_not_give_the_range_to_one_image_that_is_far_larger_than_the_others():
    """Its squared error would count for that of ten thousand others, which would get two levels."""
    values = np.random.default_rng(3).normal(0, 1, (64, 1000))
    values[7] *= 100
    high = mse.choose(histogram(values), INT8)[1]
    usual = np.delete(values, 7, axis=0)
    error = usual - INT8.fit(-high, high).rounded(usual)
    assert 10 * np.log10(np.square(usual).mean() / np.square(error).mean()) > 20


def test_images_of_about_the_same_size_all_count_in_full():
    values = np.random.default_rng(4).normal(0, 1, (64, 1000)).astype(np.float32)
    found = histogram(values)
    found.add(np.zeros((3, 1000), np.float32))  # images of nothing have no values to count
    assert 0.95 < found.weights.sum() / found.counts.sum() <= 1
    assert found.weights_of(np.array([0.0, 0.5, 100.0])).tolist() == pytest.approx([1, 1, 0.01], rel=0.1)


def test_a_large_tensor_that_shares_a_scale_keeps_its_weight():
    random = np.random.default_rng(5)
    small, large = histogram(random.normal(0, 1, (32, 500))), histogram(random.normal(0, 10, (32, 500)))
    weights = small.weights.sum() + large.weights.sum()
    small.merge(large)
    assert small.weights.sum() == pytest.approx(weights)
    assert small.counts.sum() == 2 * 32 * 500


def test_the_rows_of_an_image_are_weighed_together():
    """Tokens (n * t, c) and windows lie image after image."""
    values = np.random.default_rng(6).normal(0, 1, (6, 4, 50)).astype(np.float32)
    values[2] *= 10
    squares = np.square(values.astype(np.float64)).mean((1, 2))
    np.testing.assert_allclose(mean_squares(values.reshape(24, 50), images=6), squares)
    assert mean_squares(values.transpose(1, 0, 2), images=6).shape == (1,)  # what cannot be told apart is one
    assert mean_squares(np.zeros((0, 5), np.float32), images=2).shape == (0,)


def test_an_image_whose_few_values_are_not_looked_at_keeps_them_out_of_no_class():
    found = Histogram()
    found.add(np.zeros((4, 10), np.float32))
    found.add(np.full((4, 10), 1e-6, np.float32))
    assert found.weights.sum() == pytest.approx(40)
