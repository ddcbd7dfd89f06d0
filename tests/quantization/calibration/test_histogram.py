from __future__ import annotations

import numpy as np
import pytest

from tlopt.quantization.calibration.histogram import HALF, SAMPLED, Histogram


def test_counts_are_those_of_one_pass_whatever_the_order():
    random = np.random.default_rng(0)
    parts = [random.normal(0, s, 1000).astype(np.float32) for s in (0.001, 1, 1000)]
    grown, whole = Histogram(), Histogram()
    for part in parts:
        grown.add(part)
    whole.add(np.concatenate(parts))
    assert grown.exponent == whole.exponent
    np.testing.assert_array_equal(grown.counts, whole.counts)
    assert grown.counts.sum() + grown.zeros == 3000


def test_bins_hold_the_values_of_their_interval():
    values = np.random.default_rng(0).uniform(-3, 5, 10_000).astype(np.float32)
    found = Histogram()
    found.add(values)
    edges = (np.arange(-HALF, HALF + 1)) * found.width
    np.testing.assert_array_equal(found.counts, np.histogram(values, edges)[0])


def test_merging_is_counting_together():
    random = np.random.default_rng(0)
    first, second = random.normal(0, 1, 500), random.normal(3, 50, 500)
    one, other, both = Histogram(), Histogram(), Histogram()
    one.add(first)
    other.add(second)
    one.merge(other)
    both.add(np.concatenate([first, second]))
    np.testing.assert_array_equal(one.counts, both.counts)
    assert (one.low, one.high) == (both.low, both.high)


def test_zeros_are_counted_apart():
    found = Histogram()
    found.add(np.array([0, 0, 1, -2], np.float32))
    assert found.zeros == 2
    assert found.counts.sum() == 2


def test_large_tensors_are_sampled_but_their_extremes_are_not_missed():
    values = np.random.default_rng(0).normal(0, 1, 10 * SAMPLED).astype(np.float32)
    values[12345] = 99
    found = Histogram()
    found.add(values)
    assert found.high == 99
    assert found.counts.sum() + found.zeros < 2 * SAMPLED


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        Histogram().add(np.array([1, np.nan], np.float32))


def test_tensors_that_share_a_scale_are_seen_as_they_are():
    """What one is read by need not read the other."""
    one, other = Histogram(function=np.abs), Histogram()
    one.add(np.array([1.0, -2.0], np.float32))
    other.add(np.array([3.0], np.float32))
    one.merge(other)
    assert one.seen(np.array([-1.0])) == -1
